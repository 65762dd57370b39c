"""A source with adapters merged into it: rows are changed while they are read, slab by slab.

The result is that of peft's `merge_and_unload`, computed in F32 and rounded once, when a row is encoded.
Adapters are merged in the order given. A row needs its own part of B and all of A, so A is read piece by
piece, and some pieces are kept. DoRA needs the lengths of what it scales: those of rows are known with the
row, those of an embedding's columns are summed up in a pass of their own.

A tensor that is changed counts as one of F32, also where it keeps the source's type. Which bytes a product
of matrices has depends on numpy's library, so another machine may round a weight the other way.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from codellama.errors import CheckpointError, ConversionError
from codellama.files.gguf_header import Value, ValueType
from codellama.files.peft_adapter import read_adapter
from codellama.files.provenance import MERGED, sha256
from codellama.files.safetensors_header import SafeTensor
from codellama.native.arrays import Bytes, Floats
from codellama.native.ggml import tensor_type, to_float
from codellama.params.lora import is_scale
from codellama.weights.adapter import Fitted, LowRank, fit
from codellama.weights.adapter_base import base_of_source
from codellama.weights.numbers import NumberReader
from codellama.weights.source import Source, SourceTensor
from codellama.weights.tensors import expected_tensors, interleave_heads

_PIECE = 2**20  # numbers of A in a piece
_KEPT_BYTES = 2**26  # bytes of pieces that are kept
_STEP = 2**20  # numbers of an embedding that are measured at once


@dataclass(frozen=True)
class Merge:
    """An adapter to merge, and at which scale."""

    fitted: Fitted
    scale: float = 1.0

    @property
    def name(self) -> str:
        """What the manifest says of it."""
        folder = self.fitted.adapter.folder
        files = (folder / "adapter_config.json", self.fitted.adapter.weights)
        digests = "+".join(sha256(path)[:32] for path in files)
        return f"{digests}  {folder.name}:{self.scale:g}"


class MergedSource(Source):
    """`source` with `merges` in it. Closing it closes `source`.

    `heads` are the numbers of heads whose rows Hugging Face keeps in halves, by tensor.

    Raises CheckpointError for adapters that cannot be merged at their scale, or not together.
    """

    def __init__(self, source: Source, merges: Sequence[Merge], heads: Mapping[str, int]) -> None:
        _check(merges)
        names = [merge.name for merge in merges]
        changes = {
            tensor.name: _Change(tensor, merges, heads.get(tensor.name, 0))
            for tensor in source.tensors
        }
        self._changes = {
            name: change for name, change in changes.items() if change.steps or change.instead
        }
        f32 = tensor_type("F32")
        super().__init__(
            source.path,
            source.metadata,
            [
                replace(tensor, type=f32) if tensor.name in self._changes else tensor
                for tensor in source.tensors
            ],
            verbatim=source.verbatim,
            identity={**source.identity, "merged adapters": "; ".join(names)},
        )
        self._source = source
        self._names = names
        self._reader = NumberReader()
        self._pieces = _Pieces(self._reader)
        self._lengths: dict[tuple[str, int], Floats] = {}
        self._measuring = threading.Lock()

    @property
    def provenance(self) -> dict[str, Value]:
        known = self._source.provenance
        earlier = known[MERGED].value if MERGED in known else []
        return {**known, MERGED: Value(ValueType.ARRAY, [*earlier, *self._names], ValueType.STRING)}

    def read(self, tensor: SourceTensor, first_row: int, out: Bytes) -> None:
        change = self._changes.get(tensor.name)
        if change is None:
            self._source.read(tensor, first_row, out)
            return
        rows = out.view(np.float32).reshape(-1, tensor.columns)
        with np.errstate(all="ignore"):  # what is not finite is noticed when the row is encoded
            rows[:] = self._merged(change, first_row, len(rows))

    def _merged(self, change: _Change, first: int, count: int) -> Floats:
        unmerged = merged = self._unmerged(change, first, count)
        for number, step in enumerate(change.steps):
            if step.low_rank is not None:
                delta = self._delta(change, step, first, count)
                merged = merged + delta
                if step.low_rank.magnitude is not None:
                    # peft: the length is that of the unmerged weights with this change alone.
                    length = self._length(change, number, unmerged + delta)
                    merged *= self._magnitude(change, step.low_rank, first, count) / length
            if step.rows is not None:
                merged = self._with_rows(merged, step.rows, first)
        return merged

    def _unmerged(self, change: _Change, first: int, count: int) -> Floats:
        """The rows before any low-rank change: the model's, or those that an adapter has instead."""
        if change.instead is not None:
            return self._stored(change, change.instead, first, count)
        return self._base(change.tensor, first, count)

    def _base(self, tensor: SourceTensor, first: int, count: int) -> Floats:
        data = np.empty(count * tensor.row_bytes, np.uint8)
        self._source.read(tensor, first, data)
        floats = np.empty((count, tensor.columns), np.float32)
        to_float(tensor.type, data, floats)
        return floats

    def _stored(self, change: _Change, tensor: SafeTensor, first: int, count: int) -> Floats:
        columns = change.tensor.columns
        if len(tensor.shape) == 1:
            return self._reader.read(tensor, 0, columns).reshape(1, columns)
        return change.in_order(lambda at, n: self._reader.rows(tensor, at, n), first, count)

    def _delta(self, change: _Change, step: _Step, first: int, count: int) -> Floats:
        pair = step.low_rank
        assert pair is not None, "asked of steps of low rank only"
        if pair.embedding:
            left = self._reader.columns(pair.a, first, count).T
        else:
            left = change.in_order(lambda at, n: self._reader.rows(pair.b, at, n), first, count)
        delta = np.zeros((count, change.tensor.columns), np.float32)
        size = max(1, _PIECE // change.tensor.columns)
        for start in range(0, pair.rank, size):
            right = self._pieces.get(pair, start, min(size, pair.rank - start))
            delta += np.ascontiguousarray(left[:, start : start + len(right)]) @ right
        delta *= np.float32(pair.scale * step.scale)
        return delta

    def _magnitude(self, change: _Change, pair: LowRank, first: int, count: int) -> Floats:
        tensor = pair.magnitude
        assert tensor is not None, "asked of DoRA only"
        if pair.embedding:
            return self._reader.read(tensor, 0, change.tensor.columns)
        return change.in_order(
            lambda at, n: self._reader.read(tensor, at, n).reshape(n, 1), first, count
        )

    def _length(self, change: _Change, number: int, sums: Floats) -> Floats:
        pair = change.steps[number].low_rank
        assert pair is not None
        if not pair.embedding:
            lengths: Floats = np.linalg.norm(sums, axis=1, keepdims=True).astype(np.float32)
            return lengths
        with self._measuring:
            key = change.tensor.name, number
            if key not in self._lengths:
                self._lengths[key] = self._measure(change, number)
            return self._lengths[key]

    def _measure(self, change: _Change, number: int) -> Floats:
        """The lengths of the columns of an embedding with the change of one step."""
        tensor, step = change.tensor, change.steps[number]
        total = np.zeros(tensor.columns, np.float64)
        size = max(1, _STEP // tensor.columns)
        for first in range(0, tensor.rows, size):
            count = min(size, tensor.rows - first)
            rows = self._unmerged(change, first, count) + self._delta(change, step, first, count)
            total += np.square(rows, dtype=np.float64).sum(axis=0)
        lengths: Floats = np.sqrt(total).astype(np.float32)
        return lengths

    def _with_rows(
        self, merged: Floats, rows: tuple[tuple[int, ...], SafeTensor], first: int
    ) -> Floats:
        ids, tensor = rows
        result = merged.copy()
        for place, token in enumerate(ids):
            if first <= token < first + len(result):
                result[token - first] = self._reader.rows(tensor, place, 1)
        return result

    # -- what does not change ------------------------------------------------------------------

    def expect(self, paths: Sequence[Path]) -> None:
        self._source.expect(paths)

    def room(self, paths: Sequence[Path]) -> int:
        return self._source.room(paths)

    def download_bytes(self, paths: Sequence[Path]) -> int:
        return self._source.download_bytes(paths)

    def release(self, path: Path) -> None:
        self._source.release(path)

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._reader.close()
        self._source.close()


@dataclass(frozen=True)
class _Step:
    """What one adapter does to one tensor."""

    scale: float
    low_rank: LowRank | None
    rows: tuple[tuple[int, ...], SafeTensor] | None


class _Change:
    """All that is done to a tensor of the source; `instead` is what takes its place, if anything does."""

    def __init__(self, tensor: SourceTensor, merges: Sequence[Merge], heads: int) -> None:
        self.tensor = tensor
        self.steps: list[_Step] = []
        self.instead: SafeTensor | None = None
        self._heads = 0 if tensor.heads else heads
        for merge in merges:
            fitted, name = merge.fitted, tensor.name
            self.instead = fitted.whole.get(name) or fitted.frozen.get(name) or self.instead
            step = _Step(merge.scale, fitted.low_rank.get(name), fitted.rows.get(name))
            if step.low_rank or step.rows:
                self.steps.append(step)

    def in_order(self, read: Callable[[int, int], Floats], first: int, count: int) -> Floats:
        """Rows that `read` has in Hugging Face's order, in that of the source (Meta's is another)."""
        if not self._heads:
            return read(first, count)
        head_dim = self.tensor.rows // self._heads
        start = first // head_dim * head_dim
        end = -(-(first + count) // head_dim) * head_dim
        rows = interleave_heads(read(start, end - start), head_dim)
        return rows[first - start : first - start + count]


class _Pieces:
    """Some rows of A at a time, in F32; those used last are kept."""

    def __init__(self, reader: NumberReader) -> None:
        self._reader = reader
        self._kept: OrderedDict[tuple[str, Path, int], Floats] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, pair: LowRank, start: int, count: int) -> Floats:
        key = pair.a.name, pair.a.path, start
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        if pair.embedding:
            piece = np.ascontiguousarray(self._reader.columns(pair.b, start, count).T)
        else:
            piece = self._reader.rows(pair.a, start, count)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = piece
                self._bytes += piece.nbytes
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return piece


def merged(source: Source, adapters: Sequence[tuple[str | os.PathLike[str], float]]) -> Source:
    """`source` with PEFT adapters merged into it, each a folder and a scale; `source` itself without any.

    Raises:
        CheckpointError: an adapter cannot be read, belongs to another model, or has no such scale.
        ConversionError: a scale is no number.
    """
    if not adapters:
        return source
    try:
        config = base_of_source(source)
        for path, scale in adapters:
            if not is_scale(scale):
                raise ConversionError(f"{os.fspath(path)}: its scale, {scale}, must be a number")
        merges = [Merge(fit(read_adapter(Path(path)), config), scale) for path, scale in adapters]
        heads = {expected.name: expected.heads for expected in expected_tensors(config)}
        return MergedSource(source, merges, heads)
    except BaseException:
        source.close()
        raise


def _check(merges: Sequence[Merge]) -> None:
    taken: Mapping[str, Path] = {}
    for merge in merges:
        fitted, path = merge.fitted, merge.fitted.adapter.weights
        if fitted.adapter.invocation:
            raise CheckpointError(
                f"{path}: is an activated LoRA (aLoRA), which acts behind some tokens of a prompt only: "
                "there are no weights to merge it into"
            )
        for name, tensor in [
            *fitted.whole.items(),
            *((name, tensor) for name, (_, tensor) in fitted.rows.items()),
        ]:
            if merge.scale != 1:
                raise CheckpointError(
                    f"{path}: {tensor.name} takes the place of the model's weights, which has no scale",
                    "merge this adapter at scale 1",
                )
            if name in taken:
                raise CheckpointError(
                    f"{path}: {tensor.name} takes the place of what {taken[name]} has changed",
                    "merge one of the two",
                )
        taken = {**taken, **dict.fromkeys([*fitted.low_rank, *fitted.whole, *fitted.rows], path)}
