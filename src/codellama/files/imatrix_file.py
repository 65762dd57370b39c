"""Importance matrices in a file: the current GGUF format of llama-imatrix, and the old `.dat`.

For every matrix of the model the file has, column by column, how large the square of what it is
multiplied with was on average over some text. Formats: tools/imatrix and common/imatrix-loader.cpp of
llama.cpp. Reading is strict, like that of any GGUF.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codellama.errors import ConversionError, ModelLoadError
from codellama.files.gguf_header import MAGIC, GGUFHeader, TensorInfo, read_gguf_header
from codellama.native.arrays import Floats

DATASETS = "imatrix.datasets"
CHUNK_COUNT = "imatrix.chunk_count"
CHUNK_SIZE = "imatrix.chunk_size"
SUMS = ".in_sum2"
COUNTS = ".counts"

_MOST_BYTES = 2**30
_MOST_VALUES = 2**28
_MOST_NAME = 2**12


@dataclass(frozen=True)
class ImportanceMatrix:
    """Mean squares by tensor name; `n_chunks` pieces of `datasets` went into them.

    A tensor of several matrices (experts) has their columns one after the other. `digest` is the
    SHA-256 of the file.
    """

    path: Path
    entries: Mapping[str, Floats]
    datasets: tuple[str, ...]
    n_chunks: int
    digest: str


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read an importance matrix of either format.

    Raises:
        ConversionError: the file is missing, damaged, or something else.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise ConversionError(f"{path}: {size} bytes are no importance matrix")
        data = path.read_bytes()
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    read = _read_gguf if data.startswith(MAGIC) else _read_legacy
    with np.errstate(all="ignore"):  # what is not finite is refused below
        entries, datasets, n_chunks = read(path, data)
    for name, values in entries.items():
        if not np.isfinite(values).all():
            raise ConversionError(f"{path}: the importance of {name} is not finite")
    return ImportanceMatrix(path, entries, datasets, n_chunks, digest)


_Contents = tuple[dict[str, Floats], tuple[str, ...], int]


def _read_gguf(path: Path, data: bytes) -> _Contents:
    try:
        header = read_gguf_header(path)
    except ModelLoadError as error:
        raise ConversionError(str(error)) from error
    missing = [key for key in (DATASETS, CHUNK_COUNT, CHUNK_SIZE) if key not in header.metadata]
    if missing:
        raise ConversionError(f"{path}: no importance matrix: it has no {missing[0]}")
    datasets, n_chunks = header.metadata[DATASETS], header.metadata[CHUNK_COUNT]
    if not _is_texts(datasets) or type(n_chunks) is not int or not 0 <= n_chunks < 2**31:
        raise ConversionError(f"{path}: damaged: {DATASETS} or {CHUNK_COUNT} is of a wrong type")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    names = sorted({name.removesuffix(SUMS).removesuffix(COUNTS) for name in tensors})
    if not names:
        raise ConversionError(f"{path}: there is no data in it")
    entries = {}
    for name in names:
        sums, counts = tensors.get(name + SUMS), tensors.get(name + COUNTS)
        if sums is None or counts is None:
            raise ConversionError(f"{path}: damaged: sums and counts of {name} do not match")
        entries[name] = _mean(
            path, name, _values(header, sums, data), _values(header, counts, data)
        )
    return entries, tuple(datasets), n_chunks


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _values(header: GGUFHeader, tensor: TensorInfo, data: bytes) -> Floats:
    if tensor.type_name != "F32":
        raise ConversionError(f"{header.path}: damaged: {tensor.name} is {tensor.type_name}")
    count = tensor.nbytes // 4
    return np.frombuffer(data, "<f4", count, tensor.offset).astype(np.float32)


def _mean(path: Path, name: str, sums: Floats, counts: Floats) -> Floats:
    """Sums divided by counts, matrix by matrix; 1 where nothing was counted."""
    if sums.size % counts.size or not np.isfinite(counts).all():
        raise ConversionError(f"{path}: damaged: counts of {name}")
    per_matrix = np.floor(counts + np.float32(0.5)).reshape(-1, 1)
    rows = sums.reshape(counts.size, -1)
    counted = np.broadcast_to(per_matrix > 0, rows.shape)
    mean = np.ones_like(rows)
    np.divide(rows, per_matrix, out=mean, where=counted)
    return mean.reshape(-1)


def _read_legacy(path: Path, data: bytes) -> _Contents:
    reader = _Legacy(path, data)
    n_entries = reader.number("the number of entries")
    # The smallest entry: no name, two numbers, one value.
    if not 1 <= n_entries <= len(data) // 16:
        raise ConversionError(f"{path}: not an importance matrix (neither GGUF nor the old format)")
    entries: dict[str, Floats] = {}
    for _ in range(n_entries):
        name = reader.text(reader.number("a name"), "a name")
        n_calls = reader.number(f"the calls of {name!r}")
        sums = reader.floats(reader.number(f"the values of {name!r}"), f"the values of {name!r}")
        entries[name] = sums / np.float32(n_calls) if n_calls > 0 else sums
    n_chunks = reader.number("the number of chunks") if reader.left else 0
    dataset = reader.text(reader.number("the dataset"), "the dataset") if reader.left else ""
    return entries, (dataset,) if dataset else (), n_chunks


class _Legacy:
    """A position in a `.dat`; every read is checked against what is left."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.data = data
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int, what: str) -> bytes:
        if not 0 <= count <= self.left:
            raise ConversionError(
                f"{self.path}: no importance matrix, or truncated: it ends inside {what}"
            )
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, what: str) -> int:
        value: int = struct.unpack("<i", self.take(4, what))[0]
        return value

    def text(self, count: int, what: str) -> str:
        if count > _MOST_NAME:
            raise ConversionError(f"{self.path}: no importance matrix: {what} has {count} bytes")
        text = self.take(count, what).partition(b"\0")[0].decode("utf-8", "replace")
        if "\ufffd" in text or not text.isprintable():
            raise ConversionError(f"{self.path}: damaged: {what} cannot be printed")
        return text

    def floats(self, count: int, what: str) -> Floats:
        if not 1 <= count <= _MOST_VALUES:
            raise ConversionError(f"{self.path}: damaged: {what}: {count}")
        return np.frombuffer(self.take(4 * count, what), "<f4").astype(np.float32)
