"""How large a model and its caches are, from a GGUF's header. Pure."""

from __future__ import annotations

import math

from codellama.devices import fit
from codellama.files.gguf_header import GGUFHeader
from codellama.params import ModelConfig
from codellama.variants import Variant

_BYTES_PER_VALUE = {  # of ggml's block types: bytes per block / values per block
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
    "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def trained_ctx(header: GGUFHeader, variant: Variant | None) -> int:
    """Early checkpoints of some variants claim too short a context: what the family table knows wins."""
    claimed = int(header.metadata.get("llama.context_length") or 0)
    return variant.n_ctx if variant else claimed or 4096


def n_layer(header: GGUFHeader) -> int:
    """Transformer layers, without the output layer."""
    return int(header.metadata.get("llama.block_count") or 0)


def n_heads(header: GGUFHeader) -> int:
    """Attention heads of a layer."""
    return int(header.metadata.get("llama.attention.head_count") or 1)


def head_dim(header: GGUFHeader) -> int:
    """Values of one attention head's key."""
    given = int(header.metadata.get("llama.attention.key_length") or 0)
    return given or int(header.metadata.get("llama.embedding_length") or 0) // n_heads(header)


def kv_bytes_per_cell(header: GGUFHeader, config: ModelConfig) -> int:
    """Bytes that one token takes in the KV cache."""
    kv_heads = int(header.metadata.get("llama.attention.head_count_kv") or n_heads(header))
    per_value = (_BYTES_PER_VALUE[config.type_k] + _BYTES_PER_VALUE[config.type_v]) / 2
    return fit.kv_bytes_per_cell(n_layer(header), kv_heads, head_dim(header), per_value)


def layer_bytes(header: GGUFHeader) -> list[int]:
    """Bytes of weights per layer, the output layer last; the token embedding is in none of them."""
    return fit.layer_bytes({t.name: t.nbytes for t in header.tensors}, n_layer(header))


def weight_bytes(header: GGUFHeader) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for tensor in header.tensors)


def n_params(header: GGUFHeader) -> int:
    """Number of weights."""
    return sum(math.prod(tensor.shape) for tensor in header.tensors)


def size_text(nbytes: int) -> str:
    """A size for people, in the binary units that memory is sold in."""
    for unit, scale in _UNITS:
        if nbytes >= scale:
            return f"{nbytes / scale:.1f} {unit}"
    return f"{nbytes} bytes"
