"""How large a model and its caches are, from a GGUF's header. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from codellama.files.gguf_header import GGUFHeader, TensorInfo
from codellama.params import ModelConfig
from codellama.variants import Variant

_BYTES_PER_VALUE = {  # of ggml's block types: bytes per block / values per block
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
    "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
CELLS_AT_ONCE = 256  # llama.cpp rounds a context up to a multiple of it
FFN_MATRICES = ("ffn_gate", "ffn_up", "ffn_down")
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


def bytes_per_value(kind: str) -> float:
    """Bytes of a number in a KV cache of this type."""
    return _BYTES_PER_VALUE[kind]


def kv_bytes_per_cell(header: GGUFHeader, config: ModelConfig) -> int:
    """Bytes that one token takes in the KV cache."""
    per_value = bytes_per_value(config.type_k) + bytes_per_value(config.type_v)
    return round(n_layer(header) * kv_dim(header) * per_value)


def kv_dim(header: GGUFHeader) -> int:
    """Values of the keys of one token in one layer; its values are as many."""
    kv_heads = int(header.metadata.get("llama.attention.head_count_kv") or n_heads(header))
    return kv_heads * head_dim(header)


def padded_cells(cells: int) -> int:
    """KV cells that llama.cpp makes when it is asked for so many."""
    return -(-cells // CELLS_AT_ONCE) * CELLS_AT_ONCE


@dataclass(frozen=True)
class LayerSizes:
    """Bytes of a layer: `attention` is all of it but its feed-forward matrices, which are `ffn`.

    Of both, the bytes whose type llama.cpp's CPU code rearranges; `largest` is the largest matrix.
    """

    attention: int
    ffn: int
    rearranged_attention: int
    rearranged_ffn: int
    largest: int

    @property
    def nbytes(self) -> int:
        return self.attention + self.ffn

    @property
    def rearranged(self) -> int:
        return self.rearranged_attention + self.rearranged_ffn


@dataclass(frozen=True)
class ModelSizes:
    """A model as a plan sees it: bytes of its `layers`, the output layer last, and of the token `embedding`,
    which stays in main memory; and the lengths of what passes between layers, in values."""

    layers: tuple[LayerSizes, ...]
    embedding: int
    hidden: int
    ffn: int
    heads: int
    kv_dim: int
    n_vocab: int

    @property
    def n_layer(self) -> int:
        """Transformer layers, without the output layer."""
        return len(self.layers) - 1

    @property
    def largest_matrix(self) -> int:
        return max(layer.largest for layer in self.layers)


def model_sizes(
    header: GGUFHeader, rearranges: frozenset[str] = frozenset(), adapter_bytes: int = 0
) -> ModelSizes:
    """The sizes of a GGUF's model; `adapter_bytes` of LoRA adapters lie beside the layers they change."""
    count = n_layer(header)
    tensors: list[list[TensorInfo]] = [[] for _ in range(count + 1)]
    embedding = 0
    for tensor in header.tensors:
        if tensor.name.startswith("blk."):
            tensors[int(tensor.name.split(".")[1])].append(tensor)
        elif tensor.name.startswith("output"):
            tensors[count].append(tensor)
        elif tensor.name == "token_embd.weight":
            embedding = tensor.nbytes
            vocab = tensor.shape[-1]
    extra = adapter_bytes // max(1, count)
    layers = [
        _layer(found, rearranges, extra if i < count else 0) for i, found in enumerate(tensors)
    ]
    if all(
        tensor.name != "output.weight" for tensor in tensors[count]
    ):  # it is the embedding, a copy
        layers[count] = LayerSizes(layers[count].attention + embedding, 0, 0, 0, embedding)
    return ModelSizes(
        layers=tuple(layers),
        embedding=embedding,
        hidden=int(header.metadata.get("llama.embedding_length") or 0),
        ffn=int(header.metadata.get("llama.feed_forward_length") or 0),
        heads=n_heads(header),
        kv_dim=kv_dim(header),
        n_vocab=vocab if embedding else 0,
    )


def _layer(tensors: Sequence[TensorInfo], rearranges: frozenset[str], extra: int) -> LayerSizes:
    ffn = [t for t in tensors if t.name.split(".")[-2] in FFN_MATRICES]
    rest = [t for t in tensors if t not in ffn]

    def rearranged(found: Sequence[TensorInfo]) -> int:
        matrices = [t for t in found if len(t.shape) == 2 and t.shape[1] % 8 == 0]
        return sum(t.nbytes for t in matrices if t.type_name in rearranges)

    return LayerSizes(
        attention=sum(t.nbytes for t in rest) + extra,
        ffn=sum(t.nbytes for t in ffn),
        rearranged_attention=rearranged(rest),
        rearranged_ffn=rearranged(ffn),
        largest=max((t.nbytes for t in tensors), default=0),
    )


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
