"""Plan: for every tensor its source bytes, its type and its place in the output. Exact, and pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from codellama.native.ggml import TensorType
from codellama.weights.gguf_header import (
    TensorInfo,
    Value,
    alignment_of,
    encode_header,
    tensor_offsets,
)
from codellama.weights.recipe import Recipe, final_metadata
from codellama.weights.source import Source, SourceTensor
from codellama.weights.tensors import file_order

SLAB_ELEMENTS = 2**20
"""Weights converted at once by one thread: 4 MiB as F32, enough to make the overhead vanish."""


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the output: `offset` and `nbytes` say where its bytes go."""

    source: SourceTensor
    type: TensorType
    offset: int
    nbytes: int

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.source.columns)


@dataclass(frozen=True)
class Slab:
    """Some whole rows of a tensor, the unit of work: any thread can convert any slab at any time."""

    tensor: PlannedTensor
    first_row: int
    n_rows: int

    @property
    def source_bytes(self) -> int:
        return self.n_rows * self.tensor.source.row_bytes


@dataclass(frozen=True)
class Plan:
    """The output file: `header` to the first tensor, `tensors` in file order, `nbytes` in all."""

    type_name: str
    header: bytes
    tensors: tuple[PlannedTensor, ...]
    nbytes: int

    @property
    def source_bytes(self) -> int:
        """Bytes of weights that have to be read."""
        return sum(tensor.source.nbytes for tensor in self.tensors)

    @property
    def types(self) -> dict[str, int]:
        """Number of tensors of each type, most frequent first."""
        return dict(Counter(tensor.type.name for tensor in self.tensors).most_common())

    def slabs(self) -> Iterator[Slab]:
        """All the work, in file order."""
        for tensor in self.tensors:
            yield from slabs_of(tensor)


def make_plan(source: Source, recipe: Recipe) -> Plan:
    """Lay out the file that `recipe` makes of `source`."""
    metadata: dict[str, Value] = final_metadata(source, recipe)
    tensors = sorted(source.tensors, key=lambda tensor: file_order(tensor.name))
    infos = [_info(tensor, recipe.types[tensor.name]) for tensor in tensors]
    header = encode_header(metadata, infos)
    sizes = [info.nbytes for info in infos]
    *offsets, end = tensor_offsets(len(header), sizes, alignment_of(metadata))
    planned = tuple(
        PlannedTensor(tensor, recipe.types[tensor.name], offset, size)
        for tensor, offset, size in zip(tensors, offsets, sizes, strict=True)
    )
    return Plan(recipe.type_name, header, planned, end)


def _info(tensor: SourceTensor, kind: TensorType) -> TensorInfo:
    nbytes = tensor.rows * kind.row_bytes(tensor.columns)
    return TensorInfo(tensor.name, tensor.shape[::-1], kind.name, 0, nbytes)


def slabs_of(tensor: PlannedTensor) -> Iterator[Slab]:
    """The slabs of one tensor: whole heads where rows of a head change places."""
    source = tensor.source
    step = max(1, SLAB_ELEMENTS // source.columns)
    if source.heads:
        head_dim = source.rows // source.heads
        step = max(1, step // head_dim) * head_dim
    for first in range(0, source.rows, step):
        yield Slab(tensor, first, min(step, source.rows - first))
