"""GGUFs that a repository on the hub has ready: which ones there are, and fetching one.

A model may be one file, several that belong together (gguf-split), or one file cut into pieces that have to
be joined (`.gguf-split-a`, `.gguf.part1of2`). Its header is fetched and checked before the rest: what could
not be loaded is not worth 41 GB. Whole files are checked by their SHA-256 and get a manifest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from codellama.errors import CheckpointError, ConversionError, ModelLoadError
from codellama.files.cut_file import piece_place
from codellama.files.loadable import read_model
from codellama.files.provenance import manifest, manifest_of, manifest_path, read_manifest
from codellama.files.split import unsplit_name
from codellama.params import Progress
from codellama.weights.fetch import fetch
from codellama.weights.hub import HubFile, Repository

_HEADER_BYTES = 4 * 2**20
"""More than the header of any Llama model: the vocabulary takes most of one million."""
_COPY = 2**24


@dataclass(frozen=True)
class ReadyModel:
    """A model in a repository: its file's name here (of several the first) and what it is made of.

    With `cut`, the files are pieces of that one file.
    """

    name: str
    files: tuple[HubFile, ...]
    cut: bool = False

    @property
    def nbytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)


def ready_models(repository: Repository) -> list[ReadyModel]:
    """The GGUFs of a repository, by name."""
    whole: dict[str, list[HubFile]] = {}
    pieces: dict[str, list[tuple[int, HubFile]]] = {}
    for path, file in sorted(repository.files.items()):
        name = path.rpartition("/")[2]
        if not name.isprintable():
            continue
        found = piece_place(name)
        if found is not None:
            whole_name, place = found
            pieces.setdefault(whole_name, []).append((place, file))
        elif name.endswith(".gguf"):
            whole.setdefault(unsplit_name(path), []).append(file)
    models = [
        ReadyModel(files[0].name.rpartition("/")[2], tuple(files)) for files in whole.values()
    ]
    models += [
        ReadyModel(name, tuple(file for _, file in sorted(cut, key=lambda pair: pair[0])), True)
        for name, cut in pieces.items()
    ]
    return sorted(models, key=lambda model: model.name)


def fetch_model(
    repository: Repository,
    model: ReadyModel,
    folder: Path,
    progress: Progress | None = None,
) -> Path:
    """Get a model into `folder`, which is made; continues what was interrupted. Returns its (first) file.

    `progress` gets bytes done and in all.

    Raises:
        CheckpointError: the hub or the network refuses.
        ConversionError: the disk is too small.
        ModelLoadError: the file is no model that can be loaded.
    """
    target = folder / model.name
    if _is_here(target, model):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    _check_header(repository, model, folder)
    _check_room(model, folder)
    done = 0
    paths = []
    for file in model.files:
        begin = done

        def advance(count: int, begin: int = begin) -> None:
            if progress:
                progress(begin + count, model.nbytes)

        paths.append(_fetched(repository, file, folder, target, advance))
        done += file.size
    provenance = {"source": repository.name, "revision": repository.commit}
    if model.cut:
        _join(paths, [file.size for file in model.files], target)
        document = manifest({target.name: target}, provenance)
    else:
        rows = {
            path.name: (file.size, file.sha256 or "")
            for path, file in zip(paths, model.files, strict=True)
        }
        document = manifest_of(rows, provenance)
    manifest_path(target).write_bytes(document)
    return target


def _is_here(target: Path, model: ReadyModel) -> bool:
    """Whether just these files have been fetched already, by their manifest."""
    try:
        listed = {file.path.name: file.sha256 for file in read_manifest(target)}
    except ModelLoadError:
        return False
    if not all((target.parent / name).is_file() for name in listed):
        return False
    if model.cut:
        return target.stat().st_size == model.nbytes
    return listed == {f.name.rpartition("/")[2]: f.sha256 for f in model.files}


def _check_header(repository: Repository, model: ReadyModel, folder: Path) -> None:
    """Read the beginning of the model from the hub, and whether it can be loaded. Of a split model the
    tensors are in other files, so it is checked when it is there."""
    if len(model.files) > 1 and not model.cut:
        return
    with TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / model.name
        with path.open("wb") as out:
            out.write(repository.read(model.files[0].name, 0, _HEADER_BYTES))
            out.truncate(model.nbytes)  # a hole: sizes are checked against that of the file
        try:
            read_model(path)
        except ModelLoadError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise ModelLoadError(f"{repository.name}: {model.name}: {reason}") from None


def _check_room(model: ReadyModel, folder: Path) -> None:
    there = sum(
        path.stat().st_size
        for file in model.files
        for path in (folder / _part(file), folder / _last(file))
        if path.is_file()
    )
    needed = model.nbytes - there
    if model.cut:
        needed += max(file.size for file in model.files[1:])
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConversionError(
            f"{folder}: {needed / 1e9:.1f} GB are needed for {model.name} and {free / 1e9:.1f} GB are "
            "free: make room, or let CODELLAMA_MODELS name another folder"
        )


def _fetched(
    repository: Repository,
    file: HubFile,
    folder: Path,
    target: Path,
    advance: Callable[[int], None],
) -> Path:
    """The file, fetched; a piece that `_join` has begun to lengthen is there already."""
    path = folder / _last(file)
    if _joining(target).is_file():
        return path
    if file.sha256 is None:
        raise CheckpointError(f"{repository.name}: the hub has no checksum of {file.name}")
    return fetch(repository, file.name, folder, advance)


def _join(paths: list[Path], sizes: list[int], target: Path) -> None:
    """Append all pieces to the first, which becomes `target`; interrupted, it goes on when called again."""
    joining = _joining(target)
    if not joining.is_file():
        paths[0].replace(joining)
    end = sizes[0]
    with joining.open("r+b") as out:
        for path, size in zip(paths[1:], sizes[1:], strict=True):
            if path.is_file():  # else it has been joined and deleted
                out.truncate(end)
                out.seek(end)
                with path.open("rb") as piece:
                    shutil.copyfileobj(piece, out, _COPY)
                out.flush()
                os.fsync(out.fileno())
                path.unlink()
            end += size
    joining.replace(target)


def _joining(target: Path) -> Path:
    return target.with_name(f"{target.name}.joining")


def _last(file: HubFile) -> str:
    return file.name.rpartition("/")[2]


def _part(file: HubFile) -> str:
    return f"{_last(file)}.part"
