"""A file that was cut into pieces by bytes, as `split` does it, read as if it were whole.

The hub took no file of more than 50 GB, so large GGUFs were cut: `x.gguf-split-a`, `x.gguf-split-b` by
TheBloke, `x.gguf.part1of2`, `x.gguf.part2of2` by mradermacher. The pieces joined by `cat` are the file. This
is another thing than gguf-split's parts, each of which has a header (`files.split`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import ModelLoadError

_LETTERS = re.compile(r"(.+\.gguf)-split-([a-z])", re.IGNORECASE)
_NUMBERS = re.compile(r"(.+\.gguf)\.part(\d{1,3})of(\d{1,3})", re.IGNORECASE)


@dataclass(frozen=True)
class Piece:
    """A piece on the disk: its bytes are those of the whole file from `begin` to `end`."""

    path: Path
    begin: int
    end: int


def piece_place(name: str) -> tuple[str, int] | None:
    """The name of the file that a piece of this name belongs to, and the piece's place; None for others."""
    if letters := _LETTERS.fullmatch(name):
        return letters[1], ord(letters[2].lower()) - ord("a")
    if numbers := _NUMBERS.fullmatch(name):
        return numbers[1], int(numbers[2]) - 1
    return None


def is_piece(path: Path) -> bool:
    """Whether the name is that of a piece of a file."""
    return piece_place(path.name) is not None


def whole_name(path: Path) -> str:
    """The name of the file that pieces make, or of a whole file."""
    found = piece_place(path.name)
    return found[0] if found else path.name


def pieces_of(path: Path) -> list[Piece]:
    """The pieces of the file whose first piece is `path`, in order; of a whole file that one.

    Raises:
        ModelLoadError: `path` is a later piece, or a piece is missing or cannot be read.
    """
    pieces, end = [], 0
    for piece in _paths(path):
        try:
            begin, end = end, end + piece.stat().st_size
        except OSError as error:
            raise ModelLoadError(f"{piece}: cannot be read: {error.strerror}") from error
        pieces.append(Piece(piece, begin, end))
    return pieces


def to_be_joined(path: Path) -> ModelLoadError:
    """The error for a file in pieces where it has to be whole."""
    paths = _paths(path)
    names = " ".join(piece.name for piece in paths)
    command = f"cat {names} > {whole_name(path)}".replace("{", "{{").replace("}", "}}")
    return ModelLoadError(
        f"{path}: is the first of {len(paths)} pieces of a file", f"join them: `{command}`"
    )


def _paths(path: Path) -> list[Path]:
    letters, numbers = _LETTERS.fullmatch(path.name), _NUMBERS.fullmatch(path.name)
    if letters:
        return _lettered(path, letters[1], letters[2])
    if numbers:
        return _numbered(path, numbers[1], int(numbers[2]), int(numbers[3]))
    return [path]


def _lettered(path: Path, whole: str, letter: str) -> list[Path]:
    """Nothing says how many there are: those without a gap."""
    separator = path.name[len(whole) : -1]
    first = path.with_name(f"{whole}{separator}{'a' if letter.islower() else 'A'}")
    if letter.lower() != "a":
        raise _later(path, first)
    paths = []
    for offset in range(26):
        piece = path.with_name(f"{whole}{separator}{chr(ord(letter) + offset)}")
        if not piece.is_file():
            break
        paths.append(piece)
    if len(paths) < 2:
        following = chr(ord(letter) + 1)
        raise ModelLoadError(
            f"{path}: is the first piece of a file, and {whole}{separator}{following} is not beside it",
            "download the other pieces too",
        )
    return paths


def _numbered(path: Path, whole: str, number: int, count: int) -> list[Path]:
    name = path.name[len(whole) :]
    spelled = re.sub(r"\d+", "{}", name, count=1)
    if not 1 <= number <= count:
        raise ModelLoadError(
            f"{path}: its name makes no sense: there is no piece {number} of {count}"
        )
    if number > 1:
        raise _later(path, path.with_name(whole + spelled.format(1)))
    paths = [path.with_name(whole + spelled.format(i)) for i in range(1, count + 1)]
    missing = next((piece for piece in paths if not piece.is_file()), None)
    if missing is not None:
        raise ModelLoadError(
            f"{path}: is the first of {count} pieces of a file, and {missing.name} is not beside it",
            "download the other pieces too",
        )
    return paths


def _later(path: Path, first: Path) -> ModelLoadError:
    return ModelLoadError(f"{path}: is a later piece of a file that was cut, name {first}")


class JoinedFile:
    """Reads a file, or pieces as one file, from front to back."""

    def __init__(self, path: Path) -> None:
        """Raises ModelLoadError as `pieces_of`."""
        self._pieces = pieces_of(path)
        self._number = 0
        self._file = self._pieces[0].path.open("rb")
        self.size = self._pieces[-1].end
        if len(self._pieces) == 1:
            self.size = os.fstat(self._file.fileno()).st_size

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer only at the end."""
        data = self._file.read(count)
        while len(data) < count and self._number + 1 < len(self._pieces):
            self._number += 1
            self._file.close()
            self._file = self._pieces[self._number].path.open("rb")
            data += self._file.read(count - len(data))
        return data

    def __enter__(self) -> JoinedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
