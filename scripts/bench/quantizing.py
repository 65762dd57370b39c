"""What quantizing costs in one thread: the arithmetic of each type, and the way of a slab around it."""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from itertools import product

import numpy as np

from bench.report import Row
from codellama.kernels.quantizers import LANES, TYPES, quantize_rows, quantizer_of
from codellama.native import ggml
from codellama.native.ggml import TensorType, tensor_type
from codellama.weights.encode import finite, valid

OURS, GGML = "codellama", "ggml"
_SHAPE = (32, 8192)
_K_TYPES = ("Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K")


def arithmetic(runs: int) -> list[Row]:
    """A row for each type, without and with an importance: nanoseconds a weight, runs interleaved."""
    generator = np.random.default_rng(0)
    floats = (generator.standard_t(5, _SHAPE) * 0.02).astype(np.float32)
    importance = generator.random(_SHAPE[1], np.float32)
    rows = []
    names = [*_K_TYPES, *sorted(TYPES - {*_K_TYPES})]
    for name, weights in product(names, (None, importance)):
        target = tensor_type(name)
        out = np.empty(_SHAPE[0] * target.row_bytes(_SHAPE[1]), np.uint8)
        values: dict[str, list[float]] = {OURS: [], GGML: []}
        for function in (quantize_rows, ggml.quantize_rows):
            function(target, floats, out, weights)
        for _ in range(runs):
            for subject, function in ((OURS, quantize_rows), (GGML, ggml.quantize_rows)):
                begun = time.thread_time()
                function(target, floats, out, weights)
                values[subject].append((time.thread_time() - begun) / floats.size * 1e9)
        rows.append(_row(target, weights is not None, values))
    return rows


def _row(target: TensorType, weighed: bool, values: dict[str, list[float]]) -> Row:
    wanted = {GGML: 0.22 if weighed else 0.20} if target.name in _K_TYPES else {}
    if target.name.startswith("IQ"):
        wanted = {GGML: 0.35}
    if quantizer_of(target).name != LANES:
        wanted = {}
    ending = " with importance" if weighed else ""
    return Row(f"{target.name}{ending}", f"{target.name}{ending}", "ns", "less", values, wanted)


def steps_of_a_slab(type_name: str, runs: int) -> list[Row]:
    """Nanoseconds a weight of everything that happens to a slab of bf16 on its way to a type."""
    stored, target = tensor_type("BF16"), tensor_type(type_name)
    n = _SHAPE[0] * _SHAPE[1]
    floats = np.random.default_rng(0).standard_normal(_SHAPE, np.float32)
    rows = np.empty(n * 2, np.uint8)
    ggml.quantize_rows(stored, floats, rows)
    out = np.empty(_SHAPE[0] * target.row_bytes(_SHAPE[1]), np.uint8)
    with tempfile.TemporaryFile() as file:
        number = file.fileno()
        os.pwrite(number, rows.data, 0)
        steps: dict[str, Callable[[], object]] = {
            "reading from the page cache": lambda: os.preadv(number, [rows.data], 0),
            "NaN and infinity": lambda: finite(stored, rows),
            "bf16 to f32": lambda: ggml.to_float(stored, rows, floats),
            f"f32 to {type_name}": lambda: quantize_rows(target, floats, out),
            "the check of the result": lambda: valid(target, out),
            "writing to the page cache": lambda: os.pwrite(number, out.data, 0),
            "CRC-32 for the journal": lambda: zlib.crc32(out.data),
            "SHA-256 for the manifest": lambda: hashlib.sha256(out.data).digest(),
        }
        return [
            Row(title, title, "ns", "less", {OURS: [_seconds(step) / n * 1e9 for _ in range(runs)]})
            for title, step in steps.items()
        ]


def _seconds(step: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        begun = time.thread_time()
        step()
        times.append(time.thread_time() - begun)
    return statistics.median(times)
