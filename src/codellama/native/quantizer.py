"""llama.cpp's own quantizer, with every parameter it takes but pruning; no policy."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import llama_cpp

from codellama.native.arrays import Floats
from codellama.native.ggml import TensorType
from codellama.native.library import library


@dataclass(frozen=True)
class QuantizerParams:
    """The fields of `llama_model_quantize_params` under their meaning.

    `file_type` is a `llama_ftype`. `tensor_types` are regular expressions (ECMAScript, searched in the
    name) with the type of tensors they match, the first match counts. `importance` is tensor name to one
    weight per column. With `dry_run` nothing is written and a missing importance matrix is no failure.
    """

    file_type: int
    allow_requantize: bool = False
    pure: bool = False
    quantize_output: bool = True
    output_type: TensorType | None = None
    embedding_type: TensorType | None = None
    tensor_types: Sequence[tuple[str, TensorType]] = ()
    importance: Mapping[str, Floats] = field(default_factory=dict)
    dry_run: bool = False


def quantize_file(source: Path, target: Path, params: QuantizerParams) -> bool:
    """Run `llama_model_quantize` on a GGUF; False if it failed, `library().last_error()` has why."""
    library().clear_errors()
    native = llama_cpp.llama_model_quantize_default_params()
    native.ftype = params.file_type
    native.allow_requantize = params.allow_requantize
    native.pure = params.pure
    native.quantize_output_tensor = params.quantize_output
    native.dry_run = params.dry_run
    if params.output_type is not None:
        native.output_tensor_type = params.output_type.id
    if params.embedding_type is not None:
        native.token_embedding_type = params.embedding_type.id
    # The tables end with an empty entry; they must live until the call returns.
    overrides = _override_table(params.tensor_types)
    importance = _importance_table(params.importance)
    if params.tensor_types:
        native.tt_overrides = overrides
    if params.importance:
        native.imatrix = importance
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(native)
    )
    return bool(status == 0)


def _override_table(
    tensor_types: Sequence[tuple[str, TensorType]],
) -> ctypes.Array[llama_cpp.llama_model_tensor_override]:
    table = (llama_cpp.llama_model_tensor_override * (len(tensor_types) + 1))()
    for entry, (pattern, kind) in zip(table, tensor_types, strict=False):
        entry.pattern, entry.type = pattern.encode(), kind.id
    table[-1].type = llama_cpp.GGML_TYPE_COUNT
    return table


def _importance_table(
    importance: Mapping[str, Floats],
) -> ctypes.Array[llama_cpp.llama_model_imatrix_data]:
    table = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(table, importance.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return table
