"""A checkpoint on the Hugging Face hub as a source.

Config, tokenizer and the headers of all shards are read when it is opened, a few megabytes; so a plan
is known before any weights move. Shards are fetched while the run needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from codellama.errors import CheckpointError
from codellama.files.gguf_header import Value
from codellama.files.peft_adapter import CONFIG as ADAPTER_CONFIG
from codellama.files.provenance import source_keys
from codellama.files.safetensors_header import SafeTensor, header_length, parse_header
from codellama.files.small_files import MOST_BYTES, SMALL_FILES
from codellama.files.torch_file import torch_header
from codellama.weights.fetch import MOST_FILES, Fetcher, fetch
from codellama.weights.hub import HubFile, Repository
from codellama.weights.plan import files_of, slabs
from codellama.weights.shards import PICKLED, shard_names
from codellama.weights.source import Source, checkpoint_source

_FIRST_BYTES = 2**16
_CONNECTIONS = 8


class HubSource(Source):
    """A source whose files come when they are needed and go when they are used up."""

    def __init__(self, source: Source, repository: Repository, folder: Path, *, keep: bool) -> None:
        identity = {"source": repository.name, "revision": repository.commit}
        super().__init__(
            source.path, source.metadata, source.tensors, verbatim=False, identity=identity
        )
        self.repository = repository
        self._fetcher = Fetcher(repository, folder, keep=keep)
        self._keep = keep

    @property
    def provenance(self) -> dict[str, Value]:
        names = {path.name for tensor in self.tensors for path in tensor.files}
        files = [self.repository.files[name] for name in names]
        hashes = {file.name: file.sha256 for file in files if file.sha256}
        return source_keys(self.repository.name, self.repository.commit, hashes)

    def expect(self, paths: Sequence[Path]) -> None:
        self._fetcher.begin([path.name for path in paths])

    def room(self, paths: Sequence[Path]) -> int:
        sizes = sorted((file.size for file in self._missing(paths)), reverse=True)
        return sum(sizes if self._keep else sizes[:MOST_FILES])

    def download_bytes(self, paths: Sequence[Path]) -> int:
        return sum(file.size for file in self._missing(paths))

    def _missing(self, paths: Sequence[Path]) -> list[HubFile]:
        """Those that are not in the hub's cache."""
        files = [self.repository.files[path.name] for path in paths]
        return [file for file in files if self.repository.cached(file) is None]

    def _file(self, path: Path) -> int:
        self._fetcher.wait(path.name)
        return super()._file(path)

    def release(self, path: Path) -> None:
        super().release(path)
        self._fetcher.release(path.name)

    def interrupt(self) -> None:
        self._fetcher.stop()

    def close(self) -> None:
        self._fetcher.stop()
        super().close()


def open_repository(repository: Repository, folder: Path, *, keep: bool = False) -> Source:
    """The checkpoint in `repository`; its files come into `folder`, which is made.

    With `keep` shards stay there after use.

    Raises:
        CheckpointError: as `source.open_checkpoint`; the hub or the network refuses.
    """
    ready = next((name for name in repository.files if name.endswith(".gguf")), None)
    if ready is not None and "config.json" not in repository.files:
        raise CheckpointError(
            f"{repository.name}: not a checkpoint: its GGUFs are ready, `codellama pull {repository.name}` "
            "fetches one"
        )
    if ADAPTER_CONFIG in repository.files and "config.json" not in repository.files:
        raise CheckpointError(
            f"{repository.name}: is a PEFT adapter, not a whole model",
            "download it, for instance with hf download, and give the folder",
        )
    for names in (("config.json",), ("tokenizer.model", "tokenizer.json")):
        if not any(name in repository.files for name in names):
            missing = " and no ".join(names)
            raise CheckpointError(
                f"{repository.name}: not a checkpoint: there is no {missing} in it"
            )
    folder = folder / repository.name.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    for name in SMALL_FILES:
        if name in repository.files:
            if repository.files[name].size > MOST_BYTES:
                raise CheckpointError(f"{repository.name}: {name} is absurdly large")
            (folder / name).unlink(missing_ok=True)  # it may be that of another commit
            fetch(repository, name, folder)
    source = checkpoint_source(folder, repository.files.keys(), _header_reader(repository, folder))
    if not keep:
        _check_spread(repository, source)
    return HubSource(source, repository, folder, keep=keep)


def _check_spread(repository: Repository, source: Source) -> None:
    """Refuse parts of matrices in more files than the fetcher keeps at once."""
    work = list(slabs(source.tensors))
    last = {path: number for number, slab in enumerate(work) for path in slab.tensor.files}
    order = files_of(work)
    for number, slab in enumerate(work):
        newest = max(order.index(path) for path in slab.tensor.files)
        if sum(last[path] >= number for path in order[: newest + 1]) > MOST_FILES:
            raise CheckpointError(
                f"{repository.name}: parts of {slab.tensor.name} lie in shards that are far apart",
                "download it, for instance with hf download, and give the folder",
            )


def _header_reader(repository: Repository, folder: Path) -> Callable[[Path], list[SafeTensor]]:
    """Reads the headers of all shards at once, each over its own connection."""
    names = shard_names(folder, repository.files.keys())
    paths = [folder / name for name in names]
    with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="headers") as pool:
        try:
            headers = list(pool.map(lambda path: _remote_header(repository, path), paths))
        except BaseException:
            repository.stop()
            raise
    return dict(zip(paths, headers, strict=True)).__getitem__


def _remote_header(repository: Repository, path: Path) -> list[SafeTensor]:
    size = repository.files[path.name].size
    if path.suffix == PICKLED.ends:
        return _torch_header(repository, path, size)
    start = repository.read(path.name, 0, _FIRST_BYTES)
    length = header_length(path, start[:8], size)
    text = start[8 : 8 + length]
    if len(text) < length:
        text += repository.read(path.name, 8 + len(text), length - len(text))
    return parse_header(path, text, length, size)


def _torch_header(repository: Repository, path: Path, size: int) -> list[SafeTensor]:
    """The directory at the end and the pickle at the beginning come whole, the rest record by record."""
    tail_at = max(0, size - _FIRST_BYTES)
    blocks = {0: b"", tail_at: repository.read(path.name, tail_at, size - tail_at)}

    def read(offset: int, count: int) -> bytes:
        for start, block in blocks.items():
            if start <= offset and offset + count <= start + len(block):
                return block[offset - start : offset - start + count]
        if offset < _FIRST_BYTES and not blocks[0]:
            blocks[0] = repository.read(path.name, 0, min(size, 2 * _FIRST_BYTES))
            return read(offset, count)
        return repository.read(path.name, offset, count)

    return torch_header(path, size, read)
