"""Where tensors come from: a checkpoint folder, or through `gguf_source` a GGUF file.

Opening a source reads headers only and checks that everything a conversion needs is there and agrees
with itself. Afterwards `read` fetches rows of any tensor, in any order, from any thread.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from codellama.errors import CheckpointError, ConversionError
from codellama.files.gguf_header import Value
from codellama.files.hub_cache import checkpoint_name
from codellama.files.identify import recognised
from codellama.files.provenance import FILES, MERGED, REVISION, SOURCE, source_keys
from codellama.files.quantized import by_config, by_tensors, refusal, tensors_are_read
from codellama.files.safetensors_header import SafeTensor, read_safetensors_header
from codellama.files.small_files import check_small_files, read_json
from codellama.files.torch_file import read_torch_header
from codellama.native.arrays import Bytes
from codellama.native.ggml import TensorType, tensor_type
from codellama.system import BINARY, pread_into
from codellama.weights.config import LlamaConfig, read_config
from codellama.weights.dequantizers import Dequantizer
from codellama.weights.metadata import checkpoint_metadata
from codellama.weights.prequantized import Dequantizers, read_settings, settings_files
from codellama.weights.shards import PICKLED, stored_tensors
from codellama.weights.tensors import Expected, expected_tensors, plain_names
from codellama.weights.vocab import read_vocabulary

logger = logging.getLogger(__name__)

WEIGHT_DTYPES = ("F64", "F32", "F16", "BF16")
"""The types of weights that are read, under safetensors' names."""


@dataclass(frozen=True)
class SourceTensor:
    """A tensor under the name it has in the GGUF: where its rows lie and how.

    `shape` is outermost first, so the last number is the row length; a vector is one row. Rows of
    `heads` heads (if not 0) have to be interleaved, see `tensors.interleave_heads`. With a `dequantizer`
    it is quantized in the source, and its rows are read as F32.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    path: Path
    offset: int
    heads: int = 0
    dequantizer: Dequantizer | None = field(default=None, compare=False)

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def n_matrices(self) -> int:
        """Matrices of the same shape that make up the tensor: 1, or as many as there are experts."""
        return math.prod(self.shape[:-2])

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.columns)

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes that it takes in the source."""
        return self.nbytes if self.dequantizer is None else self.dequantizer.nbytes

    @property
    def files(self) -> Sequence[Path]:
        """The files that its rows are read from: one, or more where parts of it lie apart."""
        if self.dequantizer is None:
            return (self.path,)
        return tuple(dict.fromkeys([self.path, *(part.path for part in self.dequantizer.tensors)]))


class Source:
    """Tensors in local files, and the metadata that goes with them. Close it, or use `with`.

    `verbatim` says that tensors which are never quantized keep the type they have in the source (a
    GGUF); otherwise they are stored as F32. `identity` says which weights these are, for people and to
    tell whether an unfinished run was of the same ones; by default it is the files as they are now.
    """

    def __init__(
        self,
        path: Path,
        metadata: dict[str, Value],
        tensors: Sequence[SourceTensor],
        *,
        verbatim: bool,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self.verbatim = verbatim
        self._identity = identity
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    @property
    def provenance(self) -> dict[str, Value]:
        """Keys that say where the weights come from: what a GGUF knows of it, or this one's name."""
        if SOURCE in self.metadata:
            names = SOURCE, REVISION, FILES, MERGED
            return {key: self.metadata[key] for key in names if key in self.metadata}
        return source_keys(checkpoint_name(self.path))

    @functools.cached_property
    def identity(self) -> Mapping[str, str]:
        if self._identity is None:
            files = {path for tensor in self.tensors for path in tensor.files}
            if any(tensor.dequantizer for tensor in self.tensors):
                files |= set(settings_files(self.path))
            return local_identity(self.path, files)
        return self._identity

    def read(self, tensor: SourceTensor, first_row: int, out: Bytes) -> None:
        """Fill `out` with the bytes of rows from `first_row` on; safe from any thread.

        Raises:
            ConversionError: the file cannot be read or has become shorter, or says how to decode it wrongly.
        """
        if tensor.dequantizer is not None:
            rows = out.view(np.float32).reshape(-1, tensor.columns)
            with np.errstate(all="ignore"):  # what is not finite is noticed when the row is encoded
                tensor.dequantizer.decode(self._part, first_row, rows)
            return
        self._read_at(tensor.path, tensor.offset + first_row * tensor.row_bytes, out, tensor.name)

    def _part(self, tensor: SafeTensor, first: int, count: int) -> Bytes:
        """Bytes of a tensor that a dequantizer asks for."""
        data = np.empty(count, np.uint8)
        if count:
            self._read_at(tensor.path, tensor.offset + first, data, tensor.name)
        return data

    def _read_at(self, path: Path, position: int, out: Bytes, name: str) -> None:
        """Fill `out` with the bytes of `path` from `position` on, which are those of the tensor `name`."""
        view = out.data.cast("B")
        try:
            file = self._file(path)
            while view:
                count = pread_into(file, view, position)
                if count == 0:
                    raise ConversionError(f"{path}: the file ends inside {name}")
                view = view[count:]
                position += count
        except OSError as error:
            raise ConversionError(f"{path}: cannot be read: {error.strerror}") from error

    def _file(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | BINARY)
            return self._files[path]

    def expect(self, paths: Sequence[Path]) -> None:
        """Say which files will be read, in which order, before the first `read`."""

    def room(self, paths: Sequence[Path]) -> int:
        """Bytes of disk that reading these files takes for itself."""
        return 0

    def download_bytes(self, paths: Sequence[Path]) -> int:
        """Bytes that have to come over the network for these files."""
        return 0

    def release(self, path: Path) -> None:
        """Say that nothing more will be read from the file `path`."""
        with self._lock:
            if path in self._files:
                os.close(self._files.pop(path))

    def interrupt(self) -> None:
        """Make a `read` that waits for something give up: the run is over."""

    def close(self) -> None:
        """Close the files; the source cannot be read afterwards."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def local_identity(path: Path, files: Iterable[Path]) -> dict[str, str]:
    """Name, and size and time of change of every file: where it lies does not matter."""
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        try:
            state = file.stat()
        except OSError as error:
            raise ConversionError(f"{file}: cannot be read: {error.strerror}") from error
        digest.update(f"{file.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return {"source": checkpoint_name(path), "weight files": digest.hexdigest()[:16]}


def open_checkpoint(folder: Path) -> Source:
    """A Hugging Face checkpoint in a local folder as a source.

    Raises:
        CheckpointError: not a checkpoint; weights that are missing, truncated, pickled or at odds with
            the index or config.json; another architecture; a vocabulary that does not fit.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        hint = "; use quantize for a GGUF file" if folder.suffix == ".gguf" else ""
        known = None if hint else recognised(folder, CheckpointError)
        raise known or CheckpointError(f"{folder}: no such folder{hint}")
    if not (folder / "config.json").is_file():
        raise recognised(folder, CheckpointError) or CheckpointError(
            f"{folder}: not a checkpoint folder: there is no config.json in it"
        )
    present = {path.name for path in folder.iterdir() if path.is_file()}
    return checkpoint_source(folder, present, _read_header)


def _read_header(path: Path) -> list[SafeTensor]:
    pickled = path.suffix == PICKLED.ends
    return read_torch_header(path) if pickled else read_safetensors_header(path)


def checkpoint_source(
    folder: Path, present: Collection[str], read_header: Callable[[Path], list[SafeTensor]]
) -> Source:
    """The checkpoint in `folder`, where all but the shards must lie.

    `present` are the names of all files it has; `read_header` reads that of a shard, wherever it is.
    """
    check_small_files(folder)
    config = read_config(folder / "config.json")
    tensors = _match(folder, config, stored_tensors(folder, present, read_header))
    n_parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    vocabulary = read_vocabulary(folder, config)
    metadata = checkpoint_metadata(folder, config, vocabulary, n_parameters)
    return Source(folder, metadata, tensors, verbatim=False)


def _match(folder: Path, config: LlamaConfig, stored: dict[str, SafeTensor]) -> list[SourceTensor]:
    """The stored tensors under their GGUF names; they must be exactly those the config asks for."""
    left = plain_names(folder, stored)
    dequantizers = _dequantizers(folder, config, left)
    matched = []
    for expected in expected_tensors(config):
        dequantizer = dequantizers.of(expected.hf_name, expected.shape) if dequantizers else None
        tensor = left.pop(expected.hf_name, None) if dequantizer is None else None
        if dequantizer is not None:
            matched.append(_dequantized_tensor(expected, dequantizer))
        elif tensor is not None:
            matched.append(_source_tensor(expected, tensor))
        elif not (expected.hf_name == "lm_head.weight" and config.tie_word_embeddings):
            raise CheckpointError(
                f"{folder}: {expected.hf_name} is in no shard: download the missing files "
                "(or config.json is that of another model)"
            )
    if left:
        raise CheckpointError(
            f"{folder}: {min(left)} is no tensor of the model that config.json describes"
        )
    return matched


def _dequantizers(
    folder: Path, config: LlamaConfig, left: dict[str, SafeTensor]
) -> Dequantizers | None:
    """What decodes the matrices, if they are quantized."""
    n_weights = config.num_attention_heads * config.head_dim * config.hidden_size
    method = by_tensors(left, n_weights)
    if method is None:
        return None
    if not tensors_are_read(left):
        raise refusal(folder, method)
    dequantizers = Dequantizers(folder, read_settings(folder), left)
    named = by_config(read_json(folder / "config.json")) or method
    logger.warning(
        "%s: its weights are quantized already, with %s: they are decoded, and are no better than that",
        *(folder, named),
    )
    dropped = dequantizers.drop_activations()
    if dropped:
        logger.warning("%s: scales of activations are left out, such as %s", folder, dropped[0])
    return dequantizers


def _dequantized_tensor(expected: Expected, dequantizer: Dequantizer) -> SourceTensor:
    main = dequantizer.tensors[0]
    return SourceTensor(
        *(
            expected.name,
            expected.shape,
            tensor_type("F32"),
            main.path,
            main.offset,
            expected.heads,
        ),
        dequantizer=dequantizer,
    )


def _source_tensor(expected: Expected, tensor: SafeTensor) -> SourceTensor:
    if tensor.shape != expected.shape:
        raise CheckpointError(
            f"{tensor.path}: {tensor.name} has shape {list(tensor.shape)}, "
            f"config.json makes it {list(expected.shape)}"
        )
    if tensor.dtype not in WEIGHT_DTYPES:
        raise CheckpointError(
            f"{tensor.path}: {tensor.name} is {tensor.dtype}; weights must be one of "
            f"{', '.join(WEIGHT_DTYPES)}"
        )
    kind = tensor_type(tensor.dtype)
    return SourceTensor(
        expected.name, expected.shape, kind, tensor.path, tensor.offset, expected.heads
    )
