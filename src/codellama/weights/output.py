"""The files of one plan while they grow.

They grow under `<name>.part`, beside a journal, and get their names when everything is written and
checked. Until then an older file of that name is untouched. What an interrupted run leaves is the parts
and the journal; the next run of the same plan goes on with them.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from codellama.errors import ConversionError
from codellama.files.gguf_header import read_gguf_header
from codellama.files.provenance import PREFIX, manifest, manifest_path
from codellama.files.split import part_paths
from codellama.kernels.quantizers import quantizers_of
from codellama.native.arrays import Bytes
from codellama.system import BINARY, pread, pwrite, sync_data, sync_folder
from codellama.weights.journal import Journal
from codellama.weights.naming import check_absent
from codellama.weights.plan import Plan, Slab

log = logging.getLogger(__name__)


def journal_path(path: Path) -> Path:
    """Where the journal of the output `path` is while a run is unfinished."""
    return path.with_name(path.name + ".journal")


class Output:
    """The output `path` of `plan`. `open`, write slabs and `record` them, `check` and `finish`, or `abandon`.

    `done` holds the slabs that are finished and checked. `write`, `stored` and `sync` may be called
    from any thread.
    """

    def __init__(self, plan: Plan, path: Path) -> None:
        self.plan = plan
        self.path = path
        self.paths = part_paths(path, len(plan.files))
        self.done: set[int] = set()
        self._parts = [name.with_name(name.name + ".part") for name in self.paths]
        self._journal = Journal(journal_path(path))
        self._files: list[int] = []

    @staticmethod
    def begun(path: Path) -> bool:
        """Whether an unfinished run of the output `path` can be continued."""
        return journal_path(path).exists()

    def open(self, *, force: bool, restart: bool) -> None:
        """Take what an earlier run left, or begin; with `restart` begin whatever is there.

        Raises:
            ConversionError: another process writes this output, an unfinished run of it had another
                plan, or a file of that name is there and not to be replaced (`force`).
        """
        begun = self._journal.path.exists()
        self._journal.lock()
        try:
            going_on = not restart and self._can_go_on()
            if not force and not (going_on and self.written):
                for path in self.paths:
                    check_absent(path)
            if not going_on:
                for part in self._parts:
                    part.unlink(missing_ok=True)
                self._journal.start(self.plan.identity)
        except BaseException:
            if not begun:
                self._journal.remove()
            self._journal.close()
            raise

    def _can_go_on(self) -> bool:
        if not self._journal.load(self.plan.identity):
            return False
        return self.written or all(part.is_file() for part in self._parts)

    @property
    def written(self) -> bool:
        """Whether all data is there, and only the names are missing."""
        return self._journal.complete

    @property
    def claimed(self) -> dict[int, int]:
        """Slabs an earlier run noted as finished, with their CRC; see `holds`."""
        return self._journal.entries

    def space_needed(self) -> int:
        """Bytes the disk has to have for what is not there yet."""
        held = sum(part.stat().st_blocks * 512 for part in self._parts if part.is_file())
        return max(0, self.plan.nbytes - held)

    def prepare(self) -> None:
        """Make the files, at full length and with their headers."""
        for part, planned in zip(self._parts, self.plan.files, strict=True):
            file = os.open(part, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
            self._files.append(file)
            os.ftruncate(file, planned.nbytes)
            _write_at(file, memoryview(planned.header), 0)
        sync_folder(self.path.parent)

    def holds(self, slab: Slab) -> bool:
        """Whether the bytes of a slab are those that the journal claims."""
        file, offset, count = self.plan.place(slab)
        return self.claimed.get(slab.number) == zlib.crc32(
            _read_at(self._files[file], count, offset)
        )

    def write(self, slab: Slab, encoded: Bytes) -> int:
        """Put the encoded bytes of a slab at their place; returns their CRC for `record`."""
        file, offset, _ = self.plan.place(slab)
        _write_at(self._files[file], encoded.data, offset)
        return zlib.crc32(encoded.data)

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        for file in self._files:
            sync_data(file)

    def record(self, entries: Iterable[tuple[int, int]], *, sync: bool = True) -> None:
        """Note slabs as finished; `sync` first, if a power cut shall not undo them."""
        self._journal.append(entries, sync=sync)

    def check(self) -> list[Path]:
        """Sync and check what was written; returns the files whose hashes `finish` will need.

        Raises:
            ConversionError: a header does not read back as it was planned.
        """
        if self.written:
            return []
        self.sync()
        for number, part in enumerate(self._parts):
            self._check(number, part)
        return self._parts

    def finish(self, hashes: Mapping[Path, str]) -> None:
        """Write the manifest and give the files, which were checked, their names."""
        if not self.written:
            self._write_manifest(hashes)
            self._journal.finish()
        for part, name in [*zip(self._parts, self.paths, strict=True), self._manifest]:
            if part.is_file():  # an earlier run may have been stopped between two names
                os.replace(part, name)
        sync_folder(self.path.parent)
        self._journal.remove()

    @property
    def _manifest(self) -> tuple[Path, Path]:
        """The manifest while it is no more than a promise, and its place."""
        place = manifest_path(self.path)
        return place.with_name(place.name + ".part"), place

    def _write_manifest(self, hashes: Mapping[Path, str]) -> None:
        names = [path.name for path in self.paths]
        provenance = {
            key.removeprefix(PREFIX): value.value for key, value in self.plan.provenance.items()
        }
        made_by = quantizers_of(self.plan.made_types)
        provenance["quantizers"] = {kind: made.name for kind, made in made_by.items()}
        data = manifest(dict(zip(names, self._parts, strict=True)), provenance, hashes)
        with self._manifest[0].open("wb") as file:
            file.write(data)
            file.flush()
            sync_data(file.fileno())

    def _check(self, number: int, part: Path) -> None:
        found = [tensor.offset for tensor in read_gguf_header(part).tensors]
        planned = [tensor.offset for tensor in self.plan.tensors if tensor.file == number]
        if found != planned:
            raise ConversionError(f"{part}: the header written is not the one planned")

    def abandon(self, *, keep: bool) -> None:
        """After a failure: leave what the next run can go on with, or nothing."""
        if keep and (self._journal.entries or self.written):
            return
        for part in [*self._parts, self._manifest[0]]:
            part.unlink(missing_ok=True)
        self._journal.remove()

    def close(self) -> None:
        """Close the files and let other processes have them."""
        while self._files:
            os.close(self._files.pop())
        self._journal.close()


def _write_at(file: int, view: memoryview, position: int) -> None:
    view = view.cast("B")
    while view:
        count = pwrite(file, view, position)
        view = view[count:]
        position += count


def _read_at(file: int, count: int, position: int) -> bytes:
    """Up to `count` bytes; fewer if the file ends before."""
    pieces = []
    while count and (data := pread(file, count, position)):
        pieces.append(data)
        count -= len(data)
        position += len(data)
    return b"".join(pieces)
