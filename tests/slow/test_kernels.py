"""Millions of blocks in lanes against ggml's, as weights are and as they should not be."""

from __future__ import annotations

import numpy as np
import pytest

from codellama.kernels.quantizers import TYPES
from codellama.native.arrays import Floats
from codellama.native.ggml import tensor_type
from tests.lanes import assert_equal_bytes, encoders

pytestmark = pytest.mark.slow

WEIGHTS = 2**20
"""Of one round, for each type."""


def rows_of(generator: np.random.Generator, n_columns: int) -> Floats:
    """About `WEIGHTS` of them; half are like a model's, the other half of any scale."""
    shape = WEIGHTS // n_columns, n_columns
    rows = generator.standard_t(generator.uniform(2, 30), shape) * 0.02
    wild = slice(shape[0] // 2, None)
    rows[wild] *= 10.0 ** generator.integers(-40, 30, (shape[0] - shape[0] // 2, 1))
    rows[generator.random(shape) < 1e-4] *= 1e4
    if generator.random() < 0.5:
        bits = rows.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
        return bits.view(np.float32)
    return rows.astype(np.float32)


@pytest.mark.parametrize("name", sorted(TYPES))
def test_a_million_weights_at_a_time(name: str) -> None:
    """The widest lanes; two of three rounds have an importance."""
    target = tensor_type(name)
    encoder = encoders()[0]
    rounds = 12 if target.block_size == 256 else 6
    for seed in range(rounds):
        generator = np.random.default_rng(seed)
        n_columns = 256 * int(generator.integers(1, 40))
        importance = generator.gamma(0.5, 2.0, n_columns).astype(np.float32) if seed % 3 else None
        assert_equal_bytes(encoder, target, rows_of(generator, n_columns), importance)
