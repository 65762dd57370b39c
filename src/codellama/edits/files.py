"""Files to be edited: read as text with line ends of one kind, written back as they were, with a backup.

Nothing is written but the files that were read here, and only if nobody else has changed them meanwhile.
"""

from __future__ import annotations

import difflib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import InvalidRequestError


@dataclass(frozen=True)
class EditedFile:
    """The file `name`; `path` is where it really is, `data` its bytes, `text` what is edited.

    Every line of `text` ends with one \\n, also the last.
    """

    name: str
    path: Path
    data: bytes
    text: str

    @classmethod
    def read(cls, name: str) -> EditedFile:
        """Read a file. Raises InvalidRequestError if it is no UTF-8 text, OSError."""
        path = Path(name).resolve()
        if not path.is_file():
            raise InvalidRequestError("{name}: no such file", name=name)
        data = path.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequestError("{name} is not UTF-8 text", name=name) from error
        lines = [line.rstrip("\r\n") + "\n" for line in lines_of(text)]
        return cls(name, path, data, "".join(lines))

    def with_text(self, text: str) -> bytes:
        """The bytes with another text: lines that stay keep their ends, new ones get the file's usual."""
        before = lines_of(self.data.decode("utf-8"))
        usual = "\r\n" if 2 * sum(line.endswith("\r\n") for line in before) > len(before) else "\n"
        old, after = lines_of(self.text), lines_of(text)
        made: list[str] = []
        for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(
            None, old, after, autojunk=False
        ).get_opcodes():
            if tag == "equal":
                made += before[i1:i2]
            else:
                made += [line.rstrip("\r\n") + usual for line in after[j1:j2]]
        if made and before and not before[-1].endswith("\n"):
            made[-1] = made[-1].rstrip("\r\n")
        made[:-1] = [line if line.endswith("\n") else line + usual for line in made[:-1]]
        return "".join(made).encode()

    def diff(self, text: str) -> str:
        """A unified diff of the text and another one; empty if they are the same."""
        lines = difflib.unified_diff(lines_of(self.text), lines_of(text), self.name, self.name)
        return "".join(lines)

    def write(self, text: str) -> Path:
        """Put `text` in its place; where the backup is.

        Raises InvalidRequestError if the file has changed since it was read, OSError.
        """
        if self.path.read_bytes() != self.data:
            raise InvalidRequestError(
                "{name} has changed meanwhile: nothing is written", name=self.name
            )
        backup = _free(self.path)
        part = self.path.with_name(f".{self.path.name}.part")
        try:
            with part.open("wb") as file:
                file.write(self.with_text(text))
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(self.path, part)
            shutil.copy2(self.path, backup)
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)
        return backup


def lines_of(text: str) -> list[str]:
    """Lines with their ends. Only \\n ends one: what `splitlines` knows besides may stand in a string."""
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _free(path: Path) -> Path:
    """The first name for a backup beside `path` that no file has."""
    number, backup = 1, path.with_name(f"{path.name}.bak")
    while backup.exists():
        number += 1
        backup = path.with_name(f"{path.name}.bak{number}")
    return backup
