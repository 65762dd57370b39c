"""What a conversion will cost, before it is begun: from headers alone, and a second of measuring.

Sizes are exact, for they are the plan's. Memory is an upper bound of what the buffers take, beyond the
interpreter and its libraries. Time is what the processors need on this machine now, the hash of the
outputs at the end included; a slower disk or network makes it longer. Decoding a quantized source is not
counted: 2 to 15 ns of one core for a weight, by its method.
"""

from __future__ import annotations

import hashlib
import math
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from codellama.files.gguf_header import Value
from codellama.kernels.quantizers import Quantizer, quantize_rows, quantizer_of, quantizers_of
from codellama.native.ggml import TensorType, requires_importance, to_float
from codellama.weights.encode import finite, valid
from codellama.weights.plan import Plan, Slab, files_of, slabs
from codellama.weights.source import Source

_SAMPLE_SHAPE = (64, 4096)  # a multiple of every type's block
_HASHING_SECONDS = 0.05


class Recoding(NamedTuple):
    """From a type of the source to one of the output, `weighed` with an importance of columns."""

    stored: TensorType
    target: TensorType
    weighed: bool


@dataclass(frozen=True)
class Forecast:
    """What making `plans` of a source costs; bytes, and `seconds` of all cores together.

    `peak_disk` counts the outputs and what lies beside them while they are made. `quantizers` are what
    will make each type. `metadata` is the source's.
    """

    plans: tuple[Plan, ...]
    read_bytes: int
    download_bytes: int
    peak_disk: int
    peak_memory: int
    seconds: float
    quantizers: Mapping[str, Quantizer]
    metadata: Mapping[str, Value] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As one JSON object, with the type of every tensor."""
        return {
            "outputs": [_plan_json(plan) for plan in self.plans],
            "read_bytes": self.read_bytes,
            "download_bytes": self.download_bytes,
            "peak_disk_bytes": self.peak_disk,
            "peak_memory_bytes": self.peak_memory,
            "seconds": round(self.seconds, 1),
            "quantizers": {kind: made.name for kind, made in self.quantizers.items()},
        }


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "type": plan.type_name,
        "bytes": plan.nbytes,
        "files": [file.nbytes for file in plan.files],
        "tensor_types": plan.types,
        "identity": dict(plan.identity),
        "tensors": {
            tensor.source.name: {"type": tensor.type.name, "bytes": tensor.nbytes}
            for tensor in plan.tensors
        },
    }


def forecast(
    source: Source,
    plans: Sequence[Plan],
    threads: int,
    rates: Mapping[Recoding, float],
    hashing: float = math.inf,
) -> Forecast:
    """Add everything up.

    `rates` has weights per second, of all threads, for each step, and `hashing` the bytes per second of
    one thread that hashes an output.
    """
    work = list(slabs(source.tensors))
    paths = files_of(work)
    elements = _elements(source, plans)
    return Forecast(
        plans=tuple(plans),
        read_bytes=sum(tensor.stored_bytes for tensor in source.tensors),
        download_bytes=source.download_bytes(paths),
        peak_disk=sum(plan.nbytes for plan in plans) + source.room(paths),
        peak_memory=threads * _buffer_bytes(work, plans)
        + max((t.dequantizer.shared_bytes for t in source.tensors if t.dequantizer), default=0)
        + sum(len(file.header) for plan in plans for file in plan.files),
        seconds=sum(count / rates[step] for step, count in elements.items())
        + _longest_hash(plans, threads) / hashing,
        quantizers=quantizers_of(step.target for step in elements),
        metadata=source.metadata,
    )


def _longest_hash(plans: Iterable[Plan], threads: int) -> float:
    """Bytes that one thread hashes while the others have the other files."""
    sizes = [file.nbytes for plan in plans for file in plan.files]
    return max(max(sizes), sum(sizes) / threads)


def steps(source: Source, plans: Iterable[Plan]) -> list[Recoding]:
    """The conversions that have to be done."""
    return list(_elements(source, plans))


def _elements(source: Source, plans: Iterable[Plan]) -> Counter[Recoding]:
    """Weights to convert by step; a type that several outputs share is made once."""
    counts: Counter[Recoding] = Counter()
    plans = list(plans)
    for tensor in source.tensors:
        for kind in {plan.by_name[tensor.name].type for plan in plans} - {tensor.type}:
            weighed = any(tensor.name in plan.weights for plan in plans)
            counts[Recoding(tensor.type, kind, weighed)] += tensor.rows * tensor.columns
    return counts


def _buffer_bytes(work: Iterable[Slab], plans: Sequence[Plan]) -> int:
    """The most that one thread holds at once: rows twice (where heads move), floats, each output."""
    most = 0
    for slab in work:
        outputs = {plan.by_name[slab.tensor.name].type: plan.place(slab)[2] for plan in plans}
        floats = 4 * slab.n_rows * slab.tensor.columns
        dequantizer = slab.tensor.dequantizer
        decoding = (
            0
            if dequantizer is None
            else dequantizer.working_bytes(slab.n_rows, slab.tensor.columns)
        )
        most = max(most, 2 * slab.source_bytes + 2 * floats + decoding + sum(outputs.values()))
    return most


def measure(
    wanted: Sequence[Recoding], threads: int, seconds: float = 1.0
) -> dict[Recoding, float]:
    """Weights per second that all threads together convert, by step; takes about `seconds` in all."""
    share = seconds / max(1, len(wanted))
    with ThreadPoolExecutor(threads) as pool:
        rates = {}
        for step in wanted:
            quantizer_of(step.target)  # which is tried at its first use
            counts = pool.map(_repeat, [step] * threads, [share] * threads)
            rates[step] = max(1.0, sum(counts))
    return rates


def _repeat(step: Recoding, seconds: float) -> float:
    """Convert a sample again and again; weights per second of one thread."""
    stored, target, weighed = step
    n_rows, n_columns = _SAMPLE_SHAPE
    generator = np.random.default_rng(0)
    floats = generator.standard_normal(_SAMPLE_SHAPE, np.float32)
    rows = np.empty(n_rows * stored.row_bytes(n_columns), np.uint8)
    ones = np.ones(n_columns, np.float32)
    importance = ones if weighed or requires_importance(target) else None
    if stored.name == "F64":
        rows.view(np.float64)[:] = floats.reshape(-1)
    else:
        quantize_rows(stored, floats, rows, ones)
    out = np.empty(n_rows * target.row_bytes(n_columns), np.uint8)
    count, begun = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - begun < seconds:
        finite(stored, rows)
        to_float(stored, rows, floats)
        quantize_rows(target, floats, out, importance)
        valid(target, out)
        zlib.crc32(out.data)
        count += floats.size
    return count / (time.perf_counter() - begun)


def measure_hashing() -> float:
    """Bytes per second that one thread hashes, as it does for the manifest; takes some 50 ms."""
    piece = bytes(2**20)
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < _HASHING_SECONDS:
        hashlib.sha256(piece)
        count += len(piece)
    return count / (time.perf_counter() - begun)
