"""Files and standard input as part of a question: each under its name, between fences.

What is attached stands before the question, so that another question about the same files finds them in the
cache.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from codellama.cli.streams import read_stdin
from codellama.errors import InvalidRequestError

MOST_BYTES = 1 << 20  # four times what the largest context holds
PATIENCE_S = 2.0

_LANGUAGES = {
    "py": "python", "js": "javascript", "ts": "typescript", "rs": "rust", "sh": "bash", "rb": "ruby",
    "h": "c", "hpp": "cpp", "cc": "cpp", "cs": "csharp", "md": "markdown", "yml": "yaml", "kt": "kotlin",
}  # fmt: skip


@dataclass(frozen=True)
class Attachment:
    """A text with the name that the model is told."""

    name: str
    text: str

    def fenced(self) -> str:
        """The text under its name, in a fence that nothing in it closes."""
        runs = [len(run) for run in re.findall(r"^[ \t]*(`{3,})", self.text, re.MULTILINE)]
        fence = "`" * max([3, *(n + 1 for n in runs)])
        end = "" if self.text.endswith("\n") or not self.text else "\n"
        return f"{self.name}:\n{fence}{language_of(self.name)}\n{self.text}{end}{fence}\n"

    @property
    def n_lines(self) -> int:
        """How many lines it has."""
        return len(self.text.splitlines())


def language_of(name: str) -> str:
    """What Markdown calls the language of a file with this name; empty if it has no ending."""
    ending = Path(name).suffix.removeprefix(".").lower()
    return _LANGUAGES.get(ending, ending)


def read_file(path: Path) -> Attachment:
    """A file as an attachment. Raises InvalidRequestError if it is no text, or much too large."""
    try:
        size = path.stat().st_size
        data = b"" if size > MOST_BYTES or path.is_dir() else path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(
            "{path} cannot be read: {reason}", path=path, reason=error.strerror
        ) from error
    if path.is_dir():
        raise InvalidRequestError("{path} is a folder: name the files in it", path=path)
    if size > MOST_BYTES:
        raise InvalidRequestError(
            "{path} has {n} bytes, far more than a context holds: attach a part of it",
            path=path,
            n=size,
        )
    try:
        return Attachment(str(path), data.decode("utf-8-sig").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        raise InvalidRequestError("{path} is not UTF-8 text", path=path) from error


def with_question(attachments: Sequence[Attachment], question: str) -> str:
    """One message of what is attached and the question, which may be empty."""
    parts = [attachment.fenced() for attachment in attachments]
    return "\n".join([*parts, question] if question else parts)


def stdin_beside_a_question() -> list[Attachment]:
    """Standard input, unless it is a terminal or empty. If nothing comes for a while, stderr says why
    nothing happens."""
    if sys.stdin is None or sys.stdin.isatty():
        return []
    hint = threading.Timer(
        PATIENCE_S,
        click.echo,
        ["reading standard input too; `< /dev/null` if it has nothing to say"],
        {"err": True},
    )
    hint.daemon = True
    hint.start()
    try:
        text = read_stdin()
    finally:
        hint.cancel()
    return [Attachment("Standard input", text)] if text.strip() else []
