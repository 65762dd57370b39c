"""What llama.cpp would abort on, or believe, is refused before it sees the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import ModelLoadError
from codellama.files.gguf_header import (
    GGUFHeader,
    TensorInfo,
    Value,
    ValueType,
    encode_header,
    read_gguf_header,
)
from codellama.files.loadable import check_adapter, read_model, read_vocabulary
from codellama.weights.gguf_source import open_gguf
from tests import tiny_model
from tests.fuzzing.kinds import write_adapter

U32, F32, TEXT = ValueType.UINT32, ValueType.FLOAT32, ValueType.STRING

Values = dict[str, Value]
Tensors = dict[str, TensorInfo]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> GGUFHeader:
    return read_gguf_header(tiny_model.write(tmp_path_factory.mktemp("good") / "tiny.gguf"))


def write(path: Path, values: Values, tensors: Tensors) -> Path:
    data = sum(-(-tensor.nbytes // 32) * 32 for tensor in tensors.values())
    with path.open("wb") as file:
        header = encode_header(values, tensors.values())
        file.write(header)
        file.truncate(len(header) + data)
    return path


def changed(path: Path, good: GGUFHeader, **values: Value | None) -> Path:
    """The good file with other values; None takes one away. `__` stands for a dot."""
    merged = dict(good.values)
    for name, value in values.items():
        key = name.replace("__", ".")
        merged[key] = value if value is not None else merged[key]
        if value is None:
            del merged[key]
    return write(path, merged, {tensor.name: tensor for tensor in good.tensors})


def test_a_good_file_is_a_model_and_a_vocabulary(tmp_path: Path, good: GGUFHeader) -> None:
    path = changed(tmp_path / "x.gguf", good)
    assert read_model(path).metadata == good.metadata
    assert read_vocabulary(path).metadata == good.metadata


def number(value: int) -> Value:
    return Value(U32, value)


NUMBERS: list[tuple[dict[str, Value | None], str]] = [
    ({"llama__block_count": number(0)}, "llama.block_count is 0: it must be 1 to 512"),
    ({"llama__block_count": number(513)}, "llama.block_count is 513"),
    ({"llama__block_count": None}, "llama.block_count is missing"),
    ({"llama__block_count": Value(TEXT, "2")}, "'llama.block_count' is of type STRING, not UINT32"),
    ({"llama__block_count": Value(ValueType.ARRAY, [2], U32)}, "of type UINT32 array, not UINT32"),
    ({"llama__attention__head_count": number(0)}, "head_count is 0"),
    ({"llama__attention__head_count": number(2**32 - 1)}, "head_count is 4294967295"),
    ({"llama__attention__head_count_kv": number(0)}, "head_count_kv is 0"),
    ({"llama__attention__head_count_kv": number(3)}, "does not divide 4 heads"),
    ({"llama__attention__key_length": number(32)}, "is not the length of a key, 32"),
    ({"llama__attention__value_length": number(8)}, "value_length is 8"),
    ({"llama__attention__key_length": number(1), "llama__attention__value_length": number(1),
      "llama__rope__dimension_count": None}, "key_length is 1: it must be even"),
    ({"llama__rope__dimension_count": number(8)}, "dimension_count is 8"),
    ({"llama__context_length": number(2**31)}, "context_length is 2147483648"),
    ({"llama__expert_count": number(8)}, "expert_used_count is 0: it must be 1 to 8"),
    ({"llama__expert_used_count": number(1)}, "expert_used_count is 1"),
    ({"llama__expert_group_count": number(1)}, "expert_group_count is 1"),
    ({"llama__nextn_predict_layers": number(3)}, "nextn_predict_layers is 3"),
    ({"llama__attention__layer_norm_rms_epsilon": Value(F32, -1.0)}, "epsilon is -1.0"),
    ({"llama__attention__layer_norm_rms_epsilon": Value(F32, float("nan"))}, "epsilon is nan"),
    ({"llama__attention__layer_norm_rms_epsilon": None}, "epsilon is missing"),
    ({"llama__rope__freq_base": Value(F32, 0.0)}, "freq_base is 0.0"),
    ({"llama__rope__scaling__factor": Value(F32, float("inf"))}, "factor is inf"),
    ({"llama__rope__scaling__type": Value(TEXT, "x")}, "must be one of none, linear, yarn"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "reason"), NUMBERS)
def test_numbers_that_llama_cpp_asserts(
    tmp_path: Path, good: GGUFHeader, values: dict[str, Value | None], reason: str
) -> None:
    path = changed(tmp_path / "x.gguf", good, **values)
    for read in (read_model, open_gguf):  # its quantizer asserts the same
        with pytest.raises(ModelLoadError) as caught:
            read(path)
        assert reason in str(caught.value)
        assert str(caught.value).startswith(str(path))


def tokens(
    change: Callable[[list[str]], object],
) -> Callable[[GGUFHeader], dict[str, Value | None]]:
    def values(good: GGUFHeader) -> dict[str, Value | None]:
        texts = list(good.metadata["tokenizer.ggml.tokens"])
        change(texts)
        return {"tokenizer__ggml__tokens": Value(ValueType.ARRAY, texts, TEXT)}

    return values


def column(
    name: str, kind: ValueType, items: Any
) -> Callable[[GGUFHeader], dict[str, Value | None]]:
    key = f"tokenizer__ggml__{name}"
    return lambda good: {
        key: Value(ValueType.ARRAY, items(len(good.metadata["tokenizer.ggml.tokens"])), kind)
    }


VOCABULARIES: list[tuple[Callable[[GGUFHeader], dict[str, Value | None]], str]] = [
    (tokens(lambda t: t.__setitem__(300, t[299])), "tokens 299 and 300 are the same"),
    (tokens(lambda t: t.__setitem__(300, "a\0b")), "NUL in it"),
    (tokens(lambda t: t.__setitem__(300, "[EMPTY_5]")), "gives to an empty one"),
    (tokens(lambda t: t.__setitem__(13, "<0x4>")), "token 13, '<0x4>', is of type byte"),
    (tokens(lambda t: t.clear()), "0 tokens, but"),
    (tokens(lambda t: t.append("more")), "in tokenizer.ggml.scores"),
    (column("scores", F32, lambda n: [float("nan")] * n), "a score in"),
    (column("scores", ValueType.FLOAT64, lambda n: [0.0] * n), "FLOAT64 array, not FLOAT32 array"),
    (column("token_type", ValueType.INT32, lambda n: [1] * (n - 1)), "in tokenizer.ggml.token_type"),
    (column("token_type", ValueType.INT32, lambda n: [7] * n), "must hold 0 to 6"),
    (column("tokens", U32, lambda n: [7] * n), "UINT32 array, not STRING array"),
    (column("token_type", U32, lambda n: [1] * n), "array: mlx-lm writes that"),
    (lambda good: {"tokenizer__ggml__tokens": number(1)}, "is of type UINT32, not STRING array"),
    (lambda good: {"tokenizer__ggml__model": Value(TEXT, "no_vocab")}, "its tokenizer is 'no_vocab'"),
    (lambda good: {"tokenizer__ggml__model": None}, "its tokenizer is None"),
    (lambda good: {"tokenizer__ggml__bos_token_id": Value(ValueType.INT32, -1)}, "INT32, not UINT32"),
    (lambda good: {"tokenizer__ggml__add_bos_token": number(1)}, "UINT32, not BOOL"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "reason"), VOCABULARIES)
def test_vocabularies_that_llama_cpp_asserts(
    tmp_path: Path,
    good: GGUFHeader,
    values: Callable[[GGUFHeader], dict[str, Value | None]],
    reason: str,
) -> None:
    path = changed(tmp_path / "x.gguf", good, **values(good))
    for read in (read_model, read_vocabulary):
        with pytest.raises(ModelLoadError) as caught:
            read(path)
        assert reason in str(caught.value)


def retype(name: str, kind: str, nbytes: int) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        tensors[name] = dataclasses.replace(tensors[name], type_name=kind, nbytes=nbytes)

    return change


def reshape(name: str, *shape: int) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        tensors[name] = dataclasses.replace(tensors[name], shape=shape)

    return change


TENSORS: list[tuple[Callable[[Tensors], object], str]] = [
    (lambda t: t.pop("blk.1.ffn_up.weight"), "there is no tensor 'blk.1.ffn_up.weight'"),
    (lambda t: t.pop("token_embd.weight"), "there is no tensor 'token_embd.weight'"),
    (lambda t: t.clear(), "there is no tensor"),
    (
        lambda t: t.update(x=TensorInfo("blk.2.attn_q.weight", (64, 64), "F32", 0, 16384)),
        "'blk.2.attn_q.weight' is no tensor of a Llama model",
    ),
    (reshape("blk.0.attn_q.weight", 32, 128), "the metadata makes it [64, 64]"),
    (reshape("blk.0.attn_q.weight", 64, 32, 2), "has shape [64, 32, 2]"),
    (reshape("blk.0.attn_norm.weight", 32, 2), "the metadata makes it [64, 1]"),
    (retype("blk.0.attn_norm.weight", "F16", 128), "is F16, not F32"),
    (retype("output_norm.weight", "Q8_0", 68), "is Q8_0, not F32"),
    (retype("blk.0.attn_q.weight", "I32", 16384), "is I32, which is no type of weights"),
    (retype("blk.0.attn_q.weight", "Q8_1", 64 * 72), "is Q8_1, which is no type of weights"),
]


@pytest.mark.parametrize(("change", "reason"), TENSORS)
def test_tensors_that_do_not_fit_the_numbers(
    tmp_path: Path, good: GGUFHeader, change: Callable[[Tensors], object], reason: str
) -> None:
    tensors = {tensor.name: tensor for tensor in good.tensors}
    change(tensors)
    path = write(tmp_path / "x.gguf", dict(good.values), tensors)
    with pytest.raises(ModelLoadError) as caught:
        read_model(path)
    assert reason in str(caught.value)
    read_vocabulary(path)


def test_weights_that_cannot_be_mapped(tmp_path: Path, good: GGUFHeader) -> None:
    """llama.cpp maps them where they are in the file, and asserts that this is a multiple of 32."""
    padding = Value(TEXT, "x" * 3)  # moves the end of the header to where no such multiple is
    path = changed(tmp_path / "x.gguf", good, general__alignment=number(2), general__x=padding)
    with pytest.raises(ModelLoadError, match="it has to be at a multiple of 32"):
        read_model(path)


def test_a_mixture_of_experts_is_no_code_llama(tmp_path: Path, good: GGUFHeader) -> None:
    experts = {"llama__expert_count": number(8), "llama__expert_used_count": number(2)}
    with pytest.raises(ModelLoadError, match="a mixture of 8 experts"):
        read_model(changed(tmp_path / "x.gguf", good, **experts))


def test_optional_tensors_may_be_there_or_not(tmp_path: Path, good: GGUFHeader) -> None:
    tensors = {tensor.name: tensor for tensor in good.tensors}
    del tensors["output.weight"]
    tensors["rope"] = TensorInfo("rope_freqs.weight", (8,), "F32", 0, 32)
    tensors["bias"] = TensorInfo("blk.0.attn_q.bias", (64,), "F32", 0, 256)
    assert read_model(write(tmp_path / "x.gguf", dict(good.values), tensors)).tensors


ADAPTERS: list[tuple[Callable[[Values, Tensors], object], str]] = [
    (lambda v, t: v.pop("general.type"), "general.type is None, not 'adapter'"),
    (lambda v, t: v.update({"general.type": number(1)}), "'general.type' is of type UINT32"),
    (lambda v, t: v.update({"adapter.type": Value(TEXT, "control_vector")}), "not 'lora'"),
    (lambda v, t: v.update({"general.architecture": Value(TEXT, "gemma")}), "not 'llama'"),
    (lambda v, t: v.update({"adapter.lora.alpha": number(1)}), "of type UINT32, not FLOAT32"),
    (lambda v, t: v.update({"adapter.lora.alpha": Value(F32, float("nan"))}), "alpha is not finite"),
    (lambda v, t: t.pop("blk.0.attn_q.weight.lora_a"), "one half of a pair"),
    (lambda v, t: reshape("blk.0.attn_q.weight.lora_a", 64, 1, 2)(t), "no tensor of a LoRA"),
    (lambda v, t: reshape("blk.0.attn_q.weight.lora_b", 1, 128)(t), "the ranks of"),
    (lambda v, t: retype("blk.0.attn_q.weight.lora_b", "I32", 512)(t), "which is no type of weights"),
    (lambda v, t: t.update(x=TensorInfo("x.lora_a.lora_b", (2, 2), "F32", 0, 16)), "no tensor of"),
    (lambda v, t: t.update(x=TensorInfo("x.weight", (2, 2), "F32", 0, 16)), "no tensor of a LoRA"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), ADAPTERS)
def test_adapters_that_llama_cpp_asserts(
    tmp_path: Path, change: Callable[[Values, Tensors], object], reason: str
) -> None:
    header = read_gguf_header(write_adapter(tmp_path / "good.gguf"))
    check_adapter(header.path)
    values, tensors = dict(header.values), {tensor.name: tensor for tensor in header.tensors}
    change(values, tensors)
    path = write(tmp_path / "x.gguf", values, tensors)
    with pytest.raises(ModelLoadError) as caught:
        check_adapter(path)
    assert reason in str(caught.value)


def test_an_adapter_of_the_embedding_is_the_other_way_round(tmp_path: Path) -> None:
    name, good, bad = "token_embd.weight", tmp_path / "good.gguf", tmp_path / "bad.gguf"
    values = dict(read_gguf_header(write_adapter(tmp_path / "a.gguf")).values)
    a = TensorInfo(f"{name}.lora_a", (2, 376), "F32", 0, 8 * 376)
    b = TensorInfo(f"{name}.lora_b", (2, 64), "F32", 0, 512)
    check_adapter(write(good, values, {"a": a, "b": b}))
    b = TensorInfo(f"{name}.lora_b", (4, 64), "F32", 0, 1024)
    with pytest.raises(ModelLoadError, match="the ranks of"):
        check_adapter(write(bad, values, {"a": a, "b": b}))
