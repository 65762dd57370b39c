"""A place in a file, FILE:LINE or FILE:LINE:COLUMN, and what a model writes there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.changes import show_and_write
from codellama.cli.loading import open_model
from codellama.edits.files import EditedFile, lines_of
from codellama.errors import InvalidRequestError, UnsupportedError

if TYPE_CHECKING:
    from codellama.params import SamplingOptions
    from codellama.running.completion import Completion
    from codellama.running.language_model import LanguageModel


@dataclass(frozen=True)
class Cursor:
    """A place in `file`: what is `before` it and what is `behind`; `between_lines`, or in one."""

    file: EditedFile
    before: str
    behind: str
    between_lines: bool

    @classmethod
    def at(cls, place: str) -> Cursor:
        """Behind line LINE, or in it before column COLUMN (both count from 1).

        Raises UsageError if that is no place, InvalidRequestError if the file has no such line.
        """
        name, numbers = _split(place)
        file = EditedFile.read(name)
        lines = lines_of(file.text)
        row, column = numbers[0], numbers[1] if len(numbers) > 1 else None
        if not (0 if column is None else 1) <= row <= len(lines):
            raise InvalidRequestError(
                "{name} has lines 1 to {n}; got {row}", name=name, n=len(lines), row=row
            )
        if column is None:
            return cls(file, "".join(lines[:row]), "".join(lines[row:]), True)
        line = lines[row - 1].removesuffix("\n")
        if not 1 <= column <= len(line) + 1:
            raise InvalidRequestError(
                "line {row} has columns 1 to {n}; got {column}",
                row=row,
                n=len(line) + 1,
                column=column,
            )
        head, tail = line[: column - 1], line[column - 1 :]
        behind = f"{tail}\n" + "".join(lines[row:])
        return cls(file, "".join(lines[: row - 1]) + head, behind, False)

    def with_text(self, text: str) -> str:
        """The file's text with `text` at the cursor; between lines, it is whole lines too."""
        if text and self.between_lines and not text.endswith("\n"):
            text += "\n"
        return self.before + text + self.behind


def _split(place: str) -> tuple[str, list[int]]:
    parts = place.rsplit(":", 2)
    numbers: list[int] = []
    while len(parts) > 1 and parts[-1].isdecimal():
        numbers.insert(0, int(parts.pop()))
    if not numbers:
        raise click.UsageError(f"{place!r} is not FILE:LINE or FILE:LINE:COLUMN")
    return ":".join(parts), numbers


yes_option = click.option(
    "-y", "--yes", is_flag=True, show_envvar=True, help="Write into a file without asking."
)
"""The --yes of the commands that write at a cursor."""


def write_at(
    place: str, model: str, options: Mapping[str, Any], sampling: SamplingOptions, *, yes: bool
) -> None:
    """Let the model of a command write at a place of a file; show the diff, and ask before it is written."""
    cursor = Cursor.at(place)
    with open_model(model, options) as llm:
        text = complete_at(cursor, llm, sampling).text()
    show_and_write([(cursor.file, cursor.with_text(text))], yes=yes)


def complete_at(cursor: Cursor, llm: LanguageModel, sampling: SamplingOptions) -> Completion:
    """What the model writes at the cursor: infill where it was trained for that, else what goes on from the
    text before it, up to an empty line."""
    try:
        return llm.infill(cursor.before, cursor.behind, **sampling)
    except UnsupportedError:
        if not sampling.get("stop"):
            sampling = {**sampling, "stop": ("\n\n",)}
        return llm.complete(cursor.before, **sampling)
