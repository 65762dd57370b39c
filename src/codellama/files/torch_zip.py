"""The directory of a torch archive, read strictly: where each record lies; nothing is unpacked.

`torch.save` writes a zip file without compression: a pickle, and the bytes of every storage as a record
of its own. A record is believed only if the file has it whole, where the directory says. Formats:
APPNOTE.TXT of PKWARE, and `caffe2/serialize/inline_container.h` of pytorch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import CheckpointError
from codellama.files.identify import recognised
from codellama.files.small_files import MOST_BYTES, shown

_MOST_RECORDS = 2**16
_MOST_NAME = 512
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""What `torch.save` began its files with before version 1.6: a magic number, pickled."""

_END, _END64, _LOCATOR = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_ENTRY, _LOCAL = b"PK\1\2", b"PK\3\4"
_FULL32 = 2**32 - 1


ReadAt = Callable[[int, int], bytes]
"""Reads bytes: where from, how many; it may return fewer."""


@dataclass(frozen=True)
class Record:
    """A record: `nbytes` from `offset` of the file on."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class _Entry:
    """A record as the directory has it: `header` is where its own header begins."""

    name: bytes
    header: int
    nbytes: int


class TorchZip:
    """The archive `path` of `size` bytes, which `read` reads, wherever it is.

    Raises CheckpointError if it is no such archive, of the old format, compressed, damaged or truncated.
    """

    def __init__(self, path: Path, size: int, read: ReadAt) -> None:
        self.path = path
        self.size = size
        self._read = read
        self._check_beginning()
        self._begin, length, count = self._directory()
        self._entries = self._parse(self._at(self._begin, length), count)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def locate(self, name: str) -> Record:
        """Where the bytes of a record lie; names go without the folder that all records are in.

        Raises:
            CheckpointError: the file does not have it whole.
        """
        entry = self._entries[name]
        local = self._at(entry.header, 30 + len(entry.name))
        n_name, n_extra = struct.unpack("<HH", local[26:30])
        if not local.startswith(_LOCAL) or n_name != len(entry.name) or local[30:] != entry.name:
            raise self.fault(f"damaged torch archive: the record {name} is not where it should be")
        record = Record(entry.header + 30 + n_name + n_extra, entry.nbytes)
        if record.offset + record.nbytes > self._begin:
            raise self.fault(f"truncated torch archive: the record {name}", "download it again")
        return record

    def small(self, name: str, most: int = MOST_BYTES) -> bytes:
        """The bytes of a small record; empty if there is none.

        Raises:
            CheckpointError: it is larger than `most` bytes, or not there whole.
        """
        if name not in self._entries:
            return b""
        record = self.locate(name)
        if record.nbytes > most:
            raise self.fault(
                f"the record {name} has {record.nbytes} bytes: no weights have so many"
            )
        return self._at(record.offset, record.nbytes)

    def fault(self, message: str, remedy: str = "") -> CheckpointError:
        """An error that names the file."""
        return CheckpointError(f"{self.path}: {message}", remedy)

    def _at(self, offset: int, count: int) -> bytes:
        if not 0 <= offset <= self.size - count:
            raise self.fault("truncated or damaged torch archive", "download it again")
        data = self._read(offset, count)
        if len(data) != count:
            raise self.fault("the file changed while it was read")
        return data

    def _parse(self, data: bytes, count: int) -> dict[str, _Entry]:
        found: dict[str, _Entry] = {}
        folders = set()
        position = 0
        for _ in range(count):
            entry, position = self._entry(data, position)
            folder, slash, name = entry.name.decode().partition("/")
            if not slash or name in found:
                raise self.fault(f"damaged torch archive: the record {shown(name)}")
            folders.add(folder)
            found[name] = entry
        if len(folders) > 1 or position != len(data):
            raise self.fault("damaged torch archive: its directory")
        return found

    def _check_beginning(self) -> None:
        start = self._at(0, min(self.size, len(_LEGACY)))
        if start.startswith(_LEGACY):
            raise self.fault(
                "the format of torch before 1.6, which is one pickle with the weights inside",
                "write it anew with torch: torch.save(torch.load(file, weights_only=True), file)",
            )
        if not start.startswith(_LOCAL):
            raise recognised(self.path, CheckpointError) or self.fault(
                "not a torch archive (it does not begin as a zip file)"
            )

    def _directory(self) -> tuple[int, int, int]:
        """Where the directory begins, its bytes and its entries."""
        end = self._at(self.size - 22, 22)
        if not end.startswith(_END):
            raise self.fault("truncated torch archive: its end is missing", "download it again")
        disks, first, here, count, size, begin, comment = struct.unpack("<HHHHIIH", end[4:])
        limit = self.size - 22
        locator = self._at(self.size - 42, 20) if self.size >= 42 else b""
        if locator.startswith(_LOCATOR):
            _, limit, _ = struct.unpack("<IQI", locator[4:])
            end64 = self._at(limit, 56)
            if not end64.startswith(_END64):
                raise self.fault("damaged torch archive: its end")
            disks, first, here, count, size, begin = struct.unpack("<IIQQQQ", end64[16:])
        if disks or first or here != count or comment or begin + size > limit:
            raise self.fault("damaged torch archive: its end")
        if size > MOST_BYTES or not 0 < count <= _MOST_RECORDS:
            raise self.fault(f"damaged torch archive: a directory of {count} records, {size} bytes")
        return begin, size, count

    def _entry(self, data: bytes, start: int) -> tuple[_Entry, int]:
        """A record, and where the next entry begins."""
        fixed = data[start : start + 46]
        if len(fixed) < 46 or not fixed.startswith(_ENTRY):
            raise self.fault("damaged torch archive: its directory")
        flags, method = struct.unpack("<HH", fixed[8:12])
        packed, nbytes, n_name, n_extra, n_comment = struct.unpack("<IIHHH", fixed[20:34])
        header: int = struct.unpack("<I", fixed[42:46])[0]
        name_end = start + 46 + n_name
        raw, extra = data[start + 46 : name_end], data[name_end : name_end + n_extra]
        name = self._name(raw)
        nbytes, packed, header = self._wide(name, extra, nbytes, packed, header)
        if method or flags & 1 or packed != nbytes:
            raise self.fault(
                f"the record {name} is compressed or encrypted, which torch's never are"
            )
        return _Entry(raw, header, nbytes), name_end + len(extra) + n_comment

    def _name(self, raw: bytes) -> str:
        name = raw.decode("utf-8", "replace")
        if not 0 < len(raw) <= _MOST_NAME or not name.isprintable() or "\ufffd" in name:
            raise self.fault(f"damaged torch archive: {shown(name)} is no name of a record")
        return name

    def _wide(
        self, name: str, extra: bytes, nbytes: int, packed: int, header: int
    ) -> tuple[int, int, int]:
        """The numbers that do not fit 32 bits, from the field that has them instead."""
        numbers = [nbytes, packed, header]
        wide = [i for i, number in enumerate(numbers) if number == _FULL32]
        if wide:
            kind, count = struct.unpack("<HH", extra[:4]) if len(extra) >= 4 else (0, 0)
            if kind != 1 or count < 8 * len(wide) or len(extra) < 4 + count:
                raise self.fault(f"damaged torch archive: the size of the record {name}")
            values = struct.unpack(f"<{len(wide)}Q", extra[4 : 4 + 8 * len(wide)])
            for place, value in zip(wide, values, strict=True):
                numbers[place] = value
        return numbers[0], numbers[1], numbers[2]
