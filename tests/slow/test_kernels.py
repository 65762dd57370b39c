"""A million blocks of each type in lanes against ggml's, as weights are and as they should not be."""

from __future__ import annotations

import numpy as np
import pytest

from codellama.kernels.quantizers import TYPES
from codellama.native.arrays import Floats
from codellama.native.ggml import tensor_type
from tests.lanes import assert_equal_bytes, encoders

pytestmark = pytest.mark.slow

BLOCKS = 2**20
WEIGHTS = 2**20
"""Of one round."""


def rows_of(generator: np.random.Generator, n_columns: int) -> Floats:
    """About `WEIGHTS` of them; half are like a model's, with heavy tails, the other half of any scale."""
    shape = WEIGHTS // n_columns, n_columns
    rows = generator.standard_normal(shape, np.float32) * np.float32(0.02)
    rows *= 1 + generator.integers(0, 4) * np.abs(generator.standard_normal(shape, np.float32))
    wild = slice(shape[0] // 2, None)
    rows[wild] *= 10.0 ** generator.integers(-40, 30, (shape[0] - shape[0] // 2, 1))
    rows[generator.integers(0, shape[0], 99), generator.integers(0, n_columns, 99)] *= 1e4
    if generator.random() < 0.5:
        return (rows.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return rows


@pytest.mark.parametrize("name", sorted(TYPES))
def test_a_million_blocks(name: str) -> None:
    """In the widest lanes; two of three rounds have an importance."""
    target = tensor_type(name)
    encoder = encoders()[0]
    for seed in range(BLOCKS * target.block_size // WEIGHTS):
        generator = np.random.default_rng(seed)
        n_columns = 256 * int(generator.integers(1, 40))
        importance = generator.gamma(0.5, 2.0, n_columns).astype(np.float32) if seed % 3 else None
        assert_equal_bytes(encoder, target, rows_of(generator, n_columns), importance)
