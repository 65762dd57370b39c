"""The journal of a run: which slabs are finished, so that the same command goes on where it was.

A text file beside the output. Its first line is a JSON object, the identity of the plan it belongs to;
each further line is the number of a finished slab and the CRC-32 of its encoded bytes. A slab that is
noted here is checked against its CRC before it is believed, so neither a torn line nor data that a
power cut took away can end up in the result. The file is locked while a run is on.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from codellama.errors import ConversionError
from codellama.system import BINARY, lock, pread, sync_data, sync_folder

_FORMAT = "codellama journal"
_VERSION = "1"
_LINE = re.compile(rb"(\d{1,12}) ([0-9a-f]{8})")
_DONE = b"complete"
_MOST_BYTES = 2**30


class Journal:
    """The journal at `path`: `entries` is slab number to CRC, `complete` says all data is there.

    Call `lock` first, then `load`, and `start` if there was nothing to continue.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[int, int] = {}
        self.complete = False
        self._file = -1

    def lock(self) -> None:
        """Open the file, made if need be, for this process alone.

        Raises:
            ConversionError: another process holds it.
        """
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY, 0o666)
        try:
            if not lock(file):
                raise BlockingIOError(self.path)
            if os.fstat(file).st_ino != os.stat(self.path).st_ino:
                raise FileNotFoundError(self.path)
        except OSError as error:
            os.close(file)
            raise ConversionError(f"{self.path}: another process is writing this output") from error
        self._file = file

    def load(self, identity: Mapping[str, str]) -> bool:
        """Read what an earlier run of the same plan has finished; False if there was none.

        Raises:
            ConversionError: the journal is that of another plan; the message names the difference.
        """
        size = os.fstat(self._file).st_size
        data = pread(self._file, min(size, _MOST_BYTES), 0)
        head, newline, body = data.partition(b"\n")
        if not newline:
            return False  # the run was cut off before it began
        self._check(head, identity)
        kept = len(head) + 1
        for line in body.splitlines(keepends=True):
            if not self._take(line):
                break
            kept += len(line)
        os.ftruncate(self._file, kept)
        return True

    def _take(self, line: bytes) -> bool:
        found = _LINE.fullmatch(line.rstrip(b"\n"))
        if not line.endswith(b"\n") or not (found or line.startswith(_DONE)):
            return False
        if found:
            self.entries[int(found[1])] = int(found[2], 16)
        else:
            self.complete = True
        return True

    def _check(self, head: bytes, identity: Mapping[str, str]) -> None:
        try:
            theirs = json.loads(head)
            version = theirs.pop(_FORMAT)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ConversionError(
                f"{self.path}: not a journal of this program; move it out of the way"
            ) from error
        if version != _VERSION:
            raise self._refusal("journal version", version, _VERSION)
        for name in {**theirs, **identity}:
            if theirs.get(name) != identity.get(name):
                raise self._refusal(name, theirs.get(name), identity.get(name))

    def _refusal(self, name: str, theirs: object, ours: object) -> ConversionError:
        return ConversionError(
            f"{self.path}: an unfinished run of this output had another {name} ({theirs}, now {ours})",
            "repeat that command to finish it, or pass {restart} to begin anew",
        )

    def start(self, identity: Mapping[str, str]) -> None:
        """Begin an empty journal for a plan with this identity."""
        self.entries, self.complete = {}, False
        os.ftruncate(self._file, 0)
        os.write(self._file, json.dumps({_FORMAT: _VERSION, **identity}).encode() + b"\n")
        os.fsync(self._file)
        sync_folder(self.path.parent)

    def append(self, entries: Iterable[tuple[int, int]], *, sync: bool = True) -> None:
        """Note finished slabs; their data must be on the disk already where `sync` is wanted."""
        noted = dict(entries)
        if not noted:
            return
        self.entries.update(noted)
        self._write("".join(f"{slab} {crc:08x}\n" for slab, crc in noted.items()).encode())
        if sync:
            sync_data(self._file)

    def finish(self) -> None:
        """Note that every byte of the output is on the disk."""
        self._write(_DONE + b"\n")
        sync_data(self._file)
        self.complete = True

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the lock back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
