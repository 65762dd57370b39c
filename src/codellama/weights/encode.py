"""Turns slabs of a source into the encoded rows of the outputs; safe from any thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np

from codellama.kernels.quantizers import quantize_rows
from codellama.native.arrays import Bytes, Floats
from codellama.native.ggml import TensorType, to_float, valid_rows
from codellama.weights.output import Output
from codellama.weights.plan import Slab
from codellama.weights.source import Source, SourceTensor
from codellama.weights.tensors import interleave_heads
from codellama.weights.unusable import UnusableWeightsError

# Bits of the exponent by type: all of them set means infinity or NaN.
_EXPONENTS = {
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}


class SlabEncoder(threading.local):
    """Reads, reorders, converts and writes slabs.

    Each thread has buffers of its own, which it uses again and again.
    """

    def __init__(self, source: Source, outputs: Sequence[Output]) -> None:
        self.source = source
        self.outputs = outputs
        self._buffers: dict[str, Bytes] = {}

    def make(self, slab: Slab, numbers: Iterable[int]) -> dict[int, int]:
        """Write a slab to the outputs with these numbers; returns the CRC of each one's bytes.

        Raises:
            UnusableWeightsError: NaN, infinity, or numbers that a type cannot hold.
            ConversionError: the source cannot be read.
        """
        # Outputs of one run share the importance matrix, so a type is encoded once for all.
        rows = self._read(slab)
        floats: Floats | None = None
        encoded = {slab.tensor.type: rows}
        crcs = {}
        for number in numbers:
            output = self.outputs[number]
            kind = output.plan.by_name[slab.tensor.name].type
            if kind not in encoded:
                if floats is None:
                    floats = self._floats(slab, rows)
                importance = output.plan.importance(slab)
                encoded[kind] = self._encode(slab.tensor, kind, floats, importance)
            crcs[number] = output.write(slab, encoded[kind])
        return crcs

    def _buffer(self, name: str, nbytes: int) -> Bytes:
        held = self._buffers.get(name)
        if held is None or held.nbytes < nbytes:
            held = self._buffers[name] = np.empty(nbytes, np.uint8)
        return held[:nbytes]

    def _read(self, slab: Slab) -> Bytes:
        tensor = slab.tensor
        rows = self._buffer("rows", slab.source_bytes)
        self.source.read(tensor, slab.first_row, rows)
        if not finite(tensor.type, rows):
            raise UnusableWeightsError(
                f"{tensor.path}: {tensor.name} holds NaN or infinite weights"
            )
        if tensor.heads:
            by_row = rows.reshape(slab.n_rows, -1)
            rows = interleave_heads(by_row, tensor.rows // tensor.heads).reshape(-1)
        return rows

    def _floats(self, slab: Slab, rows: Bytes) -> Floats:
        shape = slab.n_rows, slab.tensor.columns
        floats = self._buffer("floats", 4 * shape[0] * shape[1]).view(np.float32).reshape(shape)
        to_float(slab.tensor.type, rows, floats)
        if slab.tensor.type.name == "F64" and not np.isfinite(floats).all():
            raise UnusableWeightsError(
                f"{slab.tensor.path}: {slab.tensor.name} has weights too large for F32"
            )
        return floats

    def _encode(
        self, tensor: SourceTensor, kind: TensorType, floats: Floats, importance: Floats | None
    ) -> Bytes:
        n_rows, n_columns = floats.shape
        out = self._buffer(kind.name, n_rows * kind.row_bytes(n_columns))
        quantize_rows(kind, floats, out, importance)
        if not (finite(kind, out) and valid(kind, out)):
            raise UnusableWeightsError(
                f"{tensor.path}: {tensor.name} has weights too large for {kind.name}; "
                "choose another type, such as BF16"
            )
        return out


def finite(kind: TensorType, rows: Bytes) -> bool:
    """Whether rows of floats hold no NaN and no infinity; True for types that are no floats."""
    if kind.name not in _EXPONENTS:
        return True
    dtype, exponent = _EXPONENTS[kind.name]
    return bool((rows.view(dtype) & dtype(exponent)).max() < exponent)


def valid(kind: TensorType, rows: Bytes) -> bool:
    """Whether encoded rows hold no scale that is NaN or infinite; True for types that are floats."""
    return not kind.quantized or valid_rows(kind, rows)
