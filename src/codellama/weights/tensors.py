"""What the tensors of a Llama checkpoint are called, shaped and ordered, there and in a GGUF.

Pure. Hugging Face keeps the rows of q_proj and k_proj in halves (first all even, then all odd rotary
components of a head); llama.cpp wants the pairs side by side, as Meta trained them, so those rows
change places (`interleave_heads`). Everything else keeps its layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from codellama.errors import CheckpointError
from codellama.files.safetensors_header import SafeTensor
from codellama.weights.config import LlamaConfig

_IGNORED_SUFFIXES = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")
"""Buffers that old checkpoints carry and nobody needs."""

_COMPILED = re.compile(r"(?:^|(?<=\.))_orig_mod\.")
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Expected:
    """A tensor a checkpoint must hold: its name there and in the GGUF, and its shape (rows first).

    `heads` is the number of heads whose rows are interleaved, 0 for none.
    """

    hf_name: str
    name: str
    shape: tuple[int, ...]
    heads: int = 0


def expected_tensors(config: LlamaConfig) -> Iterator[Expected]:
    """Every tensor that a checkpoint with this configuration holds; `lm_head` also when it is tied."""
    hidden, vocab = config.hidden_size, config.vocab_size
    yield Expected("model.embed_tokens.weight", "token_embd.weight", (vocab, hidden))
    yield Expected("model.norm.weight", "output_norm.weight", (hidden,))
    yield Expected("lm_head.weight", "output.weight", (vocab, hidden))
    for layer in range(config.num_hidden_layers):
        yield from _layer_tensors(config, f"model.layers.{layer}.", f"blk.{layer}.")


def plain_names(folder: Path, stored: Mapping[str, SafeTensor]) -> dict[str, SafeTensor]:
    """The tensors under the names that `save_pretrained` of LlamaForCausalLM gives them, without buffers.

    torch.compile puts `_orig_mod.` into names, and LlamaModel saved by itself leaves out `model.`.

    Raises:
        CheckpointError: two have the same name then.
    """
    names = {
        name: _COMPILED.sub("", name) for name in stored if not name.endswith(_IGNORED_SUFFIXES)
    }
    bare = not any(plain.startswith("model.") for plain in names.values())
    found: dict[str, SafeTensor] = {}
    for name, plain in names.items():
        plain = f"model.{plain}" if bare and plain != "lm_head.weight" else plain
        if plain in found:
            raise CheckpointError(f"{folder}: {name} and {found[plain].name} are the same tensor")
        found[plain] = stored[name]
    return found


def _layer_tensors(config: LlamaConfig, hf: str, gguf: str) -> Iterator[Expected]:
    hidden, ffn = config.hidden_size, config.intermediate_size
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    q_rows, kv_rows = heads * config.head_dim, kv_heads * config.head_dim
    rows: tuple[tuple[str, str, tuple[int, ...], int], ...] = (
        ("input_layernorm", "attn_norm", (hidden,), 0),
        ("self_attn.q_proj", "attn_q", (q_rows, hidden), heads),
        ("self_attn.k_proj", "attn_k", (kv_rows, hidden), kv_heads),
        ("self_attn.v_proj", "attn_v", (kv_rows, hidden), 0),
        ("self_attn.o_proj", "attn_output", (hidden, q_rows), 0),
        ("post_attention_layernorm", "ffn_norm", (hidden,), 0),
        ("mlp.gate_proj", "ffn_gate", (ffn, hidden), 0),
        ("mlp.up_proj", "ffn_up", (ffn, hidden), 0),
        ("mlp.down_proj", "ffn_down", (hidden, ffn), 0),
    )
    for hf_name, name, shape, n_heads in rows:
        yield Expected(f"{hf}{hf_name}.weight", f"{gguf}{name}.weight", shape, n_heads)


def interleave_heads(rows: NDArray[Any], head_dim: int) -> NDArray[Any]:
    """Rows of whole heads, from halves to pairs: row `j + t * head_dim / 2` of a head to `2 j + t`."""
    halves = rows.reshape(-1, 2, head_dim // 2, rows.shape[1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def file_order(name: str) -> tuple[int, str]:
    """Sort key of tensors in a file: by layer, those of none first, then by name.

    llama.cpp's quantizer writes them so, and counts layers in this order when it picks types.
    """
    found = _LAYER.match(name)
    return int(found[1]) if found else -1, name
