"""The largest files that are read at all, of the shapes that cost most memory in Python."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random

from codellama.errors import CheckpointError, ModelLoadError
from codellama.files.gguf_header import read_gguf_header
from codellama.files.sentencepiece_model import read_pieces
from codellama.files.small_files import MOST_BYTES, read_json
from tests.checkpoints import NORMAL, UNKNOWN, sentencepiece_model
from tests.fuzzing.kinds import Kind

_VALUES = 2**19 - 16
_ITEMS = 2**20
_WIDE = "😀"  # makes a text of bytes one of four bytes each


class Largest(Kind):
    """One of them, by chance; the good file is a small one.

    Another process writes them, so that what this one takes is what reading takes.
    """

    errors = (CheckpointError, ModelLoadError)
    seconds = 60.0

    def make(self) -> Path:
        subprocess.run([sys.executable, "-m", __name__, self.folder], check=True)
        path = self.folder / "small json"
        path.write_bytes(b"{}")
        return path

    def mutate(self, rng: Random) -> bytes:
        raise NotImplementedError("there is nothing to change in them")

    def write(self, rng: Random) -> None:
        self.path = self.folder / rng.choice(list(_FILES))

    def read(self) -> None:
        if "json" in self.path.name:
            read_json(self.path)
        elif "pieces" in self.path.name:
            read_pieces(self.path, 2**18)
        else:
            read_gguf_header(self.path)


def _array(text: str, count: int) -> bytes:
    return b'{"a":[' + f"{text},".encode() * count + b"0]}"


def _names() -> bytes:
    return b"{" + b",".join(b'"%d":0' % number for number in range(_VALUES // 2)) + b"}"


def _text() -> bytes:
    return b'{"a":"' + _WIDE.encode() + b"a" * (MOST_BYTES - 32) + b'"}'


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _gguf(*values: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)) + b"".join(values)


def _items(kind: int, items: Iterable[bytes]) -> bytes:
    return _gguf(_string("a") + struct.pack("<IIQ", 9, kind, _ITEMS) + b"".join(items))


def _pieces() -> bytes:
    pieces = [("<unk>", 0.0, UNKNOWN)]
    return sentencepiece_model([*pieces, *((f"é{n}", n + 0.5, NORMAL) for n in range(2**18 - 1))])


_FILES: Mapping[str, Callable[[], bytes]] = {
    "json objects": lambda: _array('{"":0}', _VALUES // 3),
    "json lists": lambda: _array("[0]", _VALUES // 2),
    "json numbers": lambda: _array("1234567", _VALUES),
    "json names": _names,
    "json text": _text,
    "json too many": lambda: _array("0", 2**19),
    "numbers": lambda: _items(10, (struct.pack("<Q", 2**63 + n) for n in range(_ITEMS))),
    "strings": lambda: _items(8, (_string(f"é{n:014}") for n in range(_ITEMS))),
    "text": lambda: _gguf(_string("a") + struct.pack("<I", 8) + _string(_WIDE + "a" * 2**24)),
    "pieces": _pieces,
}


if __name__ == "__main__":
    for name, make in _FILES.items():
        Path(sys.argv[1], name).write_bytes(make())
