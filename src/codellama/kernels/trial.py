"""Blocks of weights on which two quantizers would differ if they could: of every kind, a few hundred."""

from __future__ import annotations

import functools

import numpy as np

from codellama.native.arrays import Floats

COLUMNS = 3 * 256
"""Not a multiple of any number of lanes, so that vectors reach over the ends of rows."""

_ROWS = 7
_SCALES = (1e-41, 1e-38, 1e-20, 1e-15, 1e-7, 1e-2, 1e4, 1e8, 1e30)
"""From below the normal floats, and the least half-precision ones, to beyond the largest of those."""


@functools.cache
def rows() -> Floats:
    """Weights: random, zeros, constants, of one sign, tiny, huge, with outliers; read-only."""
    generator = np.random.default_rng(0)
    normal = generator.standard_normal((_ROWS, COLUMNS), np.float32)
    spread = np.float32(0.02) * generator.standard_t(4, normal.shape).astype(np.float32)
    outlier = spread.copy()
    outlier[np.arange(_ROWS), generator.integers(0, COLUMNS, _ROWS)] = 100
    sparse = np.where(generator.random(normal.shape) < 0.9, np.float32(0), normal)
    kinds = [
        spread,
        _as_bf16(spread),
        np.zeros_like(normal),
        np.repeat(normal[:, :1], COLUMNS, axis=1),
        np.abs(normal),
        -np.abs(normal),
        outlier,
        sparse,
        np.round(2 * normal) / np.float32(2),
        1 + normal * np.float32(1e-7),
        *(normal * np.float32(scale) for scale in _SCALES),
    ]
    made = np.concatenate(kinds)
    made.flags.writeable = False
    return made


@functools.cache
def importance() -> Floats:
    """How much each column matters: many orders of magnitude, and some not at all; read-only."""
    generator = np.random.default_rng(1)
    made = generator.gamma(0.3, 2.0, COLUMNS).astype(np.float32)
    made[generator.random(COLUMNS) < 0.1] = 0
    made.flags.writeable = False
    return made


def _as_bf16(values: Floats) -> Floats:
    """The upper half of each float: what most checkpoints hold."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
