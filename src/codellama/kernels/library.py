"""The compiled quantizers in lanes: opened, asked for the width of this processor, called."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Hashable
from pathlib import Path
from typing import Protocol

from codellama.native.arrays import Bytes, Floats
from codellama.native.ggml import TensorType

WIDTHS = (16, 8, 4)
_INTERFACE = 1  # as dispatch.cpp says it
_PATH = Path(__file__).with_name("_lanes.so")


class RowEncoder(Hashable, Protocol):
    """Encodes rows in `width` lanes, if it knows the type."""

    width: int

    def encode(
        self, target: TensorType, rows: Floats, out: Bytes, importance: Floats | None
    ) -> bool:
        """Whether `rows` were encoded into `out`; nothing is written if not."""


class MissingLanesError(Exception):
    """The library is not there, or not of this source; the text says which."""


class Lanes:
    """The library at `width` lanes, by default as many as this processor can do.

    Every call drops the GIL. The arrays are contiguous and fit each other, as `native.ggml` checks it.
    """

    def __init__(self, library: ctypes.CDLL, width: int | None = None) -> None:
        self._encode = library.codellama_encode
        self._encode.argtypes = [
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]
        self.width: int = library.codellama_lanes() if width is None else width

    def encode(
        self, target: TensorType, rows: Floats, out: Bytes, importance: Floats | None
    ) -> bool:
        """Encode `rows` as `target` into `out`; False where type, width or columns are none of ours."""
        weights = None if importance is None else importance.ctypes.data
        n_rows, n_columns = rows.shape
        return bool(
            self._encode(
                self.width,
                target.id,
                rows.ctypes.data,
                out.ctypes.data,
                n_rows,
                n_columns,
                weights,
            )
        )


def open_library(path: Path = _PATH) -> ctypes.CDLL:
    """The compiled library.

    Raises:
        MissingLanesError: it was not built, is not for this kind of machine, or is of other sources.
    """
    if not path.is_file():
        raise MissingLanesError("not built")
    try:
        library = ctypes.CDLL(str(path))
        interface = library.codellama_lanes_interface()
    except (OSError, AttributeError) as error:
        raise MissingLanesError(f"not for this machine: {error}") from None
    if interface != _INTERFACE:
        raise MissingLanesError("built from other sources")
    return library


@functools.cache
def lanes() -> RowEncoder:
    """The library at this processor's width. Raises MissingLanesError."""
    return Lanes(open_library())
