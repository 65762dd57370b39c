// The searches behind the types: scales that lose least, tried side by side for one block in each lane.
//
// What decides about equal bytes is the order of the operations, which is that of ggml's reference code
// (make_qkx2_quants, make_qkx3_quants, make_qx_quants, make_q3_quants, make_qp_quants). What is a branch
// there is a selection here. Nothing may be contracted to a fused multiply-add.
//
// A search returns what its best levels were made with, not the levels: most types round again with the
// stored scale, and ask for the search's own levels only where that scale is zero.
#pragma once

#include "lanes.h"

namespace {

// weight = scale * level + min, level = nearest(inverse * (weight - base)) within 0 to TOP. Where all
// weights are equal `flat` is set, and all levels are 0.
struct Affine {
    F scale, min, inverse, base;
    I flat;
};

struct Tries {
    float first, step;
    int count;
};

template <int TOP> inline I affine_level(const Affine &found, F weight) {
    const I level = limited(nearest(found.inverse * (weight - found.base)), 0, TOP);
    return found.flat ? I{} : level;
}

// The level as a float. SAFE says that no number is too large to round in one step.
template <int FLOOR, int CEILING, bool SAFE> inline F level_of(F value) {
    if (SAFE) return limited_float(nearest_float(value), FLOOR, CEILING);
    return to_float(limited(nearest(value), FLOOR, CEILING));
}

template <bool ABSOLUTE> inline F loss(F difference) {
    return ABSOLUTE ? absolute(difference) : difference * difference;
}

struct Sums {
    F level, square, product;
};

template <int N, int TOP, bool SAFE>
inline Sums affine_sums(const F *x, const F *weight, F inverse, F min, F *levels) {
    Sums sums = {};
    for (int i = 0; i < N; i++) {
        const F level = level_of<0, TOP, SAFE>(inverse * (x[i] - min));
        const F weighed = weight[i] * level;
        levels[i] = level;
        sums.level += weighed;
        sums.square += weighed * level;
        sums.product += weighed * x[i];
    }
    return sums;
}

template <int N, bool ABSOLUTE>
inline F affine_loss(const F *x, const F *weight, const F *levels, F scale, F min) {
    F sum = {};
    for (int i = 0; i < N; i++) sum += weight[i] * loss<ABSOLUTE>(scale * levels[i] + min - x[i]);
    return sum;
}

// Scale and min of N weights, of which `weight` says how much each matters.
template <int N, int TOP, bool ABSOLUTE>
inline Affine search_affine(const F *x, const F *weight, Tries tries) {
    F least = x[0], most = x[0], sum_w = weight[0], sum_x = sum_w * x[0];
    for (int i = 1; i < N; i++) {
        least = smaller(x[i], least);
        most = larger(x[i], most);
        sum_w += weight[i];
        sum_x += weight[i] * x[i];
    }
    Affine best;
    best.min = best.base = least > 0 ? F{} : least;
    best.flat = most == best.min;
    best.inverse = float(TOP) / (most - best.min);
    best.scale = 1.0f / best.inverse;
    F levels[N];
    // Rounding is monotonic, so the outermost weights tell whether any could be too large for it.
    const auto safe = [&](F inverse) {
        const I inside = within_rounding(inverse * (least - best.min)) &
                         within_rounding(inverse * (most - best.min));
        return !any(~(inside | best.flat));
    };
    const auto sums_with = [&](F inverse) {
        return safe(inverse) ? affine_sums<N, TOP, true>(x, weight, inverse, best.min, levels)
                             : affine_sums<N, TOP, false>(x, weight, inverse, best.min, levels);
    };
    sums_with(best.inverse);
    F least_loss = affine_loss<N, ABSOLUTE>(x, weight, levels, best.scale, best.min);
    for (int n = 0; n < tries.count; n++) {
        const float top = tries.first + tries.step * n + TOP;
        const F inverse = top / (most - best.min);
        const Sums sums = sums_with(inverse);
        const F determinant = sum_w * sums.square - sums.level * sums.level;
        F scale = (sum_w * sums.product - sum_x * sums.level) / determinant;
        F min = (sums.square * sum_x - sums.level * sums.product) / determinant;
        const I positive = min > 0;
        scale = positive ? sums.product / sums.square : scale;
        min = positive ? F{} : min;
        const F lost = affine_loss<N, ABSOLUTE>(x, weight, levels, scale, min);
        const I better = (determinant > 0) & (lost < least_loss) & ~best.flat;
        least_loss = better ? lost : least_loss;
        best.inverse = better ? inverse : best.inverse;
        best.base = better ? best.min : best.base;
        best.scale = better ? scale : best.scale;
        best.min = better ? min : best.min;
    }
    best.scale = best.flat ? F{} : best.scale;
    return best;
}

// The weight of the largest magnitude, the first of equals.
struct Peak {
    F value, magnitude;
};

template <int N> inline Peak peak_of(const F *x) {
    Peak peak = {};
    for (int i = 0; i < N; i++) {
        const F magnitude = absolute(x[i]);
        const I more = magnitude > peak.magnitude;
        peak.value = more ? x[i] : peak.value;
        peak.magnitude = more ? magnitude : peak.magnitude;
    }
    return peak;
}

// weight = scale * level, level = nearest(inverse * weight) within -HALF to HALF - 1. Where all weights
// are as good as zero `none` is set, and the scale is 0.
struct Linear {
    F scale, inverse;
    I none;
};

// Levels as they are stored, from 0 on; where there are no weights they are 0 too.
template <int HALF> inline I linear_level(const Linear &found, F weight) {
    const I level = limited(nearest(found.inverse * weight), -HALF, HALF - 1) + HALF;
    return found.none ? I{} : level;
}

// The scale of N numbers. Of finite ones no rounding is of more than HALF + 1, except where `none` is set.
template <int N, int HALF, bool FINITE> inline Linear search_linear(const F *x, const F *weight) {
    const Peak peak = peak_of<N>(x);
    Linear best = {};
    best.none = peak.magnitude < TINY;
    F best_product = {};
    for (int n = -10; n <= 9; n++) {
        if (n == 0) continue;
        // The first try is the plain one; the others lie around it.
        const F inverse = n == -10 ? float(-HALF) / peak.value : -(HALF + 0.1f * n) / peak.value;
        F product = {}, square = {};
        for (int i = 0; i < N; i++) {
            const F level = level_of<-HALF, HALF - 1, FINITE>(inverse * x[i]);
            product += weight[i] * x[i] * level;
            square += weight[i] * level * level;
        }
        const F scale = product / square;
        const I better = (square > 0) & (product * product > best_product * square);
        const I taken = n == -10 ? ~I{} : better;
        best.inverse = taken ? inverse : best.inverse;
        // Without a weight that matters the plain try has no scale, and the product stays 0.
        const F usable = (square == 0) & taken ? F{} : scale;
        best.scale = taken ? usable : best.scale;
        best_product = taken ? usable * product : best_product;
    }
    best.scale = best.none ? F{} : best.scale;
    return best;
}

// One step of `refine`: moves the level of weight i to where it loses least, given all others.
template <int FLOOR, int CEILING, bool BYTES>
inline I move_level(F x, F weight, I &level, F &product, F &square) {
    const F old = to_float(level);
    const F rest = product - weight * x * old;
    const F rest_square = square - weight * old * old;
    const I wanted = nearest(x * rest_square / rest);
    const I next = BYTES ? smaller(wanted, CEILING + I{}) : limited(wanted, FLOOR, CEILING);
    const F moved = rest + weight * x * to_float(next);
    const F moved_square = rest_square + weight * to_float(next) * to_float(next);
    const I open = (rest > 0) & ((BYTES ? rest_square : moved_square) > 0);
    const I better = moved * moved * square > product * product * moved_square;
    const I move = open & (next != level) & better;
    level = move ? (BYTES ? next & 0xff : next) : level;
    product = move ? moved : product;
    square = move ? moved_square : square;
    return move;
}

// Moves single levels, up to five rounds; the sums change with them. M runs of N weights go side by side,
// since each step waits for the one before it. Rounds after one that changed nothing change nothing.
template <int M, int N, int FLOOR, int CEILING, bool BYTES>
inline void refine(const F *x, const F *weight, I *levels, F *product, F *square) {
    for (int round = 0; round < 5; round++) {
        I changed = {};
        for (int i = 0; i < N; i++)
            for (int m = 0; m < M; m++)
                changed |= move_level<FLOOR, CEILING, BYTES>(x[N * m + i], weight[N * m + i],
                                                             levels[N * m + i], product[m], square[m]);
        if (!any(changed)) break;
    }
}

// Scales and levels (from 0 on) of M runs of N weights, which weigh as much as their squares.
template <int M, int N, int HALF> inline void search_refined(const F *x, F *scales, I *levels) {
    F weight[M * N], product[M] = {}, square[M] = {};
    I none[M];
    for (int m = 0; m < M; m++) {
        const Peak peak = peak_of<N>(x + N * m);
        const F inverse = float(-HALF) / peak.value;
        none[m] = peak.magnitude < TINY;
        for (int i = N * m; i < N * m + N; i++) {
            weight[i] = x[i] * x[i];
            levels[i] = limited(nearest(inverse * x[i]), -HALF, HALF - 1);
            product[m] += weight[i] * x[i] * to_float(levels[i]);
            square[m] += weight[i] * to_float(levels[i]) * to_float(levels[i]);
        }
    }
    refine<M, N, -HALF, HALF - 1, false>(x, weight, levels, product, square);
    for (int m = 0; m < M; m++) {
        scales[m] = (square[m] > 0) & ~none[m] ? product[m] / square[m] : F{};
        for (int i = N * m; i < N * m + N; i++) levels[i] = none[m] ? I{} : levels[i] + HALF;
    }
}

// Scale and levels, within 0 to TOP, of N numbers that should be positive. A level is kept as a byte, as
// it is in ggml: below 0, which rounding can make of a number that is negative by accident, it is large.
template <int N, int TOP> inline F search_positive(const F *x, const F *weight, I *levels) {
    F most = {};
    for (int i = 0; i < N; i++) most = larger(most, x[i]);
    const I none = most < TINY;
    F inverse = float(TOP) / most, least_loss = {};
    const F plain = 1.0f / inverse;
    for (int i = 0; i < N; i++) {
        const F difference = x[i] - plain * to_float(nearest(inverse * x[i]) & 0xff);
        least_loss += weight[i] * difference * difference;
    }
    for (int n = -4; n <= 4; n++) {
        if (n == 0) continue;
        const F tried = (0.1f * n + TOP) / most;
        const F scale = 1.0f / tried;
        F lost = {};
        for (int i = 0; i < N; i++) {
            const F difference = x[i] - scale * to_float(smaller(nearest(tried * x[i]), TOP + I{}));
            lost += weight[i] * difference * difference;
        }
        const I better = lost < least_loss;
        least_loss = better ? lost : least_loss;
        inverse = better ? tried : inverse;
    }
    F product = {}, square = {};
    for (int i = 0; i < N; i++) {
        const I level = smaller(nearest(inverse * x[i]), TOP + I{});
        levels[i] = level & 0xff;
        product += weight[i] * x[i] * to_float(level);
        square += weight[i] * to_float(level) * to_float(level);
    }
    refine<1, N, 0, TOP, true>(x, weight, levels, &product, &square);
    for (int i = 0; i < N; i++) levels[i] = none ? I{} : levels[i];
    return (square > 0) & ~none ? product / square : F{};
}

}  // namespace
