"""A conversation: the messages so far, and the next answer.

A `Session` keeps the turns of one chat with one `LLM`. An answer becomes part of the conversation when
it has ended, also if it was cancelled half-way: what was said stays said. A question that got no answer
at all, or whose answer failed, is not kept. A session is used by one thread at a time.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.errors import CodeLlamaError, InvalidRequestError
from codellama.params import Message

if TYPE_CHECKING:
    from codellama.llm import LLM, Completion


class Session:
    """A conversation with `llm`, which begins with the system text `system` if there is one."""

    def __init__(self, llm: LLM, system: str | None = None) -> None:
        self.llm = llm
        self._system = system
        self._turns: list[Message] = []
        self._question: str | None = None
        self._running: Completion | None = None

    @property
    def system(self) -> str | None:
        """The system text. Setting it starts the conversation afresh."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        self.reset()
        self._system = text

    @property
    def messages(self) -> list[Message]:
        """The conversation so far: a new list, with the system turn. Waits for a running answer."""
        self._settle()
        head: list[Message] = []
        if self._system is not None:
            head = [{"role": "system", "content": self._system}]
        return head + self._turns

    def ask(self, text: str, **params: Any) -> Completion:
        """Ask the next question; iterate the answer, or wait for it with `.text()`.

        `params` are fields of `SamplingParams`. Raises what `LLM.chat` raises; the conversation is
        then unchanged. An earlier answer that still runs is waited for.
        """
        question: Message = {"role": "user", "content": text}
        completion = self.llm.chat([*self.messages, question], **params)
        self._question, self._running = text, completion
        return completion

    def regen(self, **params: Any) -> Completion:
        """Ask the last question again; its new answer takes the place of the old one.

        Raises InvalidRequestError if nothing has been asked yet.
        """
        self._settle()
        if self._question is None:
            raise InvalidRequestError("there is no question to ask again", "messages")
        kept = self._turns
        if kept and kept[-2]["content"] == self._question:
            self._turns = kept[:-2]
        try:
            return self.ask(self._question, **params)
        except CodeLlamaError:
            self._turns = kept
            raise

    def reset(self) -> None:
        """Drop all turns; the system text stays. A running answer is cancelled."""
        if self._running is not None:
            self._running.cancel()
        self._turns, self._question, self._running = [], None, None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation as JSON: the model's name and the messages."""
        path = Path(path)
        document = {"model": self.llm.name, "messages": self.messages}
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], llm: LLM) -> Session:
        """The conversation that `save` wrote to `path`, to go on with `llm` (any model will do).

        Raises InvalidRequestError if the file is not such a document.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            turns: list[Message] = [
                {"role": str(m["role"]), "content": str(m["content"])} for m in document["messages"]
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidRequestError(f"{path} is not a saved conversation: {error}") from error
        session = cls(llm)
        if turns and turns[0]["role"] == "system":
            session._system = turns.pop(0)["content"]
        roles = [turn["role"] for turn in turns]
        if roles != ["user", "assistant"] * (len(turns) // 2):
            raise InvalidRequestError(
                f"{path}: the roles must be user, assistant, user, ... in turn"
            )
        session._turns = turns
        session._question = turns[-2]["content"] if turns else None
        return session

    def _settle(self) -> None:
        """Wait for the running answer and make it part of the conversation."""
        if self._running is None or self._question is None:
            return
        running, self._running = self._running, None
        try:
            text = running.result().text
        except CodeLlamaError:
            return  # the one who iterates the answer has seen the error
        if text:
            self._turns.append({"role": "user", "content": self._question})
            self._turns.append({"role": "assistant", "content": text})
