"""A file of chunks that are done, so that an interrupted run goes on behind the last whole one.

The first line says as JSON what the chunks are of; each chunk is then an array of a numpy type, without
objects. What belongs to something else, or is cut in the middle of a chunk, is not used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codellama.errors import ConversionError

_LONGEST_HEAD = 4096


class ChunkJournal:
    """Chunks, arrays of `kind` and `shape`, in a file that is open for more. Use it with `with`."""

    def __init__(
        self, path: Path, head: Mapping[str, Any], kind: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        """Raises ConversionError if the file cannot be written."""
        self.path = path
        self._kind, self._shape = kind, shape
        self._size = math.prod(shape)
        what = {**head, "type": str(kind), "shape": shape}
        line = json.dumps(what, sort_keys=True).encode() + b"\n"
        self.chunks = self._read(line)
        whole = len(line) + len(self.chunks) * self._size * kind.itemsize
        try:
            if not self.chunks:
                path.write_bytes(line)
            self._file = path.open("r+b")
            self._file.truncate(whole)
            self._file.seek(whole)
        except OSError as error:
            raise ConversionError(f"{path}: cannot be written: {error.strerror}") from error

    def _read(self, line: bytes) -> list[NDArray[Any]]:
        try:
            with self.path.open("rb") as file:
                if file.readline(_LONGEST_HEAD) != line:
                    return []
                data = file.read()
        except OSError:
            return []
        count = len(data) // (self._size * self._kind.itemsize)
        records = np.frombuffer(data, self._kind, count * self._size)
        return list(records.reshape(count, *self._shape))

    def add(self, records: NDArray[Any]) -> None:
        """Keep one more chunk. Raises ConversionError if the disk does not take it."""
        kept = np.ascontiguousarray(records, self._kind)
        try:
            self._file.write(kept.tobytes())
            self._file.flush()
        except OSError as error:
            raise ConversionError(f"{self.path}: cannot be written: {error.strerror}") from error
        self.chunks.append(kept)

    def __enter__(self) -> ChunkJournal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
