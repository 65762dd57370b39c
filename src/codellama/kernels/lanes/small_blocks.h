// Blocks of 32 weights, each with its own scale: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.
#pragma once

#include "super_blocks.h"

namespace {

constexpr int SMALL = 32;

// Levels of five bits: four of them as in Q4_0, the fifth bits of all as one little-endian number.
inline void put_small(I *bytes, const I *levels, bool five_bits) {
    if (five_bits) {
        for (int n = 0; n < 4; n++) {
            bytes[n] = I{};
            for (int i = 0; i < 8; i++) bytes[n] |= ((levels[8 * n + i] >> 4) & 1) << i;
        }
        bytes += 4;
    }
    put_four_bits(bytes, levels, SMALL, 16);
}

// As an int8, and no more than `most`; what is no number is the least int32, whose low byte is 0.
inline I small_level(F value, int most) {
    return smaller((truncated(value) << 24) >> 24, most + I{});
}

// Q4_0 and Q5_0: levels around zero, the largest weight at the lower end.
template <int HALF> void encode_centred(const Group &group, I *bytes) {
    F x[SMALL], scale;
    I levels[SMALL];
    turn<SMALL>(group.weights, 0, x);
    if (group.weighed) {
        F weight[SMALL];
        weigh<SMALL>(group, 0, x, group.row_mean_square, weight);
        const Linear found = search_linear<SMALL, HALF, true>(x, weight);
        for (int i = 0; i < SMALL; i++) levels[i] = linear_level<HALF>(found, x[i]);
        scale = found.scale;
    } else {
        scale = peak_of<SMALL>(x).value / float(-HALF);
        const F inverse = scale != 0 ? 1.0f / scale : F{};
        for (int i = 0; i < SMALL; i++)
            levels[i] = small_level(x[i] * inverse + (HALF + 0.5f), 2 * HALF - 1);
    }
    put_half(bytes, half_bits(scale));
    put_small(bytes + 2, levels, HALF == 16);
}

// Q4_1 and Q5_1: levels from the least weight on.
template <int TOP> void encode_from_least(const Group &group, I *bytes) {
    F x[SMALL], scale, min;
    I levels[SMALL];
    turn<SMALL>(group.weights, 0, x);
    if (group.weighed) {
        F weight[SMALL];
        weigh<SMALL>(group, 0, x, group.row_mean_square, weight);
        const Affine found = search_affine<SMALL, TOP, false>(x, weight, Tries{-0.9f, 0.05f, 37});
        for (int i = 0; i < SMALL; i++) levels[i] = affine_level<TOP>(found, x[i]);
        scale = found.scale;
        min = found.min;
    } else {
        F most = all(-__FLT_MAX__);
        min = all(__FLT_MAX__);
        for (int i = 0; i < SMALL; i++) {
            min = smaller(x[i], min);
            most = larger(x[i], most);
        }
        scale = (most - min) / float(TOP);
        const F inverse = scale != 0 ? 1.0f / scale : F{};
        for (int i = 0; i < SMALL; i++) {
            const F value = (x[i] - min) * inverse + 0.5f;
            levels[i] = TOP == 15 ? small_level(value, TOP) : truncated(value) & 0xff;
        }
    }
    put_half(bytes, half_bits(scale));
    put_half(bytes + 2, half_bits(min));
    put_small(bytes + 4, levels, TOP == 31);
}

void encode_q8_0(const Group &group, I *bytes) {
    F x[SMALL], most = {};
    turn<SMALL>(group.weights, 0, x);
    for (int i = 0; i < SMALL; i++) most = larger(most, absolute(x[i]));
    const F scale = most / 127.0f;
    const F inverse = scale != 0 ? 1.0f / scale : F{};
    put_half(bytes, half_bits(scale));
    for (int i = 0; i < SMALL; i++) {
        const F value = x[i] * inverse;
        // Half away from zero: the float below 0.5 is added, so that nothing below a half gets over it.
        const F shift = (F)(((I)value & (int32_t)0x80000000) | (I)all(0x1.fffffep-2f));
        bytes[2 + i] = truncated(value + shift) & 0xff;
    }
}

}  // namespace
