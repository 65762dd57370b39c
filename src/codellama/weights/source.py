"""Where tensors come from: a checkpoint folder, or through `gguf_source` a GGUF file.

Opening a source reads headers only and checks that everything a conversion needs is there and agrees
with itself. Afterwards `read` fetches rows of any tensor, in any order, from any thread.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from codellama.errors import CheckpointError, CodeLlamaError, ConversionError
from codellama.files.gguf_header import Value
from codellama.files.hub_cache import checkpoint_name
from codellama.files.identify import recognised
from codellama.files.provenance import FILES, MERGED, REVISION, SOURCE, source_keys
from codellama.files.quantized import by_tensors, refusal
from codellama.files.safetensors_header import SafeTensor, read_safetensors_header
from codellama.files.small_files import INDEX, PICKLE_INDEX, check_small_files, read_json, shown
from codellama.files.torch_file import read_torch_header
from codellama.native.arrays import Bytes
from codellama.native.ggml import TensorType, tensor_type
from codellama.weights.config import LlamaConfig, read_config
from codellama.weights.metadata import checkpoint_metadata
from codellama.weights.tensors import Expected, expected_tensors, plain_names
from codellama.weights.vocab import read_vocabulary

_PICKLES = (".pt", ".pth", ".ckpt", ".bin")
WEIGHT_DTYPES = ("F64", "F32", "F16", "BF16")
"""The types of weights that are read, under safetensors' names."""


@dataclass(frozen=True)
class SourceTensor:
    """A tensor under the name it has in the GGUF: where its rows lie and how.

    `shape` is outermost first, so the last number is the row length; a vector is one row. Rows of
    `heads` heads (if not 0) have to be interleaved, see `tensors.interleave_heads`.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    path: Path
    offset: int
    heads: int = 0

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
            return local_identity(self.path, [tensor.path for tensor in self.tensors])
        return self._identity

    def read(self, tensor: SourceTensor, first_row: int, out: Bytes) -> None:
        """Fill `out` with the bytes of rows from `first_row` on; safe from any thread.

        Raises:
            ConversionError: the file cannot be read or has become shorter.
        """
        self._read_at(tensor.path, tensor.offset + first_row * tensor.row_bytes, out, tensor.name)

    def _read_at(self, path: Path, position: int, out: Bytes, name: str) -> None:
        """Fill `out` with the bytes of `path` from `position` on, which are those of the tensor `name`."""
        view = out.data.cast("B")
        try:
            file = self._file(path)
            while view:
                count = os.preadv(file, [view], position)
                if count == 0:
                    raise ConversionError(f"{path}: the file ends inside {name}")
                view = view[count:]
                position += count
        except OSError as error:
            raise ConversionError(f"{path}: cannot be read: {error.strerror}") from error

    def _file(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY)
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
    tensors = _match(folder, config, _stored_tensors(folder, present, read_header))
    n_parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    vocabulary = read_vocabulary(folder, config)
    metadata = checkpoint_metadata(folder, config, vocabulary, n_parameters)
    return Source(folder, metadata, tensors, verbatim=False)


@dataclass(frozen=True)
class Layout:
    """What the files with the weights, and their index, are called."""

    index: str
    begins: str
    ends: str

    def shards(self, present: Iterable[str]) -> set[str]:
        """The names of those that are there."""
        return {
            name for name in present if name.startswith(self.begins) and name.endswith(self.ends)
        }


SAFETENSORS = Layout(INDEX, "model", ".safetensors")
PICKLED = Layout(PICKLE_INDEX, "pytorch_model", ".bin")
SHARD_ENDINGS = SAFETENSORS.ends, PICKLED.ends


def layout_of(present: Collection[str]) -> Layout:
    """How the weights are stored; of both kinds, safetensors."""
    safe = INDEX in present or SAFETENSORS.shards(present)
    return PICKLED if not safe and PICKLED.shards(present) else SAFETENSORS


def shard_names(folder: Path, present: Collection[str]) -> list[str]:
    """The names of all shards: those the index names, or those that are there."""
    layout = layout_of(present)
    indexed = layout.index in present
    names = set(_weight_map(folder, layout).values()) if indexed else layout.shards(present)
    if not names:
        raise _no_weights(folder, present)
    for name in sorted(names):
        if name not in present:
            raise CheckpointError(f"{folder / name}: missing: the index names it; download it")
    return sorted(names)


def _stored_tensors(
    folder: Path, present: Collection[str], read_header: Callable[[Path], list[SafeTensor]]
) -> dict[str, SafeTensor]:
    """All tensors of all shards by name, checked against the index."""
    layout = layout_of(present)
    wanted = _weight_map(folder, layout) if layout.index in present else {}
    shards = shard_names(folder, present)
    found: dict[str, SafeTensor] = {}
    for shard in shards:
        for tensor in read_header(folder / shard):
            if tensor.name in found:
                raise CheckpointError(f"{folder}: {tensor.name} is in two shards")
            if wanted and wanted.get(tensor.name) != shard:
                raise CheckpointError(
                    f"{folder / shard}: {layout.index} knows no {tensor.name} in it"
                )
            found[tensor.name] = tensor
    for name in wanted:
        if name not in found:
            raise CheckpointError(
                f"{folder / wanted[name]}: {shown(name)} is missing, {layout.index} has it here"
            )
    return found


def _weight_map(folder: Path, layout: Layout) -> dict[str, str]:
    index = folder / layout.index
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: there is no weight_map in it")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _is_file_name(shard, layout.ends):
            raise CheckpointError(
                f"{index}: {shown(shard)} is no name of a {layout.ends[1:]} file beside it"
            )
    return weight_map


def _is_file_name(name: str, ending: str) -> bool:
    """Whether this can be a shard: no part of a path, on no system, and nothing else of the checkpoint."""
    return name.endswith(ending) and name.isprintable() and not any(mark in name for mark in "/\\:")


def _no_weights(folder: Path, present: Collection[str]) -> CodeLlamaError:
    pickles = sorted(name for name in present if name.endswith(_PICKLES))
    if pickles:
        return CheckpointError(
            f"{folder}: {pickles[0]} is there, but neither safetensors files nor pytorch_model.bin",
            "name the file with the weights pytorch_model.bin, or get the safetensors files",
        )
    return CheckpointError(f"{folder}: there are no safetensors files in it")


def _match(folder: Path, config: LlamaConfig, stored: dict[str, SafeTensor]) -> list[SourceTensor]:
    """The stored tensors under their GGUF names; they must be exactly those the config asks for."""
    method = by_tensors(stored, config.num_attention_heads * config.head_dim * config.hidden_size)
    if method:
        raise refusal(folder, method)
    left = plain_names(folder, stored)
    matched = []
    for expected in expected_tensors(config):
        tensor = left.pop(expected.hf_name, None)
        if tensor is not None:
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
