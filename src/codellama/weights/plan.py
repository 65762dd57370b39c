"""Plan: for every tensor its source bytes, its type and its place in the output. Exact, and pure."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import ConversionError
from codellama.files.gguf_header import (
    TensorInfo,
    Value,
    ValueType,
    alignment_of,
    encode_header,
    tensor_offsets,
)
from codellama.files.provenance import PREFIX
from codellama.native.arrays import Floats
from codellama.native.ggml import TensorType
from codellama.weights.recipe import Recipe, final_metadata
from codellama.weights.source import Source, SourceTensor
from codellama.weights.tensors import file_order

SLAB_ELEMENTS = 2**20
"""Weights converted at once by one thread: 4 MiB as F32, enough to make the overhead vanish."""

_MAX_FILES = 99_999  # five digits in the names of split files, and split.count has 16 bits
_ALIGNMENT = 32


@dataclass(frozen=True)
class Slab:
    """Some whole rows of a matrix, the unit of work: any thread can convert any slab at any time.

    `number` counts the slabs of a source in the order they are read.
    """

    number: int
    tensor: SourceTensor
    first_row: int
    n_rows: int

    @property
    def source_bytes(self) -> int:
        return self.n_rows * self.tensor.row_bytes


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the output: its bytes go to `offset` of the file with number `file`."""

    source: SourceTensor
    type: TensorType
    file: int
    offset: int
    nbytes: int

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.source.columns)


@dataclass(frozen=True)
class PlannedFile:
    """One file of the output: `header` up to the first tensor, and `nbytes` in all."""

    header: bytes
    nbytes: int


@dataclass(frozen=True)
class Plan:
    """The output: one file, or several for a split GGUF; `tensors` in file order.

    `identity` names what makes the bytes what they are. A run can be continued only by a plan with
    the same identity. `weights` are the importance of columns, by tensor,
    `provenance` the keys of ours among the metadata.
    """

    type_name: str
    files: tuple[PlannedFile, ...]
    tensors: tuple[PlannedTensor, ...]
    identity: Mapping[str, str]
    weights: Mapping[str, Floats]
    provenance: Mapping[str, Value]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in self.files)

    @property
    def types(self) -> dict[str, int]:
        """Number of tensors of each type, most frequent first."""
        return dict(Counter(tensor.type.name for tensor in self.tensors).most_common())

    @property
    def made_types(self) -> set[TensorType]:
        """The types that have to be made: a tensor that keeps its type is copied."""
        return {tensor.type for tensor in self.tensors if tensor.type != tensor.source.type}

    @functools.cached_property
    def by_name(self) -> Mapping[str, PlannedTensor]:
        return {tensor.source.name: tensor for tensor in self.tensors}

    def importance(self, slab: Slab) -> Floats | None:
        """The weights of a slab's columns, if there are any."""
        known = self.weights.get(slab.tensor.name)
        if known is None:
            return None
        columns = slab.tensor.columns
        matrix = slab.first_row // (slab.tensor.rows // slab.tensor.n_matrices)
        return known[matrix * columns : (matrix + 1) * columns]

    def place(self, slab: Slab) -> tuple[int, int, int]:
        """Where a slab's bytes go: number of the file, offset in it, count."""
        planned = self.by_name[slab.tensor.name]
        row_bytes = planned.row_bytes
        return planned.file, planned.offset + slab.first_row * row_bytes, slab.n_rows * row_bytes


def make_plan(source: Source, recipe: Recipe, max_file_bytes: int | None = None) -> Plan:
    """Lay out the output that `recipe` makes of `source`.

    With `max_file_bytes` the tensors are spread over files of at most so many bytes of weights, as
    llama.cpp's gguf-split does it; a single larger tensor gets a file to itself.
    """
    metadata = final_metadata(source, recipe)
    tensors = sorted(source.tensors, key=lambda tensor: file_order(tensor.name))
    infos = [_info(tensor, recipe.types[tensor.name]) for tensor in tensors]
    groups = _groups([info.nbytes for info in infos], max_file_bytes)
    files, planned = [], []
    for number, group in enumerate(groups):
        values = _file_metadata(metadata, number, len(groups), len(tensors))
        part = infos[group.start : group.stop]
        header = encode_header(values, part)
        *offsets, end = tensor_offsets(
            len(header), [info.nbytes for info in part], alignment_of(values)
        )
        files.append(PlannedFile(header, end))
        for tensor, info, offset in zip(
            tensors[group.start : group.stop], part, offsets, strict=True
        ):
            kind = recipe.types[tensor.name]
            planned.append(PlannedTensor(tensor, kind, number, offset, info.nbytes))
    identity = _identity(source, recipe, max_file_bytes, files)
    return Plan(
        recipe.type_name,
        tuple(files),
        tuple(planned),
        identity,
        recipe.importance,
        {key: value for key, value in metadata.items() if key.startswith(PREFIX)},
    )


def _info(tensor: SourceTensor, kind: TensorType) -> TensorInfo:
    nbytes = tensor.rows * kind.row_bytes(tensor.columns)
    return TensorInfo(tensor.name, tensor.shape[::-1], kind.name, 0, nbytes)


def _groups(sizes: Sequence[int], limit: int | None) -> list[range]:
    """Which tensors share a file: as many as fit in `limit` bytes, counted with their padding."""
    begins, filled = [0], 0
    for index, size in enumerate(sizes):
        padded = -(-size // _ALIGNMENT) * _ALIGNMENT
        if limit is not None and filled and filled + padded > limit:
            begins.append(index)
            filled = 0
        filled += padded
    if len(begins) > _MAX_FILES or len(begins) >= 2**16:
        raise ConversionError(
            f"a file size of {limit} bytes makes {len(begins)} files: choose a larger one"
        )
    return [range(*bounds) for bounds in zip(begins, [*begins[1:], len(sizes)], strict=True)]


def _file_metadata(
    metadata: Mapping[str, Value], number: int, n_files: int, n_tensors: int
) -> dict[str, Value]:
    """The keys of one file: all are in the first; where it is split, each says which part it is."""
    if n_files == 1:
        return dict(metadata)
    return {
        **(metadata if number == 0 else {}),
        "split.no": Value(ValueType.UINT16, number),
        "split.count": Value(ValueType.UINT16, n_files),
        "split.tensors.count": Value(ValueType.INT32, n_tensors),
    }


def _identity(
    source: Source, recipe: Recipe, max_file_bytes: int | None, files: Iterable[PlannedFile]
) -> dict[str, str]:
    layout = hashlib.sha256()
    for file in files:
        layout.update(file.header)
    for slab in slabs(source.tensors):
        if slab.first_row == 0:
            layout.update(f"{slab.number} {slab.tensor.name} {slab.tensor.heads}\n".encode())
    return {
        **source.identity,
        **recipe.identity,
        "split size": "none" if max_file_bytes is None else str(max_file_bytes),
        "layout": layout.hexdigest(),
    }


def reading_order(tensors: Iterable[SourceTensor]) -> list[SourceTensor]:
    """Tensors file by file and from front to back, so that a source is read once and in order."""
    return sorted(tensors, key=lambda tensor: (tensor.path, tensor.offset))


def slabs(tensors: Iterable[SourceTensor]) -> Iterator[Slab]:
    """All the work, in reading order."""
    number = 0
    for tensor in reading_order(tensors):
        step = _rows_per_slab(tensor)
        per_matrix = tensor.rows // tensor.n_matrices
        for start in range(0, tensor.rows, per_matrix):
            for first in range(start, start + per_matrix, step):
                yield Slab(number, tensor, first, min(step, start + per_matrix - first))
                number += 1


def files_of(work: Iterable[Slab]) -> list[Path]:
    """The files that slabs are read from, in the order of their first use."""
    return list({path: None for slab in work for path in slab.tensor.files})


def _rows_per_slab(tensor: SourceTensor) -> int:
    """Whole heads where rows of a head change places."""
    step = max(1, SLAB_ELEMENTS // tensor.columns)
    if tensor.heads:
        head_dim = tensor.rows // tensor.heads
        step = max(1, step // head_dim) * head_dim
    return step
