"""bitsandbytes' types of 4 bits: entries of a table times the largest value of a block of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codellama.files.safetensors_header import SafeTensor
from codellama.files.small_files import parse_json
from codellama.native.arrays import Floats
from codellama.weights.dequantizers import Dequantizer, Read, numbers, unusable
from codellama.weights.unpacking import nibbles_high_first

MOST_STATE = 4096
"""Bytes of the longest description that is read; bitsandbytes writes some 200."""


@dataclass(frozen=True)
class Nested:
    """The largest values, quantized themselves: 8 bits each, with a table and blocks of their own."""

    absmax: SafeTensor
    table: SafeTensor
    block: int


@dataclass(frozen=True)
class Blockwise(Dequantizer):
    """Weights in blocks of `block`, counted over the whole matrix of `shape`, the upper half of a byte first.

    `state` is JSON in bytes, which has to say the same.
    """

    weight: SafeTensor
    shape: tuple[int, ...]
    kind: str
    block: int
    absmax: SafeTensor
    table: SafeTensor
    state: SafeTensor
    nested: Nested | None = None

    @property
    def tensors(self) -> Sequence[SafeTensor]:  # type: ignore[override]
        nested = (self.nested.absmax, self.nested.table) if self.nested else ()
        return [self.weight, self.absmax, self.table, self.state, *nested]

    def decode(self, read: Read, first: int, out: Floats) -> None:
        state = self._state(read)
        begin = first * out.shape[1]
        table = numbers(read, self.table, 0, 16)
        nibbles_high_first(read(self.weight, begin // 2, out.size // 2), table, out)
        start = begin // self.block
        stop = (begin + out.size - 1) // self.block + 1
        largest = self._largest(read, start, stop, state)
        flat = out.reshape(-1)
        if begin % self.block == 0 and out.size % self.block == 0:
            parts = flat.reshape(-1, self.block)
            parts *= largest[:, None]
        else:
            flat *= np.repeat(largest, self.block)[begin - start * self.block :][: flat.size]

    def _largest(self, read: Read, start: int, stop: int, state: Mapping[str, Any]) -> Floats:
        if self.nested is None:
            return numbers(read, self.absmax, start, stop - start)
        codes = read(self.absmax, start, stop - start)
        table = numbers(read, self.nested.table, 0, 256)
        first, last = start // self.nested.block, (stop - 1) // self.nested.block
        scales = numbers(read, self.nested.absmax, first, last - first + 1)
        values = table[codes] * scales[np.arange(start, stop) // self.nested.block - first]
        offset: Floats = values + np.float32(state["nested_offset"])
        return offset

    def _state(self, read: Read) -> Mapping[str, Any]:
        try:
            state = parse_json(read(self.state, 0, self.state.nbytes).tobytes())
        except ValueError as error:
            raise unusable(self.state, f"is not JSON ({error})") from error
        if not isinstance(state, dict):
            raise unusable(self.state, "is no JSON object")
        expected: dict[str, Any] = {"quant_type": self.kind, "blocksize": self.block}
        if self.nested:
            expected["nested_blocksize"] = self.nested.block
        for name, value in expected.items():
            if state.get(name) != value:
                raise unusable(self.state, f"has no {name} {value}, which the sizes ask for")
        if state.get("shape") != list(self.shape):
            raise unusable(self.state, f"has no shape {list(self.shape)}")
        if self.nested and type(state.get("nested_offset")) not in (int, float):
            raise unusable(self.state, "has no nested_offset")
        return state
