"""Runs a Plan: rows in, quantized rows out at their offset, on all cores, a few slabs in memory.

The file grows under `<output>.part`, is checked, and only then gets its name; whatever goes wrong, the
part is removed and an older file of that name is untouched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np

from codellama.errors import ConversionError
from codellama.native.ggml import Bytes, TensorType, quantize_rows, to_float, valid_rows
from codellama.weights.gguf_header import read_gguf_header
from codellama.weights.plan import Plan, Slab
from codellama.weights.source import Source
from codellama.weights.tensors import interleave_heads

Progress = Callable[[int, int], None]
"""Called with the bytes of weights read so far and in all, from the thread that called `write`."""

# Bits of the exponent by type: all of them set means infinity or NaN.
_EXPONENTS = {
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}


def write(
    plan: Plan, source: Source, output: Path, *, threads: int, progress: Progress | None = None
) -> None:
    """Write the file that `plan` describes to `output`, replacing one that is there.

    Raises:
        ConversionError: the disk is too small or fails, weights are not finite or do not fit the
            type, another process writes the same file.
    """
    part = output.with_name(output.name + ".part")
    try:
        with _part_file(part) as file:
            _check_space(plan, output)
            os.ftruncate(file, plan.nbytes)
            _write_at(file, memoryview(plan.header), 0)
            _convert_all(plan, source, file, threads, progress)
            _check_result(plan, part)
            os.replace(part, output)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise ConversionError(f"{output}: cannot be written: {reason}") from error


@contextlib.contextmanager
def _part_file(part: Path) -> Iterator[int]:
    """A file of our own under this name; on failure it is removed."""
    file = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConversionError(f"{part}: another process is writing it") from error
        try:
            os.ftruncate(file, 0)
            yield file
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    finally:
        os.close(file)


def _check_space(plan: Plan, output: Path) -> None:
    free = shutil.disk_usage(output.parent).free
    if plan.nbytes > free:
        raise ConversionError(
            f"{output}: the result needs {plan.nbytes / 1e9:.2f} GB and {output.parent} has "
            f"{free / 1e9:.2f} GB free: make room or choose a smaller type"
        )


def _check_result(plan: Plan, part: Path) -> None:
    header = read_gguf_header(part)
    if [info.offset for info in header.tensors] != [tensor.offset for tensor in plan.tensors]:
        raise ConversionError(f"{part}: the header written is not the one planned")


def _convert_all(
    plan: Plan, source: Source, file: int, threads: int, progress: Progress | None
) -> None:
    """Feed slabs to the pool, never more than two per thread; the first failure ends it."""
    worker = _Worker(source, file)
    pending: set[Future[int]] = set()
    done_bytes, total = 0, plan.source_bytes
    pool = ThreadPoolExecutor(threads, thread_name_prefix="quantize")
    try:
        for slab in plan.slabs():
            pending.add(pool.submit(worker.convert, slab))
            if len(pending) >= 2 * threads:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                done_bytes += sum(future.result() for future in finished)
                if progress:
                    progress(done_bytes, total)
        for future in pending:
            done_bytes += future.result()
        if progress:
            progress(done_bytes, total)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Worker(threading.local):
    """Converts slabs; each thread has buffers of its own, which it uses again and again."""

    def __init__(self, source: Source, file: int) -> None:
        self.source = source
        self.file = file
        self._buffers: dict[str, Bytes] = {}

    def _buffer(self, name: str, nbytes: int) -> Bytes:
        held = self._buffers.get(name)
        if held is None or held.nbytes < nbytes:
            held = self._buffers[name] = np.empty(nbytes, np.uint8)
        return held[:nbytes]

    def convert(self, slab: Slab) -> int:
        """Read, reorder, convert and write one slab; returns the bytes read."""
        planned = slab.tensor
        tensor = planned.source
        rows = self._buffer("rows", slab.source_bytes)
        self.source.read(tensor, slab.first_row, rows)
        if not _finite(tensor.type, rows):
            raise ConversionError(f"{tensor.path}: {tensor.name} holds NaN or infinite weights")
        if tensor.heads:
            by_row = rows.reshape(slab.n_rows, -1)
            rows = interleave_heads(by_row, tensor.rows // tensor.heads).reshape(-1)
        if planned.type != tensor.type:
            rows = self._encode(slab, rows)
        _write_at(self.file, rows.data, planned.offset + slab.first_row * planned.row_bytes)
        return slab.source_bytes

    def _encode(self, slab: Slab, rows: Bytes) -> Bytes:
        planned = slab.tensor
        tensor = planned.source
        shape = (slab.n_rows, tensor.columns)
        floats = self._buffer("floats", 4 * shape[0] * shape[1]).view(np.float32).reshape(shape)
        to_float(tensor.type, rows, floats)
        out = self._buffer("out", slab.n_rows * planned.row_bytes)
        quantize_rows(planned.type, floats, out)
        if not (_finite(planned.type, out) and _valid(planned.type, out)):
            raise ConversionError(
                f"{tensor.path}: {tensor.name} has weights too large for {planned.type.name}; "
                "choose another type, such as BF16"
            )
        return out


def _finite(kind: TensorType, rows: Bytes) -> bool:
    if kind.name not in _EXPONENTS:
        return True
    dtype, exponent = _EXPONENTS[kind.name]
    return bool((rows.view(dtype) & dtype(exponent)).max() < exponent)


def _valid(kind: TensorType, rows: Bytes) -> bool:
    return not kind.quantized or valid_rows(kind, rows)


def _write_at(file: int, view: memoryview, position: int) -> None:
    while view:
        count = os.pwrite(file, view, position)
        view = view[count:]
        position += count


def default_threads() -> int:
    """As many threads as cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
