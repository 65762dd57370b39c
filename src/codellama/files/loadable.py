"""Whether llama.cpp can be trusted with a GGUF: what it asserts, or believes, is checked here first.

llama.cpp refuses many bad files with an exception, which becomes an error like any other. Where it asserts
instead, or computes with a number that it did not check, the process is gone. So before a file is handed
over it has to be a model, a vocabulary or an adapter of the Llama architecture, with every number in the
range that llama.cpp relies on (llama-model.cpp, llama-vocab.cpp, llama-adapter.cpp, llama-graph.cpp).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import ModelLoadError
from codellama.files.cut_file import is_piece, to_be_joined
from codellama.files.gguf_header import (
    DEFAULT_ALIGNMENT,
    GGUFHeader,
    TensorInfo,
    read_gguf_header,
)
from codellama.files.gguf_schema import ARCHITECTURE, check_types
from codellama.files.identify import by_metadata, recognised
from codellama.files.lost_scores import check_mendable, scores_are_lost
from codellama.files.sentencepiece_model import TokenType
from codellama.files.small_files import shown
from codellama.files.split import read_model_header
from codellama.native.ggml import quantizable, tensor_type

_MOST_LAYERS = 512  # LLAMA_MAX_LAYERS
_MOST_EXPERTS = 512  # LLAMA_MAX_EXPERTS
_MOST_CONTEXT = 2**20
_MOST_WIDTH = 2**24
_ROPE_SCALINGS = ("none", "linear", "yarn")
_MOST_TOKEN_TYPE = 6
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_HALF_OF_A_PAIR = re.compile(r"(.+)\.lora_([ab])")


def read_model(path: str | os.PathLike[str]) -> GGUFHeader:
    """The header of a whole model, if llama.cpp can load it and compute with it.

    Raises:
        ModelLoadError: the file, or a part of it, is damaged or no model of the Llama architecture.
    """
    header = _checked(path)
    numbers = check_hyperparameters(header)
    if numbers.n_experts:
        raise ModelLoadError(
            f"{path}: a mixture of {numbers.n_experts} experts, which no Code Llama model is"
        )
    _check_vocabulary(header)
    _check_tensors(header, numbers)
    return header


def read_vocabulary(path: str | os.PathLike[str]) -> GGUFHeader:
    """The header of a model, or of a vocabulary without one, if llama.cpp can load the vocabulary.

    Raises:
        ModelLoadError: as `read_model`.
    """
    header = _checked(path)
    _check_vocabulary(header)
    return header


def _checked(path: str | os.PathLike[str]) -> GGUFHeader:
    path = Path(path)
    if path.is_dir():
        raise recognised(path, ModelLoadError) or ModelLoadError(
            f"{path} is a folder: give a GGUF file, or convert the checkpoint in it to one"
        )
    header = read_model_header(path)
    other = by_metadata(path, header.metadata)
    if other is not None:
        raise other
    if is_piece(path):
        raise to_be_joined(path)
    architecture = header.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise ModelLoadError(
            f"{path} holds a model of architecture {shown(architecture)}: this runtime serves the "
            f"Code Llama family, architecture '{ARCHITECTURE}'"
        )
    return header


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers that tensors' shapes follow from."""

    n_layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    n_experts: int


def check_hyperparameters(header: GGUFHeader) -> Hyperparameters:
    """The numbers of a Llama model, all in the range that llama.cpp relies on.

    The types of the keys must have been checked, as `split.read_parts` does.

    Raises:
        ModelLoadError: one is missing, or out of range; the message names it.
    """
    keys = _Keys(header)
    hidden = keys.count("embedding_length", _MOST_WIDTH)
    heads = keys.count("attention.head_count", _MOST_WIDTH)
    kv_heads = keys.count("attention.head_count_kv", heads, default=heads)
    if heads % kv_heads:
        raise keys.fault("attention.head_count_kv", f"does not divide {heads} heads")
    head_dim = keys.count("attention.key_length", _MOST_WIDTH, default=hidden // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if keys.get(name, hidden // heads if "value" in name else head_dim) != head_dim:
            raise keys.fault(name, f"is not the length of a key, {head_dim}")
    if head_dim < 1 or head_dim % 2:
        raise keys.fault("attention.key_length", "must be even and at least 2", head_dim)
    n_experts = keys.count("expert_count", _MOST_EXPERTS, default=0, least=0)
    n_used = keys.count("expert_used_count", n_experts, default=0, least=0)
    if bool(n_used) != bool(n_experts):
        raise keys.fault("expert_used_count", f"must be 1 to {n_experts}", n_used)
    for name in ("expert_group_count", "nextn_predict_layers"):
        keys.count(name, 0, default=0, least=0)
    keys.count("context_length", _MOST_CONTEXT)
    keys.check_numbers()
    return Hyperparameters(
        n_layers=keys.count("block_count", _MOST_LAYERS),
        hidden=hidden,
        ffn=keys.count("feed_forward_length", _MOST_WIDTH),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        n_experts=n_experts,
    )


class _Keys:
    """The keys of the architecture, whose types are right already."""

    def __init__(self, header: GGUFHeader) -> None:
        self.path = header.path
        self.metadata = header.metadata

    def get(self, name: str, default: Any = None) -> Any:
        return self.metadata.get(f"{ARCHITECTURE}.{name}", default)

    def fault(self, name: str, reason: str, value: object = None) -> ModelLoadError:
        value = self.get(name, value)
        return ModelLoadError(
            f"{self.path}: damaged GGUF: {ARCHITECTURE}.{name} is {shown(value)}: it {reason}"
        )

    def count(self, name: str, most: int, *, default: int | None = None, least: int = 1) -> int:
        value = self.get(name, default)
        if value is None:
            raise ModelLoadError(f"{self.path}: damaged GGUF: {ARCHITECTURE}.{name} is missing")
        if not least <= value <= most and f"{ARCHITECTURE}.{name}" in self.metadata:
            raise self.fault(name, f"must be {least} to {most}")
        return int(value)

    def check_numbers(self) -> None:
        """The floats: finite, and positive where llama.cpp divides by them or takes roots."""
        if self.get("attention.layer_norm_rms_epsilon") is None:
            raise ModelLoadError(
                f"{self.path}: damaged GGUF: {ARCHITECTURE}.attention.layer_norm_rms_epsilon is missing"
            )
        for name in ("attention.layer_norm_rms_epsilon", "rope.freq_base"):
            if not 0 < self.get(name, 1.0) < math.inf:
                raise self.fault(name, "must be positive")
        for name in ("rope.scale_linear", *(f"rope.scaling.{n}" for n in _SCALINGS)):
            if not 0 <= self.get(name, 1.0) < math.inf:
                raise self.fault(name, "must be positive")
        if self.get("rope.scaling.type", "none") not in _ROPE_SCALINGS:
            raise self.fault("rope.scaling.type", f"must be one of {', '.join(_ROPE_SCALINGS)}")


_SCALINGS = ("factor", "attn_factor", "alpha")


def _check_vocabulary(header: GGUFHeader) -> None:
    metadata = header.metadata
    model = metadata.get("tokenizer.ggml.model")
    if model != "llama":
        raise ModelLoadError(
            f"{header.path}: its tokenizer is {shown(model)}: Code Llama's is SentencePiece, 'llama'"
        )
    tokens: list[str] = metadata.get("tokenizer.ggml.tokens") or []
    scores: list[float] = metadata.get("tokenizer.ggml.scores") or []
    types: list[int] = metadata.get("tokenizer.ggml.token_type") or []
    fault = _unusable(tokens, scores, types)
    if fault:
        raise ModelLoadError(f"{header.path}: damaged GGUF: {fault}")
    if scores_are_lost(metadata):
        check_mendable(header)


def _unusable(tokens: list[str], scores: list[float], types: list[int]) -> str | None:
    for name, column in (("scores", scores), ("token_type", types)):
        if column and len(column) != len(tokens):
            return f"{len(tokens)} tokens, but {len(column)} in tokenizer.ggml.{name}"
    if not all(map(math.isfinite, scores)):
        return "a score in tokenizer.ggml.scores is not finite"
    if types and not 0 <= min(types) <= max(types) <= _MOST_TOKEN_TYPE:
        return f"tokenizer.ggml.token_type must hold 0 to {_MOST_TOKEN_TYPE}"
    return unusable(tokens, types)


def unusable(tokens: Sequence[str], types: Sequence[int]) -> str | None:
    """Why llama.cpp would abort the process with these tokens, now or on some text; None if it would not.

    A text ends for it at a NUL, and an empty one is given a name. No two tokens may have the same, and
    every byte needs its own token, which says which one it is. `types` may be empty.
    """
    for token_id, kind in enumerate(types):
        if kind == TokenType.BYTE and not _BYTE.fullmatch(tokens[token_id]):
            return f"token {token_id}, {shown(tokens[token_id])}, is of type byte, but no <0x00>"
    ids: dict[str, int] = {}
    for token_id, token in enumerate(tokens):
        if "\0" in token:
            return f"token {token_id}, {shown(token)}, has a NUL in it"
        if token in ids:
            return f"tokens {ids[token]} and {token_id} are the same: {shown(token)}"
        if token.startswith("[EMPTY_"):
            return f"token {token_id} is {shown(token)}, the name llama.cpp gives to an empty one"
        ids[token] = token_id
    missing = next((byte for byte in range(256) if f"<0x{byte:02X}>" not in ids), None)
    return None if missing is None else f"there is no token <0x{missing:02X}>"


def _check_tensors(header: GGUFHeader, numbers: Hyperparameters) -> None:
    n_vocab = len(header.metadata["tokenizer.ggml.tokens"])
    _check_rows(header, n_vocab)
    expected = {tensor.name: tensor for tensor in _expected_tensors(numbers, n_vocab)}
    for tensor in header.tensors:
        known = expected.pop(tensor.name, None)
        if known is None:
            raise ModelLoadError(f"{header.path}: {tensor.name!r} is no tensor of a Llama model")
        if _matrix(tensor) != known.shape:
            raise ModelLoadError(
                f"{header.path}: tensor {tensor.name!r} has shape {list(tensor.shape)}, "
                f"the metadata makes it {list(known.shape)}"
            )
        _check_type(header, tensor, vector=known.shape[1] == 1)
        if tensor.offset % DEFAULT_ALIGNMENT:
            raise ModelLoadError(
                f"{header.path}: tensor {tensor.name!r} is at byte {tensor.offset}: mapped into memory, "
                f"it has to be at a multiple of {DEFAULT_ALIGNMENT}"
            )
    missing = next((tensor.name for tensor in expected.values() if tensor.required), None)
    if missing:
        raise ModelLoadError(f"{header.path}: there is no tensor {missing!r}: it is no whole model")


def _check_rows(header: GGUFHeader, n_vocab: int) -> None:
    """Whether a vocabulary without scores has tokens too many, which its converter left in."""
    rows = next((t.shape[-1] for t in header.tensors if t.name == "token_embd.weight"), n_vocab)
    if rows < n_vocab and scores_are_lost(header.metadata):
        raise ModelLoadError(
            f"{header.path}: it has {n_vocab} tokens for an embedding of {rows} rows, and no scores",
            "quantize it, to the type it has if you like, which mends both",
        )


@dataclass(frozen=True)
class _Expected:
    name: str
    shape: tuple[int, int]
    required: bool = True


def _expected_tensors(numbers: Hyperparameters, n_vocab: int) -> Iterator[_Expected]:
    """Every tensor a model may have; `shape` is row length and number of rows, 1 for a vector."""
    yield _Expected("token_embd.weight", (numbers.hidden, n_vocab))
    yield _Expected("output_norm.weight", (numbers.hidden, 1))
    yield _Expected("output.weight", (numbers.hidden, n_vocab), required=False)
    yield _Expected("rope_freqs.weight", (numbers.head_dim // 2, 1), required=False)
    for layer in range(numbers.n_layers):
        for name, shape in _layer_shapes(numbers).items():
            yield _Expected(f"blk.{layer}.{name}.weight", shape)
            if shape[1] > 1:
                yield _Expected(f"blk.{layer}.{name}.bias", (shape[1], 1), required=False)


def _layer_shapes(numbers: Hyperparameters) -> Mapping[str, tuple[int, int]]:
    hidden, ffn = numbers.hidden, numbers.ffn
    q_rows, kv_rows = numbers.heads * numbers.head_dim, numbers.kv_heads * numbers.head_dim
    return {
        "attn_norm": (hidden, 1),
        "attn_q": (hidden, q_rows),
        "attn_k": (hidden, kv_rows),
        "attn_v": (hidden, kv_rows),
        "attn_output": (q_rows, hidden),
        "ffn_norm": (hidden, 1),
        "ffn_gate": (hidden, ffn),
        "ffn_down": (ffn, hidden),
        "ffn_up": (hidden, ffn),
    }


def _matrix(tensor: TensorInfo) -> tuple[int, int] | None:
    """Row length and number of rows; None if there are more dimensions than that."""
    columns, rows, *rest = (*tensor.shape, 1, 1)
    return (int(columns), int(rows)) if set(rest) == {1} else None


def _check_type(header: GGUFHeader, tensor: TensorInfo, *, vector: bool) -> None:
    """ggml adds and multiplies vectors of F32 only, and cannot compute with integers at all."""
    if vector and tensor.type_name != "F32":
        raise ModelLoadError(
            f"{header.path}: tensor {tensor.name!r} is {tensor.type_name}, not F32"
        )
    if not quantizable(tensor_type(tensor.type_name)):
        raise ModelLoadError(
            f"{header.path}: tensor {tensor.name!r} is {tensor.type_name}, which is no type of weights"
        )


def check_adapter(path: str | os.PathLike[str]) -> None:
    """Refuse what is no LoRA adapter for a Llama model; whether it fits a model llama.cpp checks.

    Raises:
        ModelLoadError: the file is damaged, or no such adapter.
    """
    header = read_gguf_header(path)
    check_types(header)
    metadata = header.metadata
    for key, expected in (
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", ARCHITECTURE),
    ):
        if metadata.get(key) != expected:
            raise ModelLoadError(
                f"{path}: no LoRA adapter for a Llama model: {key} is {shown(metadata.get(key))}, "
                f"not {expected!r}"
            )
    if not math.isfinite(metadata.get("adapter.lora.alpha", 1.0)):
        raise ModelLoadError(f"{path}: damaged: adapter.lora.alpha is not finite")
    _check_pairs(header)


def _check_pairs(header: GGUFHeader) -> None:
    pairs: dict[str, dict[str, tuple[int, int]]] = {}
    for tensor in header.tensors:
        found = _HALF_OF_A_PAIR.fullmatch(tensor.name)
        if found is None and tensor.name.endswith("_norm.weight"):
            continue
        shape = _matrix(tensor)
        if found is None or shape is None or ".lora_" in found[1]:
            raise ModelLoadError(f"{header.path}: {tensor.name!r} is no tensor of a LoRA adapter")
        _check_type(header, tensor, vector=False)
        pairs.setdefault(found[1], {})[found[2]] = shape
    for name, halves in pairs.items():
        if len(halves) != 2:
            raise ModelLoadError(f"{header.path}: {name!r} has one half of a pair only")
        rank = halves["a"][0 if name.startswith("token_embd.") else 1]
        if rank != halves["b"][0]:
            raise ModelLoadError(f"{header.path}: the ranks of {name!r} are not the same")
