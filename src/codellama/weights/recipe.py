"""Which type each tensor gets: llama.cpp is asked, nothing is copied from it.

The question is a skeleton: a GGUF with the real hyperparameters, tensor names and row lengths, but two
rows per matrix. `llama_model_quantize` turns it into the type asked for, and the types are read back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from codellama.errors import ConversionError
from codellama.files.gguf_header import (
    GGUFHeader,
    TensorInfo,
    Value,
    ValueType,
    encode_header,
    read_gguf_header,
    tensor_offsets,
)
from codellama.files.imatrix_file import ImportanceMatrix
from codellama.files.provenance import PREFIX, recipe_keys
from codellama.native.arrays import Floats
from codellama.native.ggml import (
    TensorType,
    can_decode,
    file_types,
    library_version,
    requires_importance,
    tensor_type,
)
from codellama.native.library import library
from codellama.native.quantizer import QuantizerParams, quantize_file
from codellama.weights.options import QuantOptions, weight_type
from codellama.weights.source import Source, SourceTensor

_OWN_KEYS = ("general.quantization_version", "general.file_type")
_OUTPUT, _EMBEDDING = "output.weight", "token_embd.weight"
_MOST_TEXT = 127  # bytes of a text that llama-quantize writes


@dataclass(frozen=True)
class Recipe:
    """The answer for one file type: a type for every tensor, and the keys the quantizer sets.

    `importance` has a weight per column for the tensors that the importance matrix knows.
    """

    type_name: str
    types: Mapping[str, TensorType]
    keys: Mapping[str, Value]
    importance: Mapping[str, Floats] = field(default_factory=dict)
    options: str = "none"

    @property
    def identity(self) -> dict[str, str]:
        """What, besides the source, makes the result what it is."""
        return {
            "type": self.type_name,
            "options": self.options,
            "llama.cpp": library_version(),
        }


def resolve_type(name: str) -> str:
    """The file type that `name` means, in llama.cpp's spelling; upper and lower case are the same.

    Raises:
        ConversionError: there is no such type; the message lists all.
    """
    if name.upper() not in file_types():
        known = ", ".join(file_types())
        raise ConversionError(f"unknown type {name!r}; llama.cpp has {known}")
    return name.upper()


def make_recipe(source: Source, type_name: str, options: QuantOptions | None = None) -> Recipe:
    """Ask llama.cpp how a file of this type would store the tensors of `source`.

    Raises:
        ConversionError: an unknown type, one that needs an importance matrix, tensors that are
            quantized already (unless allowed), or whatever else llama.cpp refuses.
    """
    type_name = resolve_type(type_name)
    options = options or QuantOptions()
    header = _ask(source, type_name, options)
    types = {info.name: tensor_type(info.type_name) for info in header.tensors}
    for tensor in source.tensors:
        if options.leave_output and tensor.name == _OUTPUT:
            types[tensor.name] = tensor.type
        _check_change(tensor, types[tensor.name], allow_requantize=options.allow_requantize)
    keys = {key: header.values[key] for key in _OWN_KEYS}
    if options.imatrix:
        keys |= _imatrix_keys(options.imatrix)
    importance = _fitting(source, options.importance)
    return Recipe(type_name, types, keys, importance, options.describe())


def _fitting(source: Source, importance: Mapping[str, Floats]) -> dict[str, Floats]:
    """Those that have a weight for every column of every matrix of their tensor."""
    return {
        tensor.name: importance[tensor.name]
        for tensor in source.tensors
        if tensor.name in importance
        and importance[tensor.name].size == tensor.columns * tensor.n_matrices
    }


def _imatrix_keys(imatrix: ImportanceMatrix) -> dict[str, Value]:
    """What llama-quantize notes; the file's name goes without its folders, which mean nothing here."""

    def text(value: str) -> Value:
        return Value(ValueType.STRING, value.encode()[:_MOST_TEXT].decode(errors="ignore"))

    keys = {"quantize.imatrix.file": text(imatrix.path.name)}
    if imatrix.datasets:
        keys["quantize.imatrix.dataset"] = text(imatrix.datasets[0])
    keys["quantize.imatrix.entries_count"] = Value(ValueType.UINT32, len(imatrix.entries))
    if imatrix.n_chunks > 0:
        keys["quantize.imatrix.chunks_count"] = Value(ValueType.UINT32, imatrix.n_chunks)
    return keys


def _check_change(tensor: SourceTensor, target: TensorType, *, allow_requantize: bool) -> None:
    if target == tensor.type:
        return
    if tensor.type.quantized and not allow_requantize:
        raise ConversionError(
            f"{tensor.path}: {tensor.name} is {tensor.type.name} already",
            "quantizing it again loses quality; start from BF16, F16 or F32, or pass {allow_requantize}",
        )
    if not can_decode(tensor.type):
        raise ConversionError(f"{tensor.path}: {tensor.name} is {tensor.type.name}, not a weight")


def _ask(source: Source, type_name: str, options: QuantOptions) -> GGUFHeader:
    with tempfile.TemporaryDirectory(prefix="codellama-") as folder:
        skeleton = Path(folder, "skeleton.gguf")
        _write_skeleton(source, skeleton)
        if options.imatrix or options.names_types:
            filled = _filled(source, options)
            _check_patterns(source, skeleton, type_name, options, filled)
            trial = _quantized(source, skeleton, type_name, options, filled)
            _check_importance(source, trial, options)
        return _quantized(source, skeleton, type_name, options, options.importance)


def _filled(source: Source, options: QuantOptions) -> dict[str, Floats]:
    """The importance of every tensor, made up where none is known: with it no type can fail."""
    known = _fitting(source, options.importance)
    return {
        tensor.name: known.get(tensor.name, np.ones(tensor.columns * tensor.n_matrices, np.float32))
        for tensor in source.tensors
    }


def _check_patterns(
    source: Source,
    skeleton: Path,
    type_name: str,
    options: QuantOptions,
    filled: Mapping[str, Floats],
) -> None:
    """Refuse a pattern of `tensor_types` that llama.cpp finds in no name of a weight it would quantize.

    Its kind of regular expressions is not Python's, so it is asked: with another type, something changes.
    """
    if type_name in ("F32", "F16", "BF16"):  # there they are ignored, as QuantOptions says
        return
    for pattern, _ in options.tensor_types:
        found = []
        for kind in ("F32", "F16"):
            alone = replace(options, tensor_types=((pattern, kind),))
            header = _quantized(source, skeleton, type_name, alone, filled)
            found.append([info.type_name for info in header.tensors])
        if found[0] == found[1]:
            raise ConversionError(
                f"{pattern!r} matches no weight of {source.path}",
                "give {tensor_types} a part of a tensor's name, such as attn_v or blk.0.ffn_down",
            )


def _check_importance(source: Source, trial: GGUFHeader, options: QuantOptions) -> None:
    """Refuse what would make ggml abort the process: some types cannot do without importance."""
    known = _fitting(source, options.importance)
    types = {info.name: tensor_type(info.type_name) for info in trial.tensors}
    for tensor in source.tensors:
        kind = types[tensor.name]
        if kind == tensor.type or tensor.name in known or not requires_importance(kind):
            continue
        sentence = f"{tensor.name} would be {kind.name}, which needs an importance matrix"
        remedies = []
        if options.imatrix:
            sentence += f", and {options.imatrix.path} has none for it"
        else:
            remedies.append("there is no {imatrix}")
        if tensor.name in (_OUTPUT, _EMBEDDING):
            setting = "{output_type}" if tensor.name == _OUTPUT else "{embedding_type}"
            remedies.append(f"choose another type for it with {setting}")
        raise ConversionError(sentence, "; ".join(remedies))


def _quantized(
    source: Source,
    skeleton: Path,
    type_name: str,
    options: QuantOptions,
    importance: Mapping[str, Floats],
) -> GGUFHeader:
    answer = skeleton.with_name("answer.gguf")
    params = _params(type_name, options, importance)
    if quantize_file(skeleton, answer, params):
        return read_gguf_header(answer)
    reason = library().last_error()
    # A dry run differs in one thing: it does not mind that the importance matrix is missing.
    if not options.imatrix and quantize_file(skeleton, answer, replace(params, dry_run=True)):
        raise ConversionError(
            f"type {type_name} needs an importance matrix, without one its result would be useless",
            "give one with {imatrix}, or choose a type that needs none, such as Q2_K or IQ3_S",
        )
    raise ConversionError(f"{source.path}: llama.cpp cannot make {type_name} of it: {reason}")


def _params(
    type_name: str, options: QuantOptions, importance: Mapping[str, Floats]
) -> QuantizerParams:
    return QuantizerParams(
        file_type=file_types()[type_name],
        allow_requantize=True,
        pure=options.pure,
        quantize_output=not options.leave_output,
        output_type=weight_type(options.output_type) if options.output_type else None,
        embedding_type=weight_type(options.embedding_type) if options.embedding_type else None,
        # llama-quantize takes patterns in lower case, whatever was typed.
        tensor_types=[(text.lower(), weight_type(kind)) for text, kind in options.tensor_types],
        importance=importance,
    )


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
    """The metadata of the result: the source's, then the keys the quantizer sets there, then ours."""
    kept = {
        key: value
        for key, value in source.metadata.items()
        if key not in recipe.keys and not key.startswith(PREFIX)
    }
    own = {**source.provenance, **recipe_keys(recipe.type_name, recipe.options)}
    return {**kept, **recipe.keys, **own}
