"""Fetches files of a repository into a folder, one ahead of their use, and deletes them afterwards.

A thread fetches the files in the order they will be used. No more than two lie on the disk: the one in
use and the next. A file gets its name only when its checksum is right; what a broken run leaves half
fetched is continued.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.errors import CheckpointError, CodeLlamaError, ConversionError
from codellama.weights.hub import HubFile, Repository

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger(__name__)

MOST_FILES = 2
_PIECE = 2**20


class Fetcher:
    """Gets files of `repository` into `folder`; with `keep` they stay there and none is waited for."""

    def __init__(self, repository: Repository, folder: Path, *, keep: bool) -> None:
        self.repository = repository
        self.folder = folder
        self.keep = keep
        self._changed = threading.Condition()
        self._ready: set[str] = set()
        self._released: set[str] = set()
        self._failure: Exception | None = None
        self._stopped = False

    def begin(self, names: Sequence[str]) -> None:
        """Start fetching `names`, in this order."""
        thread = threading.Thread(target=self._work, args=(names,), name="fetch", daemon=True)
        thread.start()

    def _work(self, names: Sequence[str]) -> None:
        try:
            for place, name in enumerate(names):
                if not self._wait_for_room(place):
                    return
                log.info("fetching %s (%d of %d)", name, place + 1, len(names))
                fetch(self.repository, name, self.folder)
                with self._changed:
                    self._ready.add(name)
                    self._changed.notify_all()
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _wait_for_room(self, n_before: int) -> bool:
        """Wait until there is room for a file behind `n_before` others; False if it is over."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or self.keep or n_before - len(self._released) < MOST_FILES
            )
            return not self._stopped

    def wait(self, name: str) -> None:
        """Until `name` is there.

        Raises:
            CheckpointError: it cannot be fetched, or `stop` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: name in self._ready or self._failure or self._stopped)
            if name in self._ready:
                return
            if isinstance(self._failure, CodeLlamaError):
                raise self._failure
            if self._failure:
                raise ConversionError(f"{self.folder / name}: cannot be written: {self._failure}")
            raise CheckpointError(f"{name}: stopped")

    def release(self, name: str) -> None:
        """Delete a file that is used up, unless it is to be kept."""
        if not self.keep:
            (self.folder / name).unlink(missing_ok=True)
        with self._changed:
            self._released.add(name)
            self._changed.notify_all()

    def stop(self) -> None:
        """End the thread soon; what it has of a file stays for the next run."""
        self.repository.stop()
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def fetch(
    repository: Repository,
    name: str,
    folder: Path,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Get one file into `folder`, under its last name, unless it is there; continues what was half fetched.

    A file that the hub's cache has is not fetched again but linked.

    `progress` gets the bytes that are there, in this file.

    Raises:
        CheckpointError: the network, or twice a checksum that is wrong.
    """
    file = repository.files[name]
    target = folder / name.rpartition("/")[2]
    part = target.with_name(f"{target.name}.part")
    if target.is_symlink():  # into the hub's cache, which is not ours to write to
        target.unlink()
    cached = repository.cached(file)
    if cached is not None:
        target.unlink(missing_ok=True)
        _link(cached, target)
        return target
    if target.is_file():  # of an earlier run, and who knows of which commit
        target.replace(part)
    for _ in range(2):
        digest = _download(repository, file, part, progress)
        if digest in (file.sha256, file.blob_id):
            part.replace(target)
            return target
        part.unlink()
        log.warning("%s: what came does not match the checksum", name)
    raise CheckpointError(
        f"{repository.name}: {name} arrived twice with a wrong checksum: the hub, or something on the "
        "way, damages it"
    )


def _link(there: Path, here: Path) -> None:
    """Make `here` the same file, by a link where the system lets us."""
    try:
        here.symlink_to(there)
    except OSError:
        shutil.copyfile(there, here)


def _download(
    repository: Repository, file: HubFile, part: Path, progress: Callable[[int], None] | None
) -> str:
    """Get what is missing of `part`; returns the checksum of the whole."""
    digest = _new_digest(file)
    there = 0

    def note(piece: bytes) -> None:
        nonlocal there
        digest.update(piece)
        there += len(piece)
        if progress:
            progress(there)

    with part.open("a+b") as out:
        if out.tell() > file.size:
            out.truncate(0)
        out.seek(0)
        while piece := out.read(_PIECE):
            note(piece)
        for piece in repository.stream(file.name, out.tell()):
            out.write(piece)
            note(piece)
    return digest.hexdigest()


def _new_digest(file: HubFile) -> _Hash:
    """SHA-256 of large files, git's own hash of the others."""
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
