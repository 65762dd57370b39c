"""The compiled quantizers at every width that this processor can do, for tests of their bytes."""

from __future__ import annotations

import numpy as np
import pytest

from codellama.kernels.library import WIDTHS, Lanes, MissingLanesError, open_library
from codellama.native import ggml
from codellama.native.arrays import Bytes, Floats
from codellama.native.ggml import TensorType


def encoders() -> list[Lanes]:
    """One for each width; skips the test where the library is not built."""
    try:
        library = open_library()
    except MissingLanesError as error:
        pytest.skip(f"the quantizers in lanes are {error}")
    widest = Lanes(library).width
    return [Lanes(library, width) for width in WIDTHS if width <= widest]


def assert_equal_bytes(
    encoder: Lanes, target: TensorType, rows: Floats, importance: Floats | None
) -> None:
    """Encode `rows` on both sides, ours between guards, and compare."""
    rows = np.ascontiguousarray(rows, np.float32)
    theirs = np.zeros((len(rows), target.row_bytes(rows.shape[1])), np.uint8)
    ggml.quantize_rows(target, rows, theirs, importance)
    ours, guards = _guarded(theirs)
    assert encoder.encode(target, rows, ours, importance)
    assert all((guard == 0xA5).all() for guard in guards), "written outside"
    wrong = (ours != theirs).reshape(-1, target.block_bytes).any(axis=1)
    assert not wrong.any(), (
        f"{target.name}, {encoder.width} lanes: {wrong.sum()} of {wrong.size} blocks differ, the "
        f"first is {np.flatnonzero(wrong)[0]}"
    )


def _guarded(like: Bytes) -> tuple[Bytes, tuple[Bytes, Bytes]]:
    space = np.full(like.size + 512, 0xA5, np.uint8)
    return space[256:-256].reshape(like.shape), (space[:256], space[-256:])
