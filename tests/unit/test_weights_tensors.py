from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from codellama.variants import SHAPES
from codellama.weights.config import LlamaConfig
from codellama.weights.tensors import expected_tensors, file_order, interleave_heads

CONFIG = LlamaConfig(
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=32016,
    max_position_embeddings=4096,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    rope_scaling_factor=None,
    tie_word_embeddings=False,
)


def test_the_70b_has_its_723_tensors_and_all_its_weights() -> None:
    tensors = list(expected_tensors(CONFIG))
    assert len(tensors) == SHAPES["70b"].tensors == 723
    total = sum(int(np.prod(tensor.shape)) for tensor in tensors)
    assert total == SHAPES["70b"].parameters(32016) == 68_976_910_336
    assert len({tensor.name for tensor in tensors}) == 723
    assert len({tensor.hf_name for tensor in tensors}) == 723


def test_only_queries_and_keys_are_interleaved() -> None:
    heads = {t.name.split(".")[-2]: t.heads for t in expected_tensors(CONFIG)}
    assert heads.pop("attn_q") == 64
    assert heads.pop("attn_k") == 8
    assert set(heads.values()) == {0}


def test_head_dim_need_not_follow_from_hidden_size() -> None:
    config = dataclasses.replace(CONFIG, head_dim=64)
    shapes = {t.name: t.shape for t in expected_tensors(config)}
    assert shapes["blk.0.attn_q.weight"] == (64 * 64, 8192)
    assert shapes["blk.0.attn_v.weight"] == (8 * 64, 8192)
    assert shapes["blk.0.attn_output.weight"] == (8192, 64 * 64)


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 2), (3, 8), (8, 128)])
def test_interleaving_follows_its_definition(heads: int, head_dim: int) -> None:
    rows = np.arange(heads * head_dim * 3).reshape(heads * head_dim, 3)
    result = interleave_heads(rows, head_dim)
    for head in range(heads):
        for j in range(head_dim // 2):
            for t in (0, 1):
                source = rows[head * head_dim + j + t * head_dim // 2]
                assert np.array_equal(result[head * head_dim + 2 * j + t], source)


def test_interleaving_undoes_what_the_published_conversion_did() -> None:
    """transformers' convert_llama_weights_to_hf.py: view(heads, dim / 2, 2, columns), swap 1 and 2."""
    meta = np.random.default_rng(0).standard_normal((4 * 16, 5))
    published = meta.reshape(4, 8, 2, 5).swapaxes(1, 2).reshape(64, 5)
    assert np.array_equal(interleave_heads(published, 16), meta)


def test_tensors_are_ordered_by_layer_and_then_by_name() -> None:
    names = ["blk.10.a.weight", "token_embd.weight", "blk.2.b.weight", "output.weight", "blk.2.a"]
    assert sorted(names, key=file_order) == [
        "output.weight",
        "token_embd.weight",
        "blk.2.a",
        "blk.2.b.weight",
        "blk.10.a.weight",
    ]
