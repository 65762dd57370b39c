"""Layer and cache arithmetic."""

from __future__ import annotations

import pytest

from codellama.devices.fit import (
    COMPUTE,
    GIB,
    MARGIN,
    choose_cache_bytes,
    choose_cells,
    kv_bytes_per_cell,
    layer_bytes,
    place_layers,
    plain_attention,
)


def test_layer_bytes() -> None:
    tensors = {
        "token_embd.weight": 1000,
        "blk.0.attn_q.weight": 10,
        "blk.0.ffn_up.weight": 20,
        "blk.1.attn_q.weight": 12,
        "output_norm.weight": 1,
        "output.weight": 100,
    }
    assert layer_bytes(tensors, 2) == [30, 12, 101]


@pytest.mark.parametrize(
    ("gib", "layers"),
    [(0, 0), (1.4, 0), (2.5, 1), (3.6, 2), (11.4, 9), (11.6, 10), (12.6, 11), (100, 11)],
)
def test_layers_are_placed_from_the_output_down(gib: float, layers: int) -> None:
    # Ten layers of 1 GiB and an output layer of 1 GiB; a gigabyte and a half is left free.
    placement = place_layers([GIB] * 11, 0, [int(gib * GIB)])
    assert placement.n_gpu_layers == layers
    assert placement.gpu_bytes == layers * GIB
    assert placement.gpu_bytes + placement.cpu_bytes == 11 * GIB


def test_the_cache_goes_with_its_layers() -> None:
    free = 3 * GIB + MARGIN + COMPUTE
    with_cache = place_layers([GIB // 2] * 10 + [0], 5 * GIB, [free])
    assert with_cache.n_gpu_layers == 1 + 3, "each layer is half a gigabyte and as much of cache"
    assert place_layers([GIB // 2] * 10 + [0], 0, [free]).n_gpu_layers == 1 + 6


def test_two_gpus_keep_a_margin_each() -> None:
    one = place_layers([GIB] * 11, 0, [8 * GIB])
    two = place_layers([GIB] * 11, 0, [4 * GIB, 4 * GIB])
    assert one.n_gpu_layers == 6
    assert two.n_gpu_layers == 5


def test_the_seventy_billion_model() -> None:
    per_cell = kv_bytes_per_cell(80, 8, 128, 2.0)
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
