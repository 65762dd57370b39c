"""Conversations on disk: the folder that holds them, and the keeper that writes one of them down.

A conversation is a JSON file, saved after every answer; beside it are the model's KV state, so that going
on with it needs no prefill, and the journal of what is being said. A conversation without a name gets that
of the time. What is shown is on disk first.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.cli.folders import state_folder
from codellama.cli.journal import AnswerJournal, journal_path, read_saved
from codellama.errors import InvalidRequestError
from codellama.session import Answer, Session, kv_path, write_document

if TYPE_CHECKING:
    from codellama.params import Message
    from codellama.running.language_model import LanguageModel

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_UNNAMED = re.compile(r"\d{4}-\d\d-\d\d-\d{6}(-\d+)?")


@dataclass(frozen=True)
class Kept:
    """A conversation on disk. `changed` is in seconds since 1970, `kv_bytes` the size of its KV state."""

    name: str
    path: Path
    changed: float
    kv_bytes: int

    def messages(self) -> list[Message]:
        """All that was said. Raises InvalidRequestError if the file is no conversation."""
        return read_saved(self.path)

    def model(self) -> str:
        """The name of the model that it was held with; empty if that is not known."""
        try:
            return str(json.loads(self.path.read_text("utf-8"))["model"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


class SessionFolder:
    """The conversations in `folder`, which need not exist."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_folder() / "sessions"

    def all(self) -> list[Kept]:
        """The conversations, the latest last."""
        stems = {
            path.name.removesuffix(".now").removesuffix(".json")
            for pattern in ("*.json", "*.json.now")
            for path in self.folder.glob(pattern)
            if path.stat().st_size
        }
        return sorted((self._kept(name) for name in stems), key=lambda kept: kept.changed)

    def path(self, name: str) -> Path:
        """The file of a conversation, which need not exist. Raises InvalidRequestError for a bad name."""
        if not _NAME.fullmatch(name):
            raise InvalidRequestError(
                "{param}: {name!r} is no name of a conversation: letters, digits, - _ and . make one",
                "session",
                name=name,
            )
        return self.folder / f"{name}.json"

    def find(self, name: str) -> Kept:
        """The conversation of this name. Raises InvalidRequestError if there is none."""
        path = self.path(name)
        if not path.exists() and not journal_path(path).exists():
            raise InvalidRequestError(
                "there is no conversation {name!r} in {folder}", name=name, folder=self.folder
            )
        return self._kept(name)

    def latest(self) -> Kept:
        """The conversation that was written last. Raises InvalidRequestError if there is none."""
        kept = self.all()
        if not kept:
            raise InvalidRequestError("no conversation is kept in {folder}", folder=self.folder)
        return kept[-1]

    def new_name(self) -> str:
        """A name for a conversation that has none: the time."""
        name = base = time.strftime("%Y-%m-%d-%H%M%S")
        number = 1
        while any(p.exists() for p in (self.path(name), journal_path(self.path(name)))):
            number += 1
            name = f"{base}-{number}"
        return name

    def delete(self, name: str, *, state_only: bool = False) -> None:
        """Delete a conversation, or only its KV state.

        Raises InvalidRequestError if it is open elsewhere or unknown.
        """
        kept = self.find(name)
        journal = AnswerJournal(journal_path(kept.path))
        try:
            kv_path(kept.path).unlink(missing_ok=True)
            if not state_only:
                journal.clear()
                kept.path.unlink(missing_ok=True)
        finally:
            journal.close()

    def drop_old_states(self, but: str) -> None:
        """Delete the KV states of conversations without a name, but for one: they are large."""
        for kept in self.all():
            if kept.name != but and kept.kv_bytes and _UNNAMED.fullmatch(kept.name):
                kv_path(kept.path).unlink(missing_ok=True)

    def _kept(self, name: str) -> Kept:
        path = self.path(name)
        files = [p.stat() for p in (path, journal_path(path)) if p.exists()]
        state = kv_path(path)
        return Kept(
            name,
            path,
            max((file.st_mtime for file in files), default=0.0),
            state.stat().st_size if state.exists() else 0,
        )


class Keeper:
    """Writes the conversation `name` of `folder` down while it goes on. Close it."""

    def __init__(self, folder: SessionFolder, name: str) -> None:
        """Raises InvalidRequestError if the name is bad or another process has it open, OSError."""
        self._folder = folder
        self._writer = ThreadPoolExecutor(1, "write-state")
        self._writing: Future[bool] | None = None
        self._behind = False  # whether the KV state on disk lacks the latest answer
        self._open(name)

    def _open(self, name: str) -> None:
        path = self._folder.path(name)
        self._folder.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._journal = AnswerJournal(journal_path(path))
        self.name, self.path = name, path
        self._saved: list[Message] = read_saved(path)

    def open_session(self, llm: LanguageModel, system: str | None) -> Session:
        """The conversation as it was left, or a new one that begins with `system`."""
        if not self._saved:
            return Session(llm, system)
        write_document(self.path, {"model": llm.name, "messages": self._saved})
        self._journal.clear()
        return Session.load(self.path, llm)

    def begin(self, answer: Answer) -> None:
        """A question was asked. A full disk shows when the answer is saved."""
        with contextlib.suppress(OSError):
            self._journal.begin(self._saved, answer.asked)

    def say(self, text: str) -> None:
        """A piece of the answer is about to be shown."""
        with contextlib.suppress(OSError):
            self._journal.say(text)

    def save(self, session: Session) -> None:
        """Save what was said; the KV state follows meanwhile. Raises OSError if that cannot be written."""
        document = session.document()
        write_document(self.path, document)
        self._saved = document["messages"]
        self._journal.clear()
        self._behind = self._writing is not None and not self._writing.done()
        if not self._behind:
            self._writing = self._writer.submit(session.save_state, kv_path(self.path))

    def begin_anew(self) -> str | None:
        """Leave what was said so far as it is and go on in a new file; the name that it has now, if any.

        A conversation with a name keeps it for what comes; the old one is found under the time.
        """
        if not self._saved:
            return None
        self._wait()
        name, old = self.name, self._folder.new_name()
        self._journal.close()
        if _UNNAMED.fullmatch(name):
            self._open(old)
            return name
        for move in (lambda path: path, kv_path):
            if move(self.path).exists():
                os.replace(move(self.path), move(self._folder.path(old)))
        self._open(name)
        return old

    def close(self, session: Session | None = None) -> None:
        """Wait for the KV state of `session` to be on disk and give the lock back. Raises OSError."""
        try:
            self._wait()
            if session is not None and self._behind:
                session.save_state(kv_path(self.path))
            self._folder.drop_old_states(self.name)
        finally:
            self._writer.shutdown()
            self._journal.close()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
