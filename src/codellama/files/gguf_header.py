"""The header of a GGUF file, read strictly and written.

Reading trusts nothing: no count, length or offset is believed before it is checked against the bytes
that are really there, so a hostile file costs an error message and not memory. Only the header is
read, never tensor data. Format: docs/gguf.md of ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from codellama.errors import ModelLoadError
from codellama.files.cut_file import JoinedFile
from codellama.files.identify import recognised
from codellama.files.small_files import shown
from codellama.native.ggml import tensor_types

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32

# Real headers: 16 million bytes, 800 thousand items, two thousand tensors. In Python all of this becomes
# objects, so what a small file can cost is bounded here.
_MAX_HEADER = 32 * 2**20
_MAX_ITEMS = 2**20  # of all arrays together
_MAX_ENTRIES = 2**16  # tensors, and metadata entries
_MAX_NAME = 63  # GGML_MAX_NAME of ggml.h, less the end of string
_MAX_ALIGNMENT = 2**20


class ValueType(IntEnum):
    """The types of metadata values, by their number in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_FORMATS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


@dataclass(frozen=True)
class Value:
    """A metadata value with the type it has in the file; `item_type` is set for arrays only."""

    type: ValueType
    value: Any
    item_type: ValueType | None = None


@dataclass(frozen=True)
class TensorInfo:
    """A tensor: `shape` as ggml has it (row length first), `offset` in bytes from the file's start."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GGUFHeader:
    """What stands before the tensor data. `data_offset` is where that begins, in bytes."""

    path: Path
    version: int
    values: Mapping[str, Value]
    tensors: list[TensorInfo]
    data_offset: int
    alignment: int

    @functools.cached_property
    def metadata(self) -> dict[str, Any]:
        """Key to plain value; arrays are lists."""
        return {key: value.value for key, value in self.values.items()}


def read_gguf_header(path: str | os.PathLike[str]) -> GGUFHeader:
    """Read and check the header of the GGUF file at `path`, or that begins there (see `cut_file`).

    Raises:
        ModelLoadError: no such file, not a GGUF, a version or type that is not known, a truncated
            file, or a header that contradicts itself; the message names the file and the fault.
    """
    path = Path(path)
    try:
        with JoinedFile(path) as file:
            return _Reader(path, file).header()
    except IsADirectoryError as error:
        raise recognised(path, ModelLoadError) or ModelLoadError(
            f"{path}: is a folder, not a GGUF file"
        ) from error
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read: {error.strerror}") from error


class _Reader:
    """A position in the file and the number of bytes left; every read is checked against it."""

    def __init__(self, path: Path, file: JoinedFile) -> None:
        self.path = path
        self.file = file
        self.size = file.size
        self.position = 0
        self.items = 0

    def fault(self, message: str) -> ModelLoadError:
        return ModelLoadError(f"{self.path}: {message}")

    def other(self, message: str) -> ModelLoadError:
        """What the file is instead, if that can be told, or `message`."""
        return recognised(self.path, ModelLoadError) or self.fault(message)

    def header(self) -> GGUFHeader:
        version, n_tensors, n_values = self._counts()
        values = self._values(n_values)
        alignment = self._alignment(values)
        entries = [self._tensor_entry() for _ in range(n_tensors)]
        data_offset = _padded(self.position, alignment)
        tensors = self._tensors(entries, data_offset, alignment)
        return GGUFHeader(self.path, version, values, tensors, data_offset, alignment)

    def take(self, n_bytes: int, what: str) -> bytes:
        if n_bytes > self.size - self.position:
            raise self.fault(
                f"truncated GGUF: the file ends inside {what}; fetch or write it again"
            )
        if self.position + n_bytes > _MAX_HEADER:
            raise self.fault(
                f"damaged GGUF: its header claims more than {_MAX_HEADER} bytes, in {what}"
            )
        data = self.file.read(n_bytes)
        if len(data) != n_bytes:
            raise self.fault(f"the file changed while {what} was read")
        self.position += n_bytes
        return data

    def number(self, value_type: ValueType, what: str) -> Any:
        code = struct.Struct("<" + _FORMATS[value_type])
        return code.unpack(self.take(code.size, what))[0]

    def string(self, what: str, limit: int = _MAX_HEADER) -> str:
        length = self.number(ValueType.UINT64, what)
        if length > limit:
            raise self.fault(f"damaged GGUF: {what} claims {length} bytes")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fault(f"damaged GGUF: {what} is not UTF-8") from error

    def name(self, what: str, limit: int) -> str:
        """A string that names something: it ends for llama.cpp at a NUL, and people get to see it."""
        name = self.string(what, limit)
        if not name or not name.isprintable():
            raise self.fault(f"damaged GGUF: {what} is no name: {shown(name)}")
        return name

    def _counts(self) -> tuple[int, int, int]:
        if self.size < len(MAGIC) or self.take(len(MAGIC), "its magic number") != MAGIC:
            raise self.other("not a GGUF file (it does not begin with GGUF)")
        version = self.number(ValueType.UINT32, "its version")
        if version not in (2, 3):
            raise self.other(f"GGUF version {version} is not supported: 2 and 3 are")
        n_tensors = self.number(ValueType.UINT64, "the tensor count")
        n_values = self.number(ValueType.UINT64, "the metadata count")
        # The smallest entries: a nameless tensor without dimensions, an empty key with one byte.
        if n_tensors * 24 + n_values * 13 > self.size - self.position:
            raise self.fault(
                f"truncated or damaged GGUF: {n_tensors} tensors and {n_values} metadata entries "
                f"do not fit in {self.size} bytes"
            )
        if max(n_tensors, n_values) > _MAX_ENTRIES:
            raise self.fault(
                f"damaged GGUF: {n_tensors} tensors and {n_values} metadata entries are absurdly many"
            )
        return version, n_tensors, n_values

    def _values(self, count: int) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for index in range(count):
            key = self.name(f"metadata key {index + 1} of {count}", limit=65535)
            if key in values:
                raise self.fault(f"damaged GGUF: metadata key {shown(key)} appears twice")
            values[key] = self._value(f"metadata {shown(key)}")
        return values

    def _value(self, what: str) -> Value:
        value_type = self._value_type(what)
        if value_type is ValueType.STRING:
            return Value(value_type, self.string(what))
        if value_type is ValueType.ARRAY:
            return self._array(what)
        return Value(value_type, self.number(value_type, what))

    def _value_type(self, what: str) -> ValueType:
        number = self.number(ValueType.UINT32, what)
        try:
            return ValueType(number)
        except ValueError:
            raise self.fault(f"damaged GGUF: {what} has unknown type {number}") from None

    def _array(self, what: str) -> Value:
        item_type = self._value_type(what)
        if item_type is ValueType.ARRAY:
            raise self.fault(f"damaged GGUF: {what} is an array of arrays")
        count = self.number(ValueType.UINT64, what)
        self.items += count
        if self.items > _MAX_ITEMS:
            raise self.fault(f"damaged GGUF: {what} claims {count} items")
        if item_type is ValueType.STRING:
            if count * 8 > self.size - self.position:
                raise self.fault(f"truncated GGUF: {what} claims {count} strings")
            return Value(ValueType.ARRAY, [self.string(what) for _ in range(count)], item_type)
        code = struct.Struct(f"<{count}{_FORMATS[item_type]}")
        return Value(ValueType.ARRAY, list(code.unpack(self.take(code.size, what))), item_type)

    def _alignment(self, values: Mapping[str, Value]) -> int:
        entry = values.get("general.alignment", Value(ValueType.UINT32, DEFAULT_ALIGNMENT))
        alignment = entry.value
        if entry.type is not ValueType.UINT32 or alignment.bit_count() != 1:
            raise self.fault(
                f"damaged GGUF: general.alignment {shown(alignment)} is no power of two"
            )
        if alignment > _MAX_ALIGNMENT:
            raise self.fault(f"damaged GGUF: general.alignment is {alignment}")
        return int(alignment)

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.name("a tensor name", limit=_MAX_NAME)
        what = f"tensor {name!r}"
        n_dims = self.number(ValueType.UINT32, what)
        if not 1 <= n_dims <= 4:
            raise self.fault(f"damaged GGUF: {what} has {n_dims} dimensions")
        shape = tuple(self.number(ValueType.UINT64, what) for _ in range(n_dims))
        if 0 in shape:
            raise self.fault(f"damaged GGUF: {what} is empty: {list(shape)}")
        type_number = self.number(ValueType.UINT32, what)
        return name, shape, type_number, self.number(ValueType.UINT64, what)

    def _tensors(
        self, entries: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> list[TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        end = start
        for name, shape, type_number, offset in entries:
            nbytes = self._nbytes(name, shape, type_number)
            if name in tensors:
                raise self.fault(f"damaged GGUF: tensor {name!r} appears twice")
            # llama.cpp refuses gaps and overlaps too: each tensor begins where the last one ended.
            if start + offset != end:
                raise self.fault(
                    f"damaged GGUF: tensor {name!r} is at {offset}, not at {end - start}"
                )
            if end + nbytes > self.size:
                raise self.fault(
                    f"truncated GGUF: tensor {name!r} ends at byte {end + nbytes}, the file at "
                    f"{self.size}; fetch or write it again"
                )
            type_name = tensor_types()[type_number].name
            tensors[name] = TensorInfo(name, shape, type_name, end, nbytes)
            end += _padded(nbytes, alignment)
        return list(tensors.values())

    def _nbytes(self, name: str, shape: tuple[int, ...], type_number: int) -> int:
        kind = tensor_types().get(type_number)
        if kind is None:
            raise self.fault(
                f"tensor {name!r} has type {type_number}, which this llama.cpp does not know"
            )
        columns, *rest = shape
        if columns % kind.block_size:
            raise self.fault(
                f"damaged GGUF: rows of {name!r} have {columns} elements, {kind.name} "
                f"needs a multiple of {kind.block_size}"
            )
        nbytes = kind.row_bytes(columns)
        for dimension in rest:
            nbytes *= dimension
        return nbytes


def encode_header(values: Mapping[str, Value], tensors: Iterable[TensorInfo]) -> bytes:
    """The header of a version 3 file, up to the first tensor; offsets of `tensors` are ignored.

    Tensors lie behind each other in the order given, as `tensor_offsets` says.
    """
    tensors = list(tensors)
    alignment = alignment_of(values)
    parts = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(values))]
    for key, value in values.items():
        parts += [_encode_string(key), struct.pack("<I", value.type), encode_value(value)]
    offset = 0
    numbers = {kind.name: kind.id for kind in tensor_types().values()}
    for tensor in tensors:
        parts += [
            _encode_string(tensor.name),
            struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape),
            struct.pack("<IQ", numbers[tensor.type_name], offset),
        ]
        offset += _padded(tensor.nbytes, alignment)
    data = b"".join(parts)
    return data + bytes(_padded(len(data), alignment) - len(data))


def tensor_offsets(header_bytes: int, nbytes: Iterable[int], alignment: int) -> list[int]:
    """Where tensors of these sizes begin behind the header, and after them where the file ends."""
    offsets = [header_bytes]
    for size in nbytes:
        offsets.append(offsets[-1] + _padded(size, alignment))
    return offsets


def alignment_of(values: Mapping[str, Value]) -> int:
    """The alignment of tensor data, in bytes."""
    entry = values.get("general.alignment")
    return DEFAULT_ALIGNMENT if entry is None else int(entry.value)


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _encode_string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def encode_value(value: Value) -> bytes:
    """A value as it stands in the file, behind its key and type."""
    if value.type is ValueType.STRING:
        return _encode_string(value.value)
    if value.type is not ValueType.ARRAY:
        return struct.pack("<" + _FORMATS[value.type], value.value)
    if value.item_type is None:
        raise ValueError("an array needs an item type")
    head = struct.pack("<IQ", value.item_type, len(value.value))
    if value.item_type is ValueType.STRING:
        return head + b"".join(map(_encode_string, value.value))
    return head + struct.pack(f"<{len(value.value)}{_FORMATS[value.item_type]}", *value.value)
