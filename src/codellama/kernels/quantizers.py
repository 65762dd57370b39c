"""Which quantizer makes a type: ours in lanes where it has proved itself in this process, else ggml's."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from codellama.errors import ConversionError
from codellama.kernels import trial
from codellama.kernels.library import MissingLanesError, RowEncoder, lanes
from codellama.native import ggml
from codellama.native.arrays import Bytes, Floats
from codellama.native.ggml import TensorType

log = logging.getLogger(__name__)

VARIABLE = "CODELLAMA_QUANTIZERS"
LANES, GGML = "lanes", "ggml"

TYPES = frozenset(
    ("Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K", "Q8_0")
    + ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS")
)
"""Types that there is a quantizer in lanes for."""


@dataclass(frozen=True)
class Quantizer:
    """What makes a type: `name` is "lanes" or "ggml". `detail` has the number of lanes, or why not."""

    name: str
    detail: str
    encoder: RowEncoder | None = None


def quantizer_of(target: TensorType) -> Quantizer:
    """What makes `target` in this process; the first question for a type takes some milliseconds.

    Raises:
        ConversionError: `CODELLAMA_QUANTIZERS` has a value that means nothing.
    """
    wanted = os.environ.get(VARIABLE) or LANES
    if wanted not in (LANES, GGML):
        raise ConversionError(
            f"{VARIABLE} is {wanted!r}: set it to {LANES} or {GGML}, or not at all"
        )
    if wanted == GGML:
        return Quantizer(GGML, f"{VARIABLE} asks for it")
    if target.name not in TYPES:
        return Quantizer(GGML, "not made in lanes")
    try:
        return _tried(lanes(), target)
    except MissingLanesError as error:
        return Quantizer(GGML, f"the quantizers in lanes are {error}")


@functools.cache
def _tried(encoder: RowEncoder, target: TensorType) -> Quantizer:
    """`encoder` if its bytes are those of ggml, with and without an importance."""
    for importance in (None, trial.importance()):
        ours, theirs = np.zeros((2, len(trial.rows()), target.row_bytes(trial.COLUMNS)), np.uint8)
        ggml.quantize_rows(target, trial.rows(), theirs, importance)
        encoded = encoder.encode(target, trial.rows(), ours, importance)
        if not (encoded and np.array_equal(ours, theirs)):
            log.warning("%s in lanes differs from ggml's here: ggml makes it", target.name)
            return Quantizer(GGML, "in lanes it differs here")
    return Quantizer(LANES, f"{encoder.width} lanes", encoder)


def quantize_rows(
    target: TensorType, rows: Floats, out: Bytes, importance: Floats | None = None
) -> None:
    """Encode `rows` (rows by columns) as `target` into `out`, as `native.ggml.quantize_rows` does it.

    The bytes are the same whichever quantizer makes them.

    Raises:
        ValueError: the arrays do not fit each other.
        ConversionError: as `quantizer_of`.
    """
    encoder = quantizer_of(target).encoder
    if encoder is not None:
        ggml.check_rows(target, rows, out, importance)
        if encoder.encode(target, rows, out, importance):
            return
    ggml.quantize_rows(target, rows, out, importance)


def quantizers_of(targets: Iterable[TensorType]) -> dict[str, Quantizer]:
    """By the name of each type that has to be quantized, the others left out."""
    kinds = {target.name: target for target in targets if target.quantized}
    return {name: quantizer_of(kinds[name]) for name in sorted(kinds)}


def described(quantizers: Mapping[str, Quantizer]) -> str:
    """In one line: "Q4_K, Q6_K: 16 lanes; IQ2_XS: ggml (not made in lanes)"."""
    groups: dict[str, list[str]] = {}
    for kind, quantizer in quantizers.items():
        ours = quantizer.name == LANES
        groups.setdefault(quantizer.detail if ours else f"{GGML} ({quantizer.detail})", []).append(
            kind
        )
    return "; ".join(f"{', '.join(kinds)}: {made}" for made, kinds in groups.items()) or "none"
