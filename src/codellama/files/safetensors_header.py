"""The header of a safetensors file, read strictly.

A shard is believed only if its header accounts for every byte of it: known dtypes, shapes that give the
bytes claimed, tensors that follow each other without gap or overlap up to the end of the file.
Format: README of huggingface/safetensors.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import CheckpointError
from codellama.files.identify import recognised
from codellama.files.small_files import MOST_BYTES, parse_json, shown

MAX_HEADER = MOST_BYTES
"""Longest header that is read, in bytes: the format allows more, a Llama of 512 layers needs a million."""

_MOST_DIMS = 8
_MOST_NAME = 512

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of one number of each type, under safetensors' names of the types."""


@dataclass(frozen=True)
class SafeTensor:
    """A tensor in a shard: `shape` outermost first, `offset` in bytes from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


def read_safetensors_header(path: Path) -> list[SafeTensor]:
    """The tensors of the shard at `path`, in the order of their data.

    Raises:
        CheckpointError: the file cannot be read, is truncated, or its header is not as it should be.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = header_length(path, file.read(8), size)
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_header(path, text, length, size)


def parse_header(path: Path, text: bytes, length: int, size: int) -> list[SafeTensor]:
    """The tensors that the header `text` of a file of `size` bytes describes.

    Raises:
        CheckpointError: as `read_safetensors_header`.
    """
    if len(text) != length:
        raise CheckpointError(f"{path}: the file changed while it was read")
    return _check_entries(path, _parse(path, text), 8 + length, size)


def header_length(path: Path, prefix: bytes, size: int) -> int:
    """Bytes of the header behind the first eight, `prefix`, of a file of `size` bytes."""
    if len(prefix) < 8:
        raise recognised(path, CheckpointError) or CheckpointError(
            f"{path}: truncated: {size} bytes are no safetensors file"
        )
    length: int = struct.unpack("<Q", prefix)[0]
    if length > MAX_HEADER:
        raise recognised(path, CheckpointError) or CheckpointError(
            f"{path}: not a safetensors file (its header claims {length} bytes)"
        )
    if length > size - 8:
        raise CheckpointError(
            f"{path}: truncated: the header needs {length + 8} bytes, the file has {size}; "
            "download it again"
        )
    return length


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = parse_json(text)
    except ValueError as error:
        raise CheckpointError(
            f"{path}: not a safetensors file (its header is not JSON: {error})"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: not a safetensors file (its header is no JSON object)")
    header.pop("__metadata__", None)
    return header


def _check_entries(
    path: Path, header: dict[str, Any], data_start: int, size: int
) -> list[SafeTensor]:
    tensors = [_entry(path, name, entry, data_start) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    end = data_start
    for tensor in tensors:
        if tensor.offset != end:
            raise CheckpointError(f"{path}: damaged header: {tensor.name} overlaps or leaves a gap")
        end += tensor.nbytes
    if end > size:
        raise CheckpointError(
            f"{path}: truncated: its tensors need {end} bytes, the file has {size}; "
            "download it again"
        )
    if end < size:
        raise CheckpointError(f"{path}: {size - end} bytes behind its last tensor belong to none")
    return tensors


def _entry(path: Path, name: str, entry: object, data_start: int) -> SafeTensor:
    if not is_tensor_name(name):
        raise CheckpointError(f"{path}: damaged header: {shown(name)} is no name of a tensor")
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged header: entry of {name}") from error
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if len(numbers) > _MOST_DIMS + 2 or not all(map(_is_count, numbers)):
        raise CheckpointError(f"{path}: damaged header: shape or offsets of {name}")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError(f"{path}: {name} has dtype {shown(dtype)}, which is not known")
    nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != nbytes:
        raise CheckpointError(
            f"{path}: damaged header: {name} is {dtype} {shape}, {nbytes} bytes, "
            f"but spans {end - begin}"
        )
    return SafeTensor(name, dtype, tuple(shape), path, data_start + begin, nbytes)


def is_tensor_name(name: str) -> bool:
    """Whether a tensor can be called so: people get to see it, and no real name is as long."""
    return len(name) <= _MOST_NAME and name.isprintable()


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**63
