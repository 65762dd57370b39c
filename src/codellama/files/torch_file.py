"""The tensors of a file that `torch.save` wrote: names, shapes and places, without running anything in it.

`pytorch_model.bin`, `adapter_model.bin` and Meta's `consolidated.00.pth` are such files. The result has the
form of a safetensors header, so that weights are read from both in the same way.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from codellama.errors import CheckpointError
from codellama.files.safetensors_header import DTYPE_BYTES, SafeTensor, is_tensor_name
from codellama.files.small_files import shown
from codellama.files.torch_pickle import PickledTensor, Storage, read_tensors
from codellama.files.torch_zip import ReadAt, Record, TorchZip

_PROGRAM = "data.pkl"


def read_torch_header(path: Path) -> list[SafeTensor]:
    """The tensors of the torch file at `path`, in the order of their data.

    Tensors may share a storage, as tied embeddings do.

    Raises:
        CheckpointError: the file cannot be read, is no such archive, or its pickle holds anything but
            a dictionary of tensors whose bytes are all there.
    """

    def read(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    try:
        with path.open("rb") as file:
            return torch_header(path, os.fstat(file.fileno()).st_size, read)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def torch_header(path: Path, size: int, read: ReadAt) -> list[SafeTensor]:
    """As `read_torch_header`, of a file of `size` bytes that `read` reads.

    Raises:
        CheckpointError: as `read_torch_header`.
    """
    archive = TorchZip(path, size, read)
    if "constants.pkl" in archive or _PROGRAM not in archive:
        raise CheckpointError(f"{path}: a program of TorchScript, or no torch file: no weights")
    if archive.small("byteorder", 16) not in (b"", b"little"):
        raise CheckpointError(f"{path}: was written on a big-endian machine")
    tensors = read_tensors(path, archive.small(_PROGRAM))
    storages = {tensor.storage for tensor in tensors.values()}
    places = {storage: _place(archive, storage) for storage in storages}
    found = [_placed(path, name, tensor, places) for name, tensor in tensors.items()]
    return sorted(found, key=lambda tensor: (tensor.offset, tensor.nbytes, tensor.name))


def _place(archive: TorchZip, storage: Storage) -> Record | None:
    """The record of a storage, if the file has it at its size."""
    name = f"data/{storage.key}"
    record = archive.locate(name) if name in archive else None
    fits = record is not None and record.nbytes == storage.count * DTYPE_BYTES[storage.dtype]
    return record if fits else None


def _placed(
    path: Path, name: str, tensor: PickledTensor, places: Mapping[Storage, Record | None]
) -> SafeTensor:
    if not is_tensor_name(name):
        raise CheckpointError(f"{path}: damaged: {shown(name)} is no name of a tensor")
    if not tensor.contiguous:
        raise CheckpointError(
            f"{path}: {name} has shape {list(tensor.shape)} and strides {list(tensor.strides)}, as "
            "transposed tensors do",
            "save it anew with torch, with .contiguous() of each tensor",
        )
    record = places[tensor.storage]
    if record is None:
        raise CheckpointError(
            f"{path}: damaged: the storage of {name} is missing or of another size",
            "download it again",
        )
    dtype = tensor.storage.dtype
    offset = record.offset + tensor.first * DTYPE_BYTES[dtype]
    nbytes = math.prod(tensor.shape) * DTYPE_BYTES[dtype]
    return SafeTensor(name, dtype, tensor.shape, path, offset, nbytes)
