"""Which type each tensor gets: llama.cpp is asked, nothing is copied from it.

The question is a skeleton: a GGUF with the real hyperparameters, tensor names and row lengths, but two
rows per matrix. `llama_model_quantize` turns it into the type asked for, and the types are read back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import ConversionError
from codellama.native.ggml import (
    TensorType,
    can_decode,
    file_types,
    library_version,
    quantize_file,
    tensor_type,
)
from codellama.native.library import library
from codellama.weights.gguf_header import (
    GGUFHeader,
    TensorInfo,
    Value,
    encode_header,
    read_gguf_header,
    tensor_offsets,
)
from codellama.weights.source import Source, SourceTensor

_OWN_KEYS = ("general.quantization_version", "general.file_type")


@dataclass(frozen=True)
class Recipe:
    """The answer for one file type: a type for every tensor, and the two keys the quantizer sets."""

    type_name: str
    types: Mapping[str, TensorType]
    keys: Mapping[str, Value]

    @property
    def identity(self) -> dict[str, str]:
        """What, besides the source, makes the result what it is."""
        return {"type": self.type_name, "llama.cpp": library_version()}


def resolve_type(name: str) -> str:
    """The file type that `name` means, in llama.cpp's spelling; upper and lower case are the same.

    Raises:
        ConversionError: there is no such type; the message lists all.
    """
    if name.upper() not in file_types():
        known = ", ".join(file_types())
        raise ConversionError(f"unknown type {name!r}; llama.cpp has {known}")
    return name.upper()


def make_recipe(source: Source, type_name: str, *, allow_requantize: bool = False) -> Recipe:
    """Ask llama.cpp how a file of this type would store the tensors of `source`.

    Raises:
        ConversionError: an unknown type, one that needs an importance matrix, tensors that are
            quantized already (unless `allow_requantize`), or whatever else llama.cpp refuses.
    """
    type_name = resolve_type(type_name)
    header = _ask(source, type_name)
    types = {info.name: tensor_type(info.type_name) for info in header.tensors}
    for tensor in source.tensors:
        _check_change(tensor, types[tensor.name], allow_requantize=allow_requantize)
    return Recipe(type_name, types, {key: header.values[key] for key in _OWN_KEYS})


def _check_change(tensor: SourceTensor, target: TensorType, *, allow_requantize: bool) -> None:
    if target == tensor.type:
        return
    if tensor.type.quantized and not allow_requantize:
        raise ConversionError(
            f"{tensor.path}: {tensor.name} is {tensor.type.name} already: quantizing it again loses "
            "quality; start from BF16, F16 or F32, or pass --allow-requantize"
        )
    if not can_decode(tensor.type):
        raise ConversionError(f"{tensor.path}: {tensor.name} is {tensor.type.name}, not a weight")


def _ask(source: Source, type_name: str) -> GGUFHeader:
    file_type = file_types()[type_name]
    with tempfile.TemporaryDirectory(prefix="codellama-") as folder:
        skeleton, answer = Path(folder, "skeleton.gguf"), Path(folder, "answer.gguf")
        _write_skeleton(source, skeleton)
        if quantize_file(skeleton, answer, file_type, allow_requantize=True):
            return read_gguf_header(answer)
        reason = library().last_error()
        # A dry run differs in one thing: it does not mind that the importance matrix is missing.
        if quantize_file(skeleton, answer, file_type, allow_requantize=True, dry_run=True):
            raise ConversionError(
                f"type {type_name} needs an importance matrix, without one its result would be "
                "useless: choose a type that needs none, such as Q2_K or IQ3_S"
            )
        raise ConversionError(f"{source.path}: llama.cpp cannot make {type_name} of it: {reason}")


def _write_skeleton(source: Source, path: Path) -> None:
    infos = [_shrunk(tensor, verbatim=source.verbatim) for tensor in source.tensors]
    metadata = {
        key: value for key, value in source.metadata.items() if not key.startswith("tokenizer.")
    }
    metadata.pop("general.alignment", None)
    header = encode_header(metadata, infos)
    end = tensor_offsets(len(header), (info.nbytes for info in infos), 32)[-1]
    with path.open("wb") as file:
        file.write(header)
        file.truncate(end)


def _shrunk(tensor: SourceTensor, *, verbatim: bool) -> TensorInfo:
    """The tensor with two rows: with one, llama.cpp would take it for a vector."""
    *outer, rows, columns = (1, *tensor.shape) if len(tensor.shape) == 1 else tensor.shape
    shape = (columns, min(rows, 2), *reversed(outer))
    kind = tensor.type if verbatim else tensor_type("F32")
    n_rows = min(rows, 2)
    for dimension in outer:
        n_rows *= dimension
    return TensorInfo(tensor.name, shape, kind.name, 0, n_rows * kind.row_bytes(columns))


def final_metadata(source: Source, recipe: Recipe) -> dict[str, Value]:
    """The metadata of the result: the source's, and at the end the keys the quantizer sets there."""
    kept = {key: value for key, value in source.metadata.items() if key not in _OWN_KEYS}
    return {**kept, **recipe.keys}
