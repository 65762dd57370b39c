// Rows of floats as the bytes of a quantized type: LANES blocks at a time, with the encoder of the type.
//
// Compiled once for each number of lanes; ENCODE is the name of the one function that others see.
#include "uneven.h"

namespace {

typedef void Encoder(const Group &group, I *bytes);

struct Type {
    int number, block, bytes;
    Encoder *encode;
    bool by_row;  // whether the importance is smoothed with the whole row
};

// Numbers as in GGUF files.
constexpr Type TYPES[] = {
    {2, SMALL, 18, encode_centred<8>, true},     {3, SMALL, 20, encode_from_least<15>, true},
    {6, SMALL, 22, encode_centred<16>, true},    {7, SMALL, 24, encode_from_least<31>, true},
    {8, SMALL, 34, encode_q8_0, false},          {10, SUPER, 84, encode_q2_k, false},
    {11, SUPER, 110, encode_q3_k, false},        {12, SUPER, 144, encode_k45<15>, false},
    {13, SUPER, 176, encode_k45<31>, false},     {14, SUPER, 210, encode_q6_k, false},
    {20, SMALL, 18, encode_iq4_nl, false},       {23, SUPER, 136, encode_iq4_xs, false},
};

constexpr int MOST_BYTES = 212;  // 210, in whole words

// The bytes of `count` blocks, turned back: four at a time as words, which are then a block's own.
void store(const I *bytes, int n_bytes, int64_t count, uint8_t *out) {
    I words[MOST_BYTES / 4];
    for (int i = 0; i < n_bytes; i += 4)
        words[i / 4] = bytes[i] | (bytes[i + 1] << 8) | (bytes[i + 2] << 16) | (bytes[i + 3] << 24);
    for (int64_t k = 0; k < count; k++) {
        int32_t block[MOST_BYTES / 4];
        for (int i = 0; i < n_bytes; i += 4) block[i / 4] = words[i / 4][k];
        memcpy(out + k * n_bytes, block, n_bytes);
    }
}

float mean_square(const float *row, int64_t count) {
    float sum = 0;
    for (int64_t i = 0; i < count; i++) sum += row[i] * row[i];
    return sum / count;
}

void encode(const Type &type, const float *rows, uint8_t *out, int64_t n_rows, int64_t n_columns,
            const float *importance) {
    const int64_t per_row = n_columns / type.block, total = n_rows * per_row;
    const bool by_row = importance && type.by_row;
    int64_t row = -1;
    float square = 0;
    for (int64_t first = 0; first < total; first += LANES) {
        Group group = {};
        group.weighed = importance != nullptr;
        const int64_t count = total - first < LANES ? total - first : LANES;
        for (int k = 0; k < LANES; k++) {
            // Lanes that are left over repeat the last block.
            const int64_t block = first + (k < count ? k : count - 1);
            group.weights[k] = rows + block * type.block;
            if (importance) group.importance[k] = importance + block % per_row * type.block;
            if (by_row && block / per_row != row) {
                row = block / per_row;
                square = mean_square(rows + row * n_columns, n_columns);
            }
            group.row_mean_square[k] = square;
        }
        I bytes[MOST_BYTES] = {};
        type.encode(group, bytes);
        store(bytes, type.bytes, count, out + first * type.bytes);
    }
}

}  // namespace

extern "C" int ENCODE(int type, const float *rows, uint8_t *out, int64_t n_rows, int64_t n_columns,
                      const float *importance) {
    for (const Type &known : TYPES)
        if (known.number == type && n_columns % known.block == 0) {
            encode(known, rows, out, n_rows, n_columns, importance);
            return 1;
        }
    return 0;
}
