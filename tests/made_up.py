"""Headers of models that nobody has, and machines that nobody owns: for plans, without any file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codellama.devices.machine import Machine
from codellama.files.gguf_header import GGUFHeader, TensorInfo, Value, ValueType
from codellama.native.backends import Device
from codellama.native.ggml import tensor_type
from codellama.variants import SHAPES, Shape
from codellama.weights.recipe import make_recipe
from codellama.weights.source import Source, SourceTensor

GIB = 2**30
N_VOCAB = 32016
N_CTX_70B = 4096


def machine(memory_gib: float, *gpu_gib: float) -> Machine:
    """A machine with so many GiB of memory, and of free memory on its GPUs CUDA0, CUDA1 and so on."""
    gpus = tuple(
        Device(f"CUDA{i}", "a made-up GPU", "gpu", int(gib * GIB), int(gib * GIB), "CUDA")
        for i, gib in enumerate(gpu_gib)
    )
    return Machine(int(memory_gib * GIB), gpus)


@functools.cache
def header_70b(type_name: str) -> GGUFHeader:
    """The header of CodeLlama-70b-Instruct as llama.cpp would quantize it to `type_name`."""
    shape = SHAPES["70b"]
    bf16 = tensor_type("BF16")
    path = Path(f"codellama-70b-instruct.{type_name}.gguf")
    tensors = [
        SourceTensor(name, rows_first, bf16, path, 0) for name, rows_first in _tensors(shape)
    ]
    values = {key: _value(value) for key, value in metadata(shape).items()}
    recipe = make_recipe(Source(path, values, tensors, verbatim=False), type_name)
    types = {t.name: recipe.types[t.name] for t in tensors}
    infos = [
        TensorInfo(
            t.name,
            t.shape[::-1],
            types[t.name].name,
            0,
            t.rows * types[t.name].row_bytes(t.columns),
        )
        for t in tensors
    ]
    return GGUFHeader(path, 3, values, infos, 0, 32)


def metadata(shape: Shape, tokens: Sequence[str] | None = None) -> dict[str, Any]:
    """What a converter writes of the architecture, with the vocabulary of 70B Instruct."""
    return {
        "general.architecture": "llama",
        "llama.context_length": 2048,  # what the published config.json says
        "llama.embedding_length": shape.hidden,
        "llama.block_count": shape.layers,
        "llama.feed_forward_length": shape.ffn,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": N_VOCAB,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": list(tokens or [*map(str, range(N_VOCAB - 1)), "<step>"]),
        "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens or range(N_VOCAB)))],
    }


def _value(value: Any) -> Value:
    match value:
        case str():
            return Value(ValueType.STRING, value)
        case float():
            return Value(ValueType.FLOAT32, value)
        case int():
            return Value(ValueType.UINT32, value)
    item = ValueType.STRING if isinstance(value[0], str) else ValueType.FLOAT32
    return Value(ValueType.ARRAY, value, item)


def _tensors(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    hidden, ffn, kv = shape.hidden, shape.ffn, shape.kv_heads * 128
    layer = {
        "attn_norm": (hidden,),
        "attn_q": (hidden, hidden),
        "attn_k": (kv, hidden),
        "attn_v": (kv, hidden),
        "attn_output": (hidden, hidden),
        "ffn_norm": (hidden,),
        "ffn_gate": (ffn, hidden),
        "ffn_up": (ffn, hidden),
        "ffn_down": (hidden, ffn),
    }
    return [
        ("token_embd.weight", (N_VOCAB, hidden)),
        ("output_norm.weight", (hidden,)),
        ("output.weight", (N_VOCAB, hidden)),
        *(
            (f"blk.{i}.{name}.weight", rows_first)
            for i in range(shape.layers)
            for name, rows_first in layer.items()
        ),
    ]
