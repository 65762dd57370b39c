// Blocks of 256 weights: sub-blocks have a scale each, and the block has a scale for those scales.
//
// An encoder gets one block in each lane and writes the block's bytes, again one block in each lane.
#pragma once

#include "search.h"

namespace {

constexpr int SUPER = 256;

inline F sum_of_squares(const F *x, int count) {
    F sum = {};
    for (int i = 0; i < count; i++) sum += x[i] * x[i];
    return sum;
}

inline F sum_of(const F *x, int count) {
    F sum = {};
    for (int i = 0; i < count; i++) sum += x[i];
    return sum;
}

// What each of N weights matters: its column's importance times a smoothed magnitude.
template <int N>
inline void weigh(const Group &group, int first, const F *x, F mean_square, F *weight) {
    turn<N>(group.importance, first, weight);
    for (int i = 0; i < N; i++) weight[i] *= square_root(mean_square + x[i] * x[i]);
}

// The levels of two bits each: four quarters of 128 weights share a byte.
inline void put_two_bits(I *bytes, const I *levels, int shift, int mask) {
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 32; i++) {
            const I *level = levels + 128 * half + i;
            I byte = {};
            for (int n = 0; n < 4; n++) byte |= ((level[32 * n] >> shift) & mask) << (2 * n);
            bytes[32 * half + i] = byte;
        }
}

// Levels of four bits each: two neighbouring runs of `run` weights share bytes.
inline void put_four_bits(I *bytes, const I *levels, int count, int run) {
    for (int first = 0; first < count; first += 2 * run)
        for (int i = 0; i < run; i++) {
            const I *level = levels + first + i;
            bytes[first / 2 + i] = (level[0] & 15) | ((level[run] & 15) << 4);
        }
}

// --- Q4_K and Q5_K: eight sub-blocks, each with a scale and a min of six bits.

inline void put_six_bits(I *bytes, const I *scale, const I *min) {
    for (int j = 0; j < 4; j++) {
        bytes[j] = scale[j] | ((scale[j + 4] >> 4) << 6);
        bytes[j + 4] = min[j] | ((min[j + 4] >> 4) << 6);
        bytes[j + 8] = (scale[j + 4] & 15) | ((min[j + 4] & 15) << 4);
    }
    for (int j = 0; j < 12; j++) bytes[j] &= 0xff;
}

inline void take_six_bits(const I *bytes, I *scale, I *min) {
    for (int j = 0; j < 4; j++) {
        scale[j] = bytes[j] & 63;
        min[j] = bytes[j + 4] & 63;
        scale[j + 4] = (bytes[j + 8] & 15) | ((bytes[j] >> 6) << 4);
        min[j + 4] = (bytes[j + 8] >> 4) | ((bytes[j + 4] >> 6) << 4);
    }
}

// N positive numbers as levels of 0 to TOP, and their scale: the plain way, by the largest.
template <int N, int TOP> inline F scale_plainly(const F *values, I *levels, bool is_limited) {
    F most = {};
    for (int j = 0; j < N; j++) most = larger(values[j], most);
    const F inverse = most > 0 ? float(TOP) / most : F{};
    for (int j = 0; j < N; j++) {
        const I level = nearest(inverse * values[j]) & 0xff;
        levels[j] = is_limited ? smaller(level, TOP + I{}) : level;
    }
    return most / float(TOP);
}

// Levels of a sub-block by its stored scale; by the search's where that scale is 0.
template <int N, int TOP>
inline void round_affine(const F *x, const Affine &found, F scale, F min, I *levels) {
    const I unscaled = scale == 0;
    for (int i = 0; i < N; i++) levels[i] = limited(nearest((x[i] + min) / scale), 0, TOP);
    if (!any(unscaled)) return;
    for (int i = 0; i < N; i++)
        levels[i] = unscaled ? affine_level<TOP>(found, x[i]) : levels[i];
}

template <int TOP> void encode_k45(const Group &group, I *bytes) {
    F x[SUPER], weight[32], scales[8], mins[8], sums[8];
    Affine found[8];
    turn<SUPER>(group.weights, 0, x);
    const F mean_square = 2.0f * sum_of_squares(x, SUPER) / float(SUPER);
    const Tries plain = TOP == 15 ? Tries{-1.0f, 0.1f, 21} : Tries{-0.5f, 0.1f, 16};
    for (int j = 0; j < 8; j++) {
        const F *part = x + 32 * j;
        if (group.weighed) {
            weigh<32>(group, 32 * j, part, mean_square, weight);
        } else {
            const F mean = square_root(sum_of_squares(part, 32) / 32.0f);
            for (int i = 0; i < 32; i++) weight[i] = mean + absolute(part[i]);
        }
        sums[j] = sum_of(weight, 32);
        found[j] = search_affine<32, TOP, false>(
            part, weight, group.weighed ? Tries{-0.9f, 0.05f, 37} : plain);
        scales[j] = found[j].scale;
        mins[j] = -found[j].min;
    }
    I scale[8], min[8];
    F d, d_min;
    if (group.weighed) {
        d = search_positive<8, 63>(scales, sums, scale);
        d_min = search_positive<8, 63>(mins, sums, min);
        if (TOP == 31)
            for (int j = 0; j < 8; j++) {
                scale[j] = smaller(scale[j], 63 + I{});
                min[j] = smaller(min[j], 63 + I{});
            }
    } else {
        d = scale_plainly<8, 63>(scales, scale, true);
        d_min = scale_plainly<8, 63>(mins, min, true);
    }
    const I d_bits = half_bits(d), d_min_bits = half_bits(d_min);
    put_half(bytes, d_bits);
    put_half(bytes + 2, d_min_bits);
    put_six_bits(bytes + 4, scale, min);
    take_six_bits(bytes + 4, scale, min);
    I levels[SUPER];
    for (int j = 0; j < 8; j++)
        round_affine<32, TOP>(x + 32 * j, found[j], half_value(d_bits) * to_float(scale[j]),
                              half_value(d_min_bits) * to_float(min[j]), levels + 32 * j);
    if (TOP == 31)
        for (int i = 0; i < 32; i++) {
            I high = {};
            for (int j = 0; j < 8; j++) high |= (levels[32 * j + i] >> 4) << j;
            bytes[16 + i] = high;
        }
    put_four_bits(bytes + (TOP == 31 ? 48 : 16), levels, SUPER, 32);
}

// --- Q2_K: sixteen sub-blocks, each with a scale and a min of four bits.

void encode_q2_k(const Group &group, I *bytes) {
    F x[SUPER], weight[16], scales[16], mins[16], sums[16];
    Affine found[16];
    turn<SUPER>(group.weights, 0, x);
    const F mean_square = sum_of_squares(x, SUPER) / float(SUPER);
    for (int j = 0; j < 16; j++) {
        const F *part = x + 16 * j;
        if (group.weighed) {
            weigh<16>(group, 16 * j, part, mean_square, weight);
            found[j] = search_affine<16, 3, false>(part, weight, Tries{-0.9f, 0.05f, 37});
        } else {
            for (int i = 0; i < 16; i++) weight[i] = absolute(part[i]);
            found[j] = search_affine<16, 3, true>(part, weight, Tries{-0.5f, 0.1f, 16});
        }
        sums[j] = sum_of(weight, 16);
        scales[j] = found[j].scale;
        mins[j] = -found[j].min;
    }
    I scale[16], min[16];
    F d, d_min;
    if (group.weighed) {
        d = search_positive<16, 15>(scales, sums, scale);
        d_min = search_positive<16, 15>(mins, sums, min);
    } else {
        d = scale_plainly<16, 15>(scales, scale, false);
        d_min = scale_plainly<16, 15>(mins, min, false);
    }
    const I d_bits = half_bits(d), d_min_bits = half_bits(d_min);
    put_half(bytes + 80, d_bits);
    put_half(bytes + 82, d_min_bits);
    I levels[SUPER];
    for (int j = 0; j < 16; j++) {
        bytes[j] = (scale[j] | (min[j] << 4)) & 0xff;
        round_affine<16, 3>(x + 16 * j, found[j], half_value(d_bits) * to_float(bytes[j] & 15),
                            half_value(d_min_bits) * to_float(bytes[j] >> 4), levels + 16 * j);
    }
    put_two_bits(bytes + 16, levels, 0, 3);
}

// --- Q3_K and Q6_K: sixteen sub-blocks, each with a signed scale, and no min.

template <int HALF> inline void round_linear(const F *x, F scale, I *levels) {
    const I scaled = scale != 0;
    for (int i = 0; i < 16; i++) {
        const I level = limited(nearest(x[i] / scale), -HALF, HALF - 1) + HALF;
        levels[i] = scaled ? level : levels[i];
    }
}

void encode_q6_k(const Group &group, I *bytes) {
    F x[SUPER], weight[16], scales[16];
    Linear found[16];
    turn<SUPER>(group.weights, 0, x);
    for (int j = 0; j < 16; j++) {
        const F *part = x + 16 * j;
        if (group.weighed) turn<16>(group.importance, 16 * j, weight);
        else
            for (int i = 0; i < 16; i++) weight[i] = part[i] * part[i];
        found[j] = search_linear<16, 32, true>(part, weight);
        scales[j] = found[j].scale;
    }
    const Peak peak = peak_of<16>(scales);
    const I none = peak.magnitude < TINY;
    const F inverse = -128.0f / peak.value;
    const I d_bits = half_bits(1.0f / inverse);
    put_half(bytes + 208, d_bits);
    I levels[SUPER];
    for (int j = 0; j < 16; j++) {
        const I scale = (smaller(nearest(inverse * scales[j]), 127 + I{}) << 24) >> 24;
        const F d = half_value(d_bits) * to_float(scale);
        bytes[192 + j] = scale & 0xff;
        if (any(d == 0))
            for (int i = 0; i < 16; i++)
                levels[16 * j + i] = linear_level<32>(found[j], x[16 * j + i]);
        round_linear<32>(x + 16 * j, d, levels + 16 * j);
    }
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 64; i++) {
            const I *level = levels + 128 * half + i;
            bytes[64 * half + i] = (level[0] & 15) | ((level[64] & 15) << 4);
        }
    put_two_bits(bytes + 128, levels, 4, 3);
    if (any(none))
        for (int i = 0; i < 210; i++) bytes[i] = none ? I{} : bytes[i];
}

// Sixteen scales of six bits: four low bits of two scales share a byte, then two high bits of four.
inline void put_signed_six_bits(I *bytes, const I *scale) {
    for (int j = 0; j < 8; j++) bytes[j] = (scale[j] & 15) | ((scale[j + 8] & 15) << 4);
    for (int j = 0; j < 4; j++) {
        bytes[8 + j] = I{};
        for (int n = 0; n < 4; n++) bytes[8 + j] |= (scale[4 * n + j] >> 4) << (2 * n);
    }
}

void encode_q3_k(const Group &group, I *bytes) {
    F x[SUPER], scales[16];
    I levels[SUPER], scale[16];
    turn<SUPER>(group.weights, 0, x);
    F d;
    if (group.weighed) {
        F weight[16], sums[16];
        const F mean_square = 2.0f * sum_of_squares(x, SUPER) / float(SUPER);
        for (int j = 0; j < 16; j++) {
            const F *part = x + 16 * j;
            weigh<16>(group, 16 * j, part, mean_square, weight);
            sums[j] = sum_of(weight, 16);
            const Linear found = search_linear<16, 4, true>(part, weight);
            for (int i = 0; i < 16; i++) levels[16 * j + i] = linear_level<4>(found, part[i]);
            scales[j] = found.scale;
        }
        const Linear found = search_linear<16, 32, false>(scales, sums);
        for (int j = 0; j < 16; j++) scale[j] = linear_level<32>(found, scales[j]);
        d = found.scale;
    } else {
        for (int j = 0; j < 16; j += 4)
            search_refined<4, 16, 4>(x + 16 * j, scales + j, levels + 16 * j);
        const F peak = peak_of<16>(scales).value;
        const I none = peak == 0;
        const F inverse = -32.0f / peak;
        for (int j = 0; j < 16; j++) {
            const I level = (nearest(inverse * scales[j]) << 24) >> 24;
            scale[j] = none ? I{} : limited(level, -32, 31) + 32;
        }
        d = none ? F{} : 1.0f / inverse;
    }
    const I d_bits = half_bits(d);
    put_half(bytes + 108, d_bits);
    put_signed_six_bits(bytes + 96, scale);
    for (int j = 0; j < 16; j++)
        round_linear<4>(x + 16 * j, half_value(d_bits) * to_float(scale[j] - 32), levels + 16 * j);
    for (int i = 0; i < 32; i++) {
        I high = {};
        for (int j = 0; j < 8; j++) high |= (levels[32 * j + i] >> 2) << j;
        bytes[i] = high;
    }
    put_two_bits(bytes + 32, levels, 0, 3);
}

}  // namespace
