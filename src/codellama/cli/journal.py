"""What is being said right now, on disk before it is on the screen: a killed process loses nothing of it.

A journal lies beside a saved conversation. Its first line is the question, with what it was asked after;
each further line is a piece of the answer. It is emptied once the conversation is saved. Which conversation
it goes on from is noted as a digest: a journal of an earlier state than the saved one is of no use. The file
is locked while it is open, so that one process at a time goes on with a conversation.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codellama.errors import InvalidRequestError
from codellama.params import Message
from codellama.session import read_document
from codellama.system import BINARY, lock


class AnswerJournal:
    """The journal at `path`, opened and locked.

    Raises InvalidRequestError if another process has it, OSError if it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY, 0o600)
            if not lock(self._file):
                os.close(self._file)
                raise InvalidRequestError(
                    "the conversation {name} is open in another terminal",
                    None,
                    "close it there, or give another --session",
                    name=path.name.removesuffix(".json.now"),
                )
            if path.exists() and os.path.samestat(os.fstat(self._file), path.stat()):
                return
            os.close(self._file)  # whoever had it has just left and taken the file along

    def begin(self, saved: Sequence[Message], asked: Sequence[Message]) -> None:
        """A question begins: the last of the messages `asked`. `saved` is what is on disk."""
        self.clear()
        self._write(
            {"saved": digest(saved), "kept": len(asked) - 1, "question": asked[-1]["content"]}
        )

    def say(self, text: str) -> None:
        """Note a piece of the answer, before it is shown."""
        self._write({"text": text})

    def clear(self) -> None:
        """Forget what was noted: it is saved elsewhere."""
        os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Give the lock back; an empty journal goes."""
        empty = os.fstat(self._file).st_size == 0
        if empty:
            with contextlib.suppress(PermissionError):  # Windows keeps a file that is open
                self.path.unlink(missing_ok=True)
                empty = False
        os.close(self._file)
        if empty:
            with contextlib.suppress(PermissionError):
                self.path.unlink(missing_ok=True)

    def _write(self, entry: dict[str, Any]) -> None:
        data = json.dumps(entry).encode() + b"\n"
        while data:
            data = data[os.write(self._file, data) :]


def digest(messages: Sequence[Message]) -> str:
    """A short name for just these messages."""
    return hashlib.sha256(json.dumps(list(messages), sort_keys=True).encode()).hexdigest()[:16]


def read_saved(path: Path) -> list[Message]:
    """The conversation saved at `path`, with what its journal adds; empty if there is neither.

    Raises InvalidRequestError if the file is no conversation.
    """
    saved = read_document(path) if path.exists() else []
    return with_journal(saved, journal_path(path))


def journal_path(path: Path) -> Path:
    """The journal of the conversation at `path`."""
    return path.with_name(path.name + ".now")


def with_journal(saved: list[Message], path: Path) -> list[Message]:
    """`saved` and what the journal at `path` adds to it, as far as it was written."""
    entries = _entries(path)
    if not entries or entries[0].get("saved") != digest(saved):
        return saved
    head, pieces = entries[0], [str(entry.get("text", "")) for entry in entries[1:]]
    kept, question = head.get("kept"), head.get("question")
    if not isinstance(kept, int) or not isinstance(question, str):
        return saved
    said = "".join(pieces)
    messages = [*saved[:kept], Message(role="user", content=question)]
    return [*messages, Message(role="assistant", content=said)] if said else messages


def _entries(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal up to one that was not written to its end."""
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
        return [dict(json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError):
        return []
