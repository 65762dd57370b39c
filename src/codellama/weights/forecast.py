"""What a conversion will cost, before it is begun: from headers alone, and rates that were measured.

Sizes are exact, for they are the plan's. Memory is an upper bound of what the buffers take, beyond the
interpreter and its libraries. Time is what the processors need on this machine now (`rates`), the hashes of
what is fetched and of the outputs included; a slower disk or network makes it longer. Decoding a quantized
source is not counted: 2 to 15 ns of one core for a weight, by its method.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from codellama.files.gguf_header import Value
from codellama.kernels.quantizers import Quantizer, quantizers_of
from codellama.weights.plan import Plan, Slab, files_of, slabs
from codellama.weights.rates import Recoding
from codellama.weights.source import Source


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

    `rates` has weights per second, of all threads, for each step, and `hashing` the bytes per second that
    one thread hashes: of an output at the end, and of what is fetched meanwhile.
    """
    work = list(slabs(source.tensors))
    paths = files_of(work)
    elements = _elements(source, plans)
    download_bytes = source.download_bytes(paths)
    return Forecast(
        plans=tuple(plans),
        read_bytes=sum(tensor.stored_bytes for tensor in source.tensors),
        download_bytes=download_bytes,
        peak_disk=sum(plan.nbytes for plan in plans) + source.room(paths),
        peak_memory=threads * _buffer_bytes(work, plans)
        + max((t.dequantizer.shared_bytes for t in source.tensors if t.dequantizer), default=0)
        + sum(len(file.header) for plan in plans for file in plan.files),
        seconds=sum(count / rates[step] for step, count in elements.items())
        + (download_bytes / threads + _longest_hash(plans, threads)) / hashing,
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
