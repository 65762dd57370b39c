"""Numbers of a stored tensor as floats: whole rows, or a part of each, from any place in the file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np

from codellama.errors import ConversionError
from codellama.files.safetensors_header import SafeTensor
from codellama.native.arrays import Floats
from codellama.native.ggml import tensor_type, to_float
from codellama.system import BINARY, pread
from codellama.weights.unusable import UnusableWeightsError


class NumberReader:
    """Reads tensors of local files; safe from any thread. Close it, or use `with`."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    def read(self, tensor: SafeTensor, first: int, count: int) -> Floats:
        """The `count` numbers from number `first` on, in the order in which they lie.

        Raises:
            UnusableWeightsError: a number is NaN or infinite.
            ConversionError: the file cannot be read or has become shorter.
        """
        size = tensor.nbytes // max(1, _count(tensor))
        data = self._bytes(tensor, tensor.offset + first * size, count * size)
        numbers = np.empty(count, np.float32)
        if count:
            to_float(tensor_type(tensor.dtype), np.frombuffer(data, np.uint8), numbers)
        if not np.isfinite(numbers).all():
            raise UnusableWeightsError(
                f"{tensor.path}: {tensor.name} holds NaN or infinite weights"
            )
        return numbers

    def rows(self, tensor: SafeTensor, first: int, count: int) -> Floats:
        """Rows `first` to `first + count` of a matrix."""
        width = tensor.shape[1]
        return self.read(tensor, first * width, count * width).reshape(count, width)

    def columns(self, tensor: SafeTensor, first: int, count: int) -> Floats:
        """The numbers `first` to `first + count` of every row of a matrix."""
        rows, width = tensor.shape
        found = np.empty((rows, count), np.float32)
        for row in range(rows):
            found[row] = self.read(tensor, row * width + first, count)
        return found

    def _bytes(self, tensor: SafeTensor, position: int, count: int) -> bytes:
        pieces = []
        try:
            file = self._file(tensor.path)
            while count:
                piece = pread(file, count, position)
                if not piece:
                    raise ConversionError(f"{tensor.path}: the file ends inside {tensor.name}")
                pieces.append(piece)
                position, count = position + len(piece), count - len(piece)
        except OSError as error:
            raise ConversionError(f"{tensor.path}: cannot be read: {error.strerror}") from error
        return b"".join(pieces)

    def _file(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | BINARY)
            return self._files[path]

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])

    def __enter__(self) -> NumberReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _count(tensor: SafeTensor) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64))
