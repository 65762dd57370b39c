"""How fast this machine converts weights now, by their types: what a forecast is made of.

A sample takes the way of a real slab, with as many threads. It comes out of memory that no cache holds, as
pages of a file do, and goes back there.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from codellama.kernels.quantizers import quantize_rows, quantizer_of
from codellama.native.arrays import Bytes
from codellama.native.ggml import TensorType, requires_importance, to_float
from codellama.native.ggml import quantize_rows as quantize_exactly
from codellama.weights.encode import finite, valid

_SHAPE = (16, 4096)  # a multiple of every type's block
_CACHE = 2**26  # bytes; more than the caches of a workstation hold
_HASHING_SECONDS = 0.05


class Recoding(NamedTuple):
    """From a type of the source to one of the output, `weighed` with an importance of columns."""

    stored: TensorType
    target: TensorType
    weighed: bool


def measure(
    wanted: Sequence[Recoding], threads: int, seconds: float = 1.0
) -> dict[Recoding, float]:
    """Weights per second that all threads together convert, by step; takes about `seconds` in all."""
    share = seconds / max(1, len(wanted))
    with ThreadPoolExecutor(threads) as pool:
        rates = {}
        for step in wanted:
            quantizer_of(step.target)  # which is tried at its first use
            sample = _Sample(step)
            counts = pool.map(sample.repeat, range(threads), [share] * threads)
            rates[step] = max(1.0, sum(counts))
    return rates


class _Sample:
    """Rows of one type in memory, again and again, and memory for what becomes of them."""

    def __init__(self, step: Recoding) -> None:
        self.step = step
        n_rows, n_columns = _SHAPE
        self._places = _repeated(_stored(step.stored), _CACHE)
        n_out = n_rows * step.target.row_bytes(n_columns)
        self._results = np.zeros((max(1, _CACHE // n_out), n_out), np.uint8)
        needed = step.weighed or requires_importance(step.target)
        self._importance = np.ones(n_columns, np.float32) if needed else None

    def repeat(self, thread: int, seconds: float) -> float:
        """Convert for so long; weights per second of this thread."""
        stored, target, _ = self.step
        rows, out = np.empty_like(self._places[0]), np.empty_like(self._results[0])
        floats = np.empty(_SHAPE, np.float32)
        place, count, begun = thread, 0, time.perf_counter()
        while count == 0 or time.perf_counter() - begun < seconds:
            np.copyto(rows, self._places[place % len(self._places)])
            finite(stored, rows)
            to_float(stored, rows, floats)
            quantize_rows(target, floats, out, self._importance)
            finite(target, out)
            valid(target, out)
            zlib.crc32(out.data)
            np.copyto(self._results[place % len(self._results)], out)
            place += 1
            count += floats.size
        return count / (time.perf_counter() - begun)


def _stored(kind: TensorType) -> Bytes:
    """Random weights in this type."""
    floats = np.random.default_rng(0).standard_normal(_SHAPE, np.float32)
    if kind.name == "F64":
        return floats.astype(np.float64).reshape(-1).view(np.uint8)
    rows = np.empty(_SHAPE[0] * kind.row_bytes(_SHAPE[1]), np.uint8)
    quantize_exactly(kind, floats, rows, np.ones(_SHAPE[1], np.float32))
    return rows


def _repeated(rows: Bytes, nbytes: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Copies of `rows`, together about `nbytes` long."""
    return np.tile(rows, (max(1, nbytes // rows.nbytes), 1))


def measure_hashing() -> float:
    """Bytes per second that one thread hashes with SHA-256; takes some 50 ms."""
    piece = bytes(2**20)
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < _HASHING_SECONDS:
        hashlib.sha256(piece)
        count += len(piece)
    return count / (time.perf_counter() - begun)
