"""What a GGUF's header says about loading it: context, KV cells, GPU layers, the kind of attention, and
whether another model may draft for it. Only `open_weights` reads more than headers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from codellama.devices import fit
from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.files.gguf_header import GGUFHeader
from codellama.native.library import library
from codellama.native.model import Model
from codellama.params import ModelConfig, Progress
from codellama.prompts.prompts import corrections
from codellama.variants import Variant, recognise

_BYTES_PER_VALUE = {  # of ggml's block types: bytes per block / values per block
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
    "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip

# The last ids of Code Llama's vocabulary are tags of infilling, turns or nothing, by variant.
MOST_FOREIGN = 16


def trained_ctx(header: GGUFHeader, variant: Variant | None) -> int:
    """Early checkpoints of some variants claim too short a context: what the family table knows wins."""
    claimed = int(header.metadata.get("llama.context_length") or 0)
    return variant.n_ctx if variant else claimed or 4096


def kv_bytes_per_cell(header: GGUFHeader, config: ModelConfig) -> int:
    """Bytes that one token takes in the KV cache."""
    meta = header.metadata
    heads = int(meta.get("llama.attention.head_count") or 1)
    kv_heads = int(meta.get("llama.attention.head_count_kv") or heads)
    per_value = (_BYTES_PER_VALUE[config.type_k] + _BYTES_PER_VALUE[config.type_v]) / 2
    return fit.kv_bytes_per_cell(_n_layer(header), kv_heads, head_dim(header), per_value)


def head_dim(header: GGUFHeader) -> int:
    """Values of one attention head's key."""
    meta = header.metadata
    heads = int(meta.get("llama.attention.head_count") or 1)
    given = int(meta.get("llama.attention.key_length") or 0)
    return given or int(meta.get("llama.embedding_length") or 0) // heads


def choose_cells(header: GGUFHeader, config: ModelConfig, n_ctx: int) -> int:
    """KV cells for all requests, as many as the memory has room for."""
    per_cell = kv_bytes_per_cell(header, config)
    return fit.choose_cells(n_ctx, config.n_seq_max, per_cell, _memory_bytes())


def cache_bytes(config: ModelConfig) -> int:
    """Bytes of host memory for prompts outside the KV cache."""
    if config.cache_ram is None:
        return fit.choose_cache_bytes(_memory_bytes())
    return config.cache_ram << 20


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def flash_attn(header: GGUFHeader, config: ModelConfig, cells: int) -> Literal["auto", "on", "off"]:
    """What was asked for; "auto" is "off" where plain attention is better, else llama.cpp decides."""
    if config.flash_attn != "auto" or config.type_v not in ("f32", "f16", "bf16"):
        return config.flash_attn
    if library().gpus() and config.n_gpu_layers != 0:
        return "auto"
    heads = int(header.metadata.get("llama.attention.head_count") or 1)
    plain = fit.plain_attention(config.n_seq_max, heads, cells, config.n_ubatch)
    return "off" if plain else "auto"


def gpu_layers(
    header: GGUFHeader, config: ModelConfig, cells: int, wanted: int | Literal["all", "auto"]
) -> int:
    """Layers to offload, counting the output layer. Raises UnsupportedError without a GPU."""
    gpus = library().gpus()
    if not gpus:
        if wanted in ("auto", 0):
            return 0
        raise UnsupportedError(
            f"n_gpu_layers={wanted} was asked for, but this llama.cpp has no GPU backend or sees "
            "no GPU: set n_gpu_layers to auto or 0, or run scripts/setup on a machine with one"
        )
    if wanted == "auto":
        tensors = {tensor.name: tensor.nbytes for tensor in header.tensors}
        layers = fit.layer_bytes(tensors, _n_layer(header))
        kv = kv_bytes_per_cell(header, config) * cells if config.offload_kqv else 0
        return fit.place_layers(layers, kv, [gpu.free_bytes for gpu in gpus]).n_gpu_layers
    return _n_layer(header) + 1 if wanted == "all" else int(wanted)


def open_weights(
    path: Path,
    header: GGUFHeader,
    config: ModelConfig,
    cells: int,
    progress: Progress | None = None,
    layers: int | Literal["all", "auto"] | None = None,
) -> Model:
    """The model of `header`; `progress` takes bytes loaded and in all.

    `layers` takes the place of the config's `n_gpu_layers`, if it is not None.
    """
    nbytes = sum(tensor.nbytes for tensor in header.tensors)

    def loaded(share: float) -> None:
        if progress is not None:
            progress(round(share * nbytes), nbytes)

    return Model(
        path,
        n_gpu_layers=gpu_layers(
            header, config, cells, config.n_gpu_layers if layers is None else layers
        ),
        main_gpu=config.main_gpu,
        split_mode=config.split_mode,
        tensor_split=config.tensor_split,
        use_mmap=config.use_mmap,
        use_mlock=config.use_mlock,
        overrides=corrections(header.metadata, recognise(header.metadata)),
        progress=loaded,
    )


def foreign_tokens(target: Mapping[str, Any], draft: Mapping[str, Any]) -> frozenset[int]:
    """Ids of the target's vocabulary that mean something else, or nothing, to the draft model.

    Raises InvalidRequestError naming the first difference if the vocabularies differ in more than the
    last few ids, where Code Llama's variants keep their tags.
    """
    for key in ("model", "bos_token_id", "eos_token_id", "add_bos_token"):
        name = f"tokenizer.ggml.{key}"
        if target.get(name) != draft.get(name):
            raise _incompatible(f"{name} is {draft.get(name)!r} there, {target.get(name)!r} here")
    ours: list[str] = target.get("tokenizer.ggml.tokens") or []
    theirs: list[str] = draft.get("tokenizer.ggml.tokens") or []
    if abs(len(ours) - len(theirs)) > MOST_FOREIGN or not ours:
        raise _incompatible(f"it has {len(theirs)} tokens there, {len(ours)} here")
    shared = min(len(ours), len(theirs))
    different = [i for i in range(shared) if ours[i] != theirs[i]]
    if different and different[0] < max(len(ours), len(theirs)) - MOST_FOREIGN:
        i = different[0]
        raise _incompatible(f"token {i} is {theirs[i]!r} there, {ours[i]!r} here")
    return frozenset(different) | frozenset(range(shared, len(ours)))


def shift_problem(header: GGUFHeader, config: ModelConfig) -> str | None:
    """Why a context of this model cannot shift; None if it can.

    When llama.cpp moves one sequence, it turns the keys of all, by nothing for the others. With a
    magnitude factor, which YaRN has, it multiplies them too, each time. On bf16 keys it aborts the
    process; on quantized ones it crashes unless it stores them rotated, which it does in blocks of 64.
    """
    if config.type_k == "bf16":
        return "llama.cpp cannot move keys of type bf16: choose another type_k, such as f16"
    unrotated = head_dim(header) % 64 or os.environ.get("LLAMA_ATTN_ROT_DISABLE", "0") != "0"
    if config.type_k not in ("f32", "f16") and unrotated:
        return f"llama.cpp cannot move this model's keys of type {config.type_k}: set type_k to f16"
    meta, prefix = header.metadata, "llama.rope.scaling."
    scaling = config.rope_scaling or meta.get(prefix + "type")
    factors = (
        config.yarn_attn_factor,
        *(meta.get(prefix + key) for key in ("attn_factor", "yarn_attn_factor")),
    )
    if scaling == "yarn" or config.yarn_ext_factor or any(f not in (None, 1.0) for f in factors):
        return "llama.cpp changes the keys of all requests when it moves one with YaRN"
    return None


def _incompatible(reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"draft_model: its vocabulary is not that of the model: {reason}", "draft_model"
    )


def _n_layer(header: GGUFHeader) -> int:
    return int(header.metadata.get("llama.block_count") or 0)
