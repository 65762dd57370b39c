"""Rows of a matrix in F32 out of the tensors that a tool has quantized it to.

A dequantizer reads through a function that it is given, so the tensors may lie in any file. All values are
computed in F32 of the stored numbers, as the tools' own code is defined, and are not rounded to the type
of the scales. Bytes of a slab are read for a slab; where fields stand below each other, a stripe of
columns is read and kept for the slabs that follow.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codellama.files.safetensors_header import SafeTensor
from codellama.native.arrays import Bytes, Floats
from codellama.native.ggml import tensor_type, to_float
from codellama.weights.unpacking import float8, unpack_down, unpack_stream, unpack_words
from codellama.weights.unusable import UnusableWeightsError

Read = Callable[[SafeTensor, int, int], Bytes]
"""Bytes of a tensor: which, from which byte of it on, how many."""

STRIPE_BYTES = 2**23
"""The most of one stripe; a tensor with more rows than that has stripes of one column of words."""
_KEPT_BYTES = 2**25
_WORD = 4

FLOATS = ("F32", "F16", "BF16")
_INTEGERS = {"I8": "i1", "U8": "u1", "I32": "<i4", "I64": "<i8"}


class Dequantizer(ABC):
    """Rows of one matrix. `tensors` are all that it is made of, the largest first."""

    tensors: Sequence[SafeTensor]

    @abstractmethod
    def decode(self, read: Read, first: int, out: Floats) -> None:
        """Fill `out` with whole rows from row `first` on.

        Raises:
            UnusableWeightsError: a number that says how to decode is impossible.
        """

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    shared_bytes = 0
    """Bytes that dequantizers of a checkpoint hold together, whatever they decode."""

    def working_bytes(self, n_rows: int, n_columns: int) -> int:
        """Bytes that decoding a slab takes beside its result, at most: a number and its group's for each."""
        return 8 * n_rows * n_columns + sum(t.nbytes for t in self.tensors[1:] if len(t.shape) == 1)


def numbers(read: Read, tensor: SafeTensor, first: int, count: int) -> Floats:
    """`count` numbers of a tensor as F32, from number `first` on."""
    if tensor.dtype in FLOATS:
        kind = tensor_type(tensor.dtype)
        size = kind.row_bytes(1)
        out = np.empty(count, np.float32)
        if count:
            to_float(kind, read(tensor, first * size, count * size), out)
        return out
    if tensor.dtype in _INTEGERS:
        return integers(read, tensor, first, count).astype(np.float32)
    return float8(tensor.dtype, read(tensor, first, count))


def integers(read: Read, tensor: SafeTensor, first: int, count: int) -> NDArray[np.int64]:
    """The same, of a tensor of integers, exact."""
    dtype = np.dtype(_INTEGERS[tensor.dtype])
    data = read(tensor, first * dtype.itemsize, count * dtype.itemsize)
    return data.view(dtype).astype(np.int64)


def unusable(tensor: SafeTensor, what: str) -> UnusableWeightsError:
    """The error for a number that cannot be."""
    return UnusableWeightsError(
        f"{tensor.path}: {tensor.name} {what}: the file is damaged, download it again"
    )


@dataclass(frozen=True)
class Grid:
    """One number for each group of a matrix: `rows` rows and `columns` columns of the matrix share it.

    `packed` is the number of bits where the numbers are fields of words that stand below each other.
    """

    tensor: SafeTensor
    rows: int
    columns: int
    across: int
    packed: int = 0

    def spread(self, read: Read, first: int, count: int) -> Floats:
        """The groups of rows from `first` on, as [count, groups of a row]."""
        start = first // self.rows
        stop = (first + count - 1) // self.rows + 1
        if self.packed:
            data = self._fields(read, start, stop)
        else:
            data = numbers(read, self.tensor, start * self.across, (stop - start) * self.across)
            data = data.reshape(-1, self.across)
        if self.rows == 1:
            return data
        which = np.arange(first, first + count) // self.rows - start
        return data[which]

    def _fields(self, read: Read, start: int, stop: int) -> Floats:
        before = start % 32  # 32 fields are `packed` whole words
        begin, end = (start - before) * self.packed // 32, -(-stop * self.packed // 32)
        width = self.across * _WORD
        words = read(self.tensor, begin * width, (end - begin) * width).reshape(-1, width)
        # A column of words is a stream of bits.
        stream = np.ascontiguousarray(words.view("<u4").T).view(np.uint8)
        out = np.empty((self.across, stop - start + before), np.float32)
        unpack_stream(stream, self.packed, out)
        return np.ascontiguousarray(out[:, before:].T)


@dataclass(frozen=True)
class Scaled(Dequantizer):
    """(code - zero) * scale, with a scale for each group: compressed-tensors, FP8, bitsandbytes' LLM.int8.

    `bits` of a code in words, 0 for codes of a type; `stream` where fields go on in the next word. `order`
    is the group of each column where it does not follow from its place. `factor` is what all are
    multiplied by, behind the scale.
    """

    weight: SafeTensor
    columns: int
    scale: Grid
    zero: Grid | None = None
    order: SafeTensor | None = None
    bits: int = 0
    stream: bool = False
    factor: float = 1.0
    checks: tuple[tuple[SafeTensor, tuple[int, ...]], ...] = ()

    @property
    def tensors(self) -> Sequence[SafeTensor]:  # type: ignore[override]
        others = (self.zero.tensor if self.zero else None, self.order)
        checked = (tensor for tensor, _ in self.checks)
        return [self.weight, self.scale.tensor, *(t for t in others if t is not None), *checked]

    def decode(self, read: Read, first: int, out: Floats) -> None:
        for tensor, expected in self.checks:
            if tuple(integers(read, tensor, 0, len(expected))) != expected:
                raise unusable(tensor, f"is not {list(expected)}")
        self._codes(read, first, out)
        groups = self._groups(read)
        if self.zero:
            _apply(np.subtract, out, self.zero, self.zero.spread(read, first, len(out)), groups)
        if self.bits and not (self.zero and self.zero.packed):
            # What is packed is raised by half the range; where zeros are packed too, so are they.
            out -= np.float32(2 ** (self.bits - 1))
        _apply(np.multiply, out, self.scale, self.scale.spread(read, first, len(out)), groups)
        if self.factor != 1.0:
            out *= np.float32(self.factor)

    def _codes(self, read: Read, first: int, out: Floats) -> None:
        width = self.weight.nbytes // self.weight.shape[0]
        if not self.bits:
            codes = numbers(read, self.weight, first * self.columns, out.size)
            out[:] = codes.reshape(out.shape)
            return
        rows = read(self.weight, first * width, len(out) * width).reshape(len(out), width)
        (unpack_stream if self.stream else unpack_words)(rows, self.bits, out)

    def _groups(self, read: Read) -> NDArray[np.int64] | None:
        return None if self.order is None else _order(read, self.order, self.scale.across)


def _order(read: Read, tensor: SafeTensor, n_groups: int) -> NDArray[np.int64] | None:
    """The group of each column, checked; None where compressed-tensors has left it unset."""
    groups = integers(read, tensor, 0, tensor.shape[0])
    if (groups == -1).all():
        return None
    if groups.min() < 0 or groups.max() >= n_groups:
        wrong = int(groups.min() if groups.min() < 0 else groups.max())
        raise unusable(tensor, f"names group {wrong}, there are {n_groups}")
    return groups


def _apply(
    operation: np.ufunc, out: Floats, grid: Grid, values: Floats, order: NDArray[np.int64] | None
) -> None:
    """`out` with a number of each group, in place."""
    if grid.across == 1:
        operation(out, values, out=out)
    elif order is not None:
        operation(out, values[:, order], out=out)
    elif out.shape[1] == grid.across * grid.columns:
        parts = out.reshape(len(out), grid.across, grid.columns)
        operation(parts, values[:, :, None], out=parts)
    else:
        spread = np.repeat(values, grid.columns, axis=1)[:, : out.shape[1]]
        operation(out, spread, out=out)


@dataclass(frozen=True)
class Affine(Dequantizer):
    """scale * code + bias: MLX. Fields of a row follow each other also across words."""

    weight: SafeTensor
    bits: int
    scale: Grid
    bias: Grid

    @property
    def tensors(self) -> Sequence[SafeTensor]:  # type: ignore[override]
        return self.weight, self.scale.tensor, self.bias.tensor

    def decode(self, read: Read, first: int, out: Floats) -> None:
        width = self.weight.nbytes // self.weight.shape[0]
        rows = read(self.weight, first * width, len(out) * width).reshape(len(out), width)
        unpack_stream(rows, self.bits, out)
        _apply(np.multiply, out, self.scale, self.scale.spread(read, first, len(out)), None)
        _apply(np.add, out, self.bias, self.bias.spread(read, first, len(out)), None)


class Stripes:
    """Columns of words of matrices that dequantizers share; those used last are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, str, int, int], Bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, read: Read, tensor: SafeTensor, first: int, count: int) -> Bytes:
        """Bytes `first` to `first + count` of each row of a matrix."""
        rows, width = tensor.shape[0], tensor.nbytes // tensor.shape[0]
        key = tensor.path, tensor.name, first, count
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            stripe = np.empty((rows, count), np.uint8)
            for row in range(rows):
                stripe[row] = read(tensor, row * width + first, count)
            self._kept[key] = stripe
            self._bytes += stripe.nbytes
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
            return stripe


@dataclass(frozen=True)
class Columnwise(Dequantizer):
    """scale * (code - zero), where a row of the matrix is a column of the file: GPTQ and AWQ.

    GPTQ packs what stands below each other, AWQ what stands side by side in the order `places`. Zeros
    are always packed side by side; `zero_offset` is what was taken from them.
    """

    weight: SafeTensor
    zeros: SafeTensor
    scales: SafeTensor
    bits: int
    group_size: int
    stripes: Stripes
    order: SafeTensor | None = None
    bias: SafeTensor | None = None
    zero_offset: int = 0
    places: tuple[int, ...] = ()
    shared_bytes = _KEPT_BYTES + STRIPE_BYTES

    def working_bytes(self, n_rows: int, n_columns: int) -> int:
        return 20 * (n_rows + 32) * n_columns  # codes, in order too; zeros and scales; groups

    @property
    def tensors(self) -> Sequence[SafeTensor]:  # type: ignore[override]
        others = (t for t in (self.order, self.bias) if t is not None)
        return [self.weight, self.zeros, self.scales, *others]

    def decode(self, read: Read, first: int, out: Floats) -> None:
        self._check_bias(read, first, len(out))
        groups = self._groups(read, out.shape[1])
        step = self._step()
        last = first + len(out)
        for start in range(first // step * step, last, step):
            stop = min(start + step, self.scales.shape[1])
            kept = slice(max(first, start) - start, min(last, stop) - start)
            part = self._stripe(read, start, stop, kept, groups)
            out[max(first, start) - first : min(last, stop) - first] = part.T

    def _step(self) -> int:
        """Rows of the matrix in a stripe: whole words of zeros, and not too many bytes."""
        most = STRIPE_BYTES // (self.weight.shape[0] * _WORD)
        if self.places:
            most *= 32 // self.bits
        return max(1, most // 32) * 32

    def _groups(self, read: Read, columns: int) -> NDArray[np.int64]:
        n_groups = self.scales.shape[0]
        if self.order is not None:
            groups = _order(read, self.order, n_groups)
            if groups is None:
                raise unusable(self.order, f"names group -1, there are {n_groups}")
            return groups
        return np.arange(columns) // self.group_size

    def _stripe(
        self, read: Read, start: int, stop: int, kept: slice, groups: NDArray[np.int64]
    ) -> Floats:
        """The columns of the file that `kept` names, counted from `start`, where a stripe begins."""
        zeros = self._across(read, self.zeros, start, stop, kept) + np.float32(self.zero_offset)
        size = tensor_type(self.scales.dtype).row_bytes(1)
        data = self.stripes.get(read, self.scales, start * size, (stop - start) * size)
        data = np.ascontiguousarray(data[:, kept.start * size : kept.stop * size])
        scales = np.empty((len(data), kept.stop - kept.start), np.float32)
        to_float(tensor_type(self.scales.dtype), data, scales)
        if self.places:
            codes = self._across(read, self.weight, start, stop, kept)
        else:
            words = self.stripes.get(read, self.weight, start * _WORD, (stop - start) * _WORD)
            codes = np.empty((len(groups), kept.stop - kept.start), np.float32)
            unpack_down(words.view("<u4")[:, kept], self.bits, codes)
        codes -= zeros[groups]
        codes *= scales[groups]
        return codes

    def _across(self, read: Read, tensor: SafeTensor, start: int, stop: int, kept: slice) -> Floats:
        """The same columns, of fields side by side."""
        first, count = start * self.bits // 8, (stop - start) * self.bits // 8
        data = self.stripes.get(read, tensor, first, count)
        per = 32 // self.bits  # whole words are unpacked
        left, right = kept.start // per, -(-kept.stop // per)
        words = np.ascontiguousarray(data[:, left * _WORD : right * _WORD])
        fields = np.empty((len(words), (right - left) * per), np.float32)
        unpack_words(words, self.bits, fields)
        if self.places:
            fields = fields.reshape(len(words), -1, per)[:, :, self.places].reshape(fields.shape)
        return fields[:, kept.start - left * per : kept.stop - left * per]

    def _check_bias(self, read: Read, first: int, count: int) -> None:
        """Old tools write a bias where there is none."""
        if self.bias is not None and numbers(read, self.bias, first, count).any():
            raise unusable(self.bias, "is not zero, and no Code Llama model has a bias")
