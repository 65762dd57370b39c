"""Layer and cache arithmetic."""

from __future__ import annotations

import pytest

from codellama.devices.fit import GIB, choose_cache_bytes, choose_cells, plain_attention
from codellama.devices.sizes import kv_bytes_per_cell
from codellama.params import ModelConfig
from tests.made_up import header_70b


def test_the_seventy_billion_model() -> None:
    per_cell = kv_bytes_per_cell(header_70b("Q4_K_M"), ModelConfig())
    assert per_cell == 327_680
    assert choose_cells(4096, 4, per_cell, 64 * GIB) == 4 * 4096
    assert choose_cells(16384, 4, 524_288, 64 * GIB) == 16384, "an eighth of 64 GiB is one context"
    assert choose_cells(16384, 1, 524_288, 4 * GIB) == 16384, "never less than one full context"


@pytest.mark.parametrize(
    ("n_seq_max", "heads", "cells", "plain"),
    [(1, 64, 4096, True), (1, 64, 4097, False), (2, 8, 512, False), (1, 32, 16384, False)],
)
def test_plain_attention_is_for_one_request_and_little_memory(
    n_seq_max: int, heads: int, cells: int, plain: bool
) -> None:
    assert plain_attention(n_seq_max, heads, cells, 512) is plain


@pytest.mark.parametrize(("gib", "chosen"), [(16, 1), (64, 4), (128, 8), (1024, 8)])
def test_host_memory_for_prompts(gib: int, chosen: int) -> None:
    assert choose_cache_bytes(gib * GIB) == chosen * GIB
