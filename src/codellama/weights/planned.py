"""The header that a published model would have as a GGUF of some type: no file and no network is needed.

Shapes come from the truth table of `variants`, types from llama.cpp (see `recipe`), so sizes are exact.
The vocabulary has the published size, but of 70B Instruct's pieces only `<step>` is real.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from codellama.files.gguf_header import GGUFHeader, TensorInfo, Value, ValueType
from codellama.native.ggml import tensor_type
from codellama.variants import STEP, Variant
from codellama.weights.config import LlamaConfig
from codellama.weights.plan import Plan
from codellama.weights.recipe import make_recipe
from codellama.weights.source import Source, SourceTensor
from codellama.weights.tensors import expected_tensors

_HEAD_DIM = 128
_NORM_EPS = 1e-5


def planned_header(variant: Variant, type_name: str) -> GGUFHeader:
    """What `codellama convert` would write before the weights of `variant`, but for the vocabulary.

    Raises ConversionError for an unknown type, or one that needs an importance matrix.
    """
    path = Path(f"codellama-{variant.name}.{type_name}.gguf")
    values = dict(_metadata(variant))
    bf16 = tensor_type("BF16")
    tensors = [
        SourceTensor(expected.name, expected.shape, bf16, path, 0)
        for expected in expected_tensors(config_of(variant))
    ]
    recipe = make_recipe(Source(path, values, tensors, verbatim=False), type_name)
    infos = []
    for tensor in tensors:
        kind = recipe.types[tensor.name]
        nbytes = tensor.rows * kind.row_bytes(tensor.columns)
        infos.append(TensorInfo(tensor.name, tensor.shape[::-1], kind.name, 0, nbytes))
    return GGUFHeader(path, 3, {**values, **recipe.keys}, infos, 0, 32)


def header_of(plan: Plan, metadata: Mapping[str, Value]) -> GGUFHeader:
    """The header of the file that `plan` will write from a source with this metadata; of a split one the
    whole."""
    infos = [
        TensorInfo(t.source.name, t.source.shape[::-1], t.type.name, 0, t.nbytes)
        for t in plan.tensors
    ]
    return GGUFHeader(Path(f"{plan.type_name}.gguf"), 3, metadata, infos, 0, 32)


def config_of(variant: Variant) -> LlamaConfig:
    """What config.json of the published checkpoint says."""
    shape = variant.shape
    return LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=_HEAD_DIM,
        vocab_size=variant.vocab_size,
        max_position_embeddings=variant.n_ctx,
        rms_norm_eps=_NORM_EPS,
        rope_theta=variant.rope_theta,
        rope_scaling_factor=None,
        tie_word_embeddings=False,
    )


def _metadata(variant: Variant) -> Iterator[tuple[str, Value]]:
    """Everything that a converter writes and a plan looks at."""
    shape, size = variant.shape, variant.vocab_size
    last = STEP if variant.chat_format == "turn" else str(size - 1)
    yield "general.architecture", _text("llama")
    yield "general.name", _text(variant.published_name)
    yield "llama.rope.freq_base", _number(variant.rope_theta)
    yield "llama.attention.layer_norm_rms_epsilon", _number(_NORM_EPS)
    for key, count in (
        ("context_length", variant.n_ctx),
        ("embedding_length", shape.hidden),
        ("block_count", shape.layers),
        ("feed_forward_length", shape.ffn),
        ("rope.dimension_count", _HEAD_DIM),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("vocab_size", size),
    ):
        yield f"llama.{key}", Value(ValueType.UINT32, count)
    pieces = ["<unk>", "<s>", "</s>", *map(str, range(3, size - 1)), last]
    yield "tokenizer.ggml.model", _text("llama")
    yield "tokenizer.ggml.tokens", Value(ValueType.ARRAY, pieces, ValueType.STRING)
    scores = [-float(i) for i in range(size)]
    yield "tokenizer.ggml.scores", Value(ValueType.ARRAY, scores, ValueType.FLOAT32)


def _text(value: str) -> Value:
    return Value(ValueType.STRING, value)


def _number(value: Any) -> Value:
    return Value(ValueType.FLOAT32, float(value))
