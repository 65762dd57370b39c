// IQ4_NL and IQ4_XS: sixteen levels that do not lie evenly, denser around zero.
#pragma once

#include "small_blocks.h"

namespace {

constexpr int8_t VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                               1,    13,   25,  38,  53,  69,  89,  113};

// Where a number is as near to a value as to the next one; it then belongs to the next.
constexpr float border(int n) { return (VALUES[n - 1] + VALUES[n]) * 0.5f; }

// The index of the nearest value.
inline I uneven_level(F x) {
    I level = {};
    for (int n = 1; n < 16; n++) level -= ~(x < border(n));
    return level;
}

// The nearest value itself: a sum of steps costs less than a look-up in a table.
inline F uneven_value(F x) {
    F value = all(VALUES[0]);
    for (int n = 1; n < 16; n++) value = x < border(n) ? value : all(VALUES[n]);
    return value;
}

inline F search_uneven(const F *x, const F *weight) {
    const Peak peak = peak_of<SMALL>(x);
    F best = {}, best_product = {};
    for (int n = -8; n <= 7; n++) {
        // The first try is the plain one; the others lie around it.
        const F plain = 1.0f / (-peak.value / float(VALUES[0]));
        const F inverse = n == -8 ? plain : float(n + VALUES[0]) / peak.value;
        F product = {}, square = {};
        for (int i = 0; i < SMALL; i++) {
            const F value = uneven_value(inverse * x[i]);
            const F weighed = weight[i] * value;
            product += weighed * x[i];
            square += weighed * value;
        }
        const F scale = product / square;
        const I usable = square > 0;
        if (n == -8) {
            best = usable ? scale : F{};
            best_product = best * product;
        } else {
            const I better = usable & (product * product > best_product * square);
            best = better ? scale : best;
            best_product = better ? scale * product : best_product;
        }
    }
    return peak.magnitude < TINY ? F{} : best;
}

inline F uneven_scale(const Group &group, int first, const F *x, F mean_square) {
    F weight[SMALL];
    if (group.weighed) weigh<SMALL>(group, first, x, mean_square, weight);
    else
        for (int i = 0; i < SMALL; i++) weight[i] = x[i] * x[i];
    return search_uneven(x, weight);
}

inline F reciprocal_or_zero(F value) { return value != 0 ? 1.0f / value : F{}; }

void encode_iq4_nl(const Group &group, I *bytes) {
    F x[SMALL];
    I levels[SMALL];
    turn<SMALL>(group.weights, 0, x);
    const F scale = uneven_scale(group, 0, x, sum_of_squares(x, SMALL) * (2.0f / SMALL));
    const F inverse = reciprocal_or_zero(scale);
    put_half(bytes, half_bits(scale));
    for (int i = 0; i < SMALL; i++) levels[i] = uneven_level(inverse * x[i]);
    put_four_bits(bytes + 2, levels, SMALL, 16);
}

void encode_iq4_xs(const Group &group, I *bytes) {
    F x[SUPER], scales[8];
    I levels[SUPER];
    turn<SUPER>(group.weights, 0, x);
    const F mean_square = sum_of_squares(x, SUPER) * (2.0f / SUPER);
    for (int j = 0; j < 8; j++) scales[j] = uneven_scale(group, 32 * j, x + 32 * j, mean_square);
    const F d = -peak_of<8>(scales).value / 32.0f;
    const F inverse = reciprocal_or_zero(d);
    put_half(bytes, half_bits(d));
    for (int n = 2; n < 8; n++) bytes[n] = I{};
    for (int j = 0; j < 8; j++) {
        const I scale = limited(nearest(inverse * scales[j]), -32, 31);
        const F part = reciprocal_or_zero(d * to_float(scale));
        for (int i = 0; i < SMALL; i++)
            levels[32 * j + i] = uneven_level(part * x[32 * j + i]);
        bytes[2 + j / 4] |= ((scale + 32) >> 4) << (2 * (j % 4));
        bytes[4 + j / 2] |= ((scale + 32) & 15) << (4 * (j % 2));
    }
    put_four_bits(bytes + 8, levels, SUPER, 16);
}

}  // namespace
