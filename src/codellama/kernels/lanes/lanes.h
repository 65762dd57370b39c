// Vectors with one block of weights in each lane, and the few operations on them that C++ does not spell.
//
// LANES is 16, 8 or 4. Every source is compiled once for each, so all of this is local to a source.
// GCC and Clang turn comparisons of such vectors into masks (0 or -1 in each lane), and `mask ? a : b`
// into a selection by lane; C has no such selection, which is why this is C++.
#pragma once

#include <stdint.h>
#include <string.h>

namespace {

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));

// Below this a group of weights counts as zeros.
constexpr float TINY = 1e-15f;

// 1.5 * 2^23: the sum of it and a number of less than 2^22 has that number, rounded, in its low bits.
constexpr float ROUNDER = 12582912.0f;
constexpr float ROUNDABLE = 4194303.0f;

inline F all(float value) { return value - F{}; }

inline F to_float(I value) { return __builtin_convertvector(value, F); }

// Cut off behind the point; what no int32 can hold becomes the least of them, as x86 has it.
inline I truncated(F value) { return __builtin_convertvector(value, I); }

inline F absolute(F value) { return (F)((I)value & 0x7fffffff); }

template <class V> inline V smaller(V a, V b) { return a < b ? a : b; }

template <class V> inline V larger(V a, V b) { return a > b ? a : b; }

inline I limited(I value, int least, int most) {
    return larger(smaller(value, most + I{}), least + I{});
}

inline F limited_float(F value, float least, float most) {
    return larger(smaller(value, all(most)), all(least));
}

inline bool any(I mask) {
    int64_t halves[LANES / 2], found = 0;
    memcpy(halves, &mask, sizeof mask);
    for (int64_t half : halves) found |= half;
    return found != 0;
}

inline F square_root(F value) {
    F root;
    for (int k = 0; k < LANES; k++) root[k] = __builtin_sqrtf(value[k]);
    return root;
}

// The nearest integer, half to even, as ggml makes it: also what it makes of numbers that are too large.
inline I nearest(F value) { return ((I)(value + ROUNDER) & 0x007fffff) - 0x00400000; }

// The same as a float, for numbers within ROUNDABLE only.
inline F nearest_float(F value) { return (value + ROUNDER) - ROUNDER; }

inline I within_rounding(F value) { return absolute(value) <= ROUNDABLE; }

// Bits of a half-precision float, rounded half to even; infinity beyond its range.
inline I half_bits(F value) {
    const F base = (absolute(value) * 0x1p+112f) * 0x1p-110f;
    const I bits = (I)value, twice = bits << 1;
    // The exponent as an unsigned byte, no less than that of 2^-14, where halves stop being normal.
    const I exponent = larger((bits >> 23) & 0xff, 0x71 + I{});
    const F shifted = (F)((exponent << 23) + 0x07800000) + base;
    const I magnitude = (((I)shifted >> 13) & 0x7c00) + ((I)shifted & 0x0fff);
    const I nan = (twice > (int32_t)0xff000000) & (twice < 0);
    return ((bits >> 16) & 0x8000) | (nan ? 0x7e00 + I{} : magnitude);
}

// The number that such bits stand for.
inline F half_value(I bits) {
    const I magnitude = (bits & 0x7fff) << 13;
    const F normal = (F)(magnitude + (112 << 23));
    const F subnormal = (F)((126 << 23) + (bits & 0x03ff)) - 0.5f;
    // Where the exponent is 0, the ten bits count 2^-24: added to the last bits of 0.5 they do the same.
    const F value = (bits & 0x7c00) == 0 ? subnormal : normal;
    const F special = (bits & 0x7c00) == 0x7c00 ? (F)(magnitude + (224 << 23)) : value;
    return (F)((I)special | ((bits & 0x8000) << 16));
}

// Weights of LANES blocks: where each begins, the importance of its columns if there is one, and the
// mean square of its whole row, which only some types ask for.
struct Group {
    const float *weights[LANES];
    const float *importance[LANES];
    F row_mean_square;
    bool weighed;
};

// `count` weights from `first` on, turned so that each lane has its own block.
template <int COUNT> inline void turn(const float *const *blocks, int first, F *out) {
    for (int i = 0; i < COUNT; i++)
        for (int k = 0; k < LANES; k++) out[i][k] = blocks[k][first + i];
}

inline void put_half(I *bytes, I bits) {
    bytes[0] = bits & 0xff;
    bytes[1] = bits >> 8;
}

}  // namespace
