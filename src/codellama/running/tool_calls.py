"""What an answer says and what it calls: its text, read while it comes.

An answer to a prompt with `tools` is held to words or calls (`codellama.constraints.calls`). Every dialect
goes the same way. Its functions become `Tools`, its messages `Message`s with `tool_calls` and `tool_call_id`.
`llm.chat_prompt(messages, tools=tools)` gives a prompt that carries the `Tools` along, and `llm.generate`
holds the answer to them. `AnswerReader.of(completion.prompt, completion.params)` reads one choice: `feed`
turns each delta's text into parts (text, the beginning of a call, a piece of its arguments), `read_answer` a
whole answer.
"""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from codellama.engine.detokenizer import partial_stop
from codellama.engine.request import Delta
from codellama.params import Prompt, SamplingParams, ToolCall
from codellama.prompts.tools import CALL

_NAME = re.compile(r"\s*([a-zA-Z0-9_-]+)(?=[^a-zA-Z0-9_-])")


@dataclass(frozen=True)
class CallStart:
    """Call number `index` of an answer, from 0 on, begins; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """The next piece of the JSON text of call number `index`'s arguments."""

    index: int
    text: str


Part = str | CallStart | CallArguments
"""What is new in an answer; a `str` is a piece of its text."""


class _State(enum.Enum):
    TEXT = "text"
    NAME = "name"
    ARGUMENTS = "arguments"


class AnswerReader:
    """Reads one answer piece by piece.

    `anywhere` says that a call may stand behind words; otherwise it is the first thing or there is none.
    `words` says that there may be words; otherwise all is calls, of which the end may be cut off. The white
    space between words and a call belongs to neither.
    """

    def __init__(self, *, anywhere: bool = True, words: bool = True) -> None:
        self._anywhere = anywhere
        self._may_say = words
        self._state = _State.TEXT
        self._held = ""
        self._index = -1
        self._said = False
        self._json = _ObjectEnd()

    @classmethod
    def of(cls, prompt: Prompt, params: SamplingParams) -> AnswerReader | None:
        """A reader for one answer to `prompt`; None if it was offered no functions."""
        if prompt.tools is None:
            return None
        return cls(anywhere=params.json_schema is None, words=prompt.tools.choice == "auto")

    @property
    def called(self) -> bool:
        """Whether a call has begun."""
        return self._index >= 0

    def feed(self, text: str, *, last: bool = False) -> list[Part]:
        """The parts that `text`, the next piece of the answer, completes; with `last` all that is left.

        Of an answer that ends within a call, the call is as long as it came; one without a whole name is
        left out.
        """
        self._held += text
        parts: list[Part] = []
        while self._held:
            before = len(self._held)
            step = {
                _State.TEXT: self._text,
                _State.NAME: self._name,
                _State.ARGUMENTS: self._arguments,
            }
            parts += step[self._state](last)
            if len(self._held) == before:
                break
        return parts

    def _text(self, last: bool) -> list[Part]:
        text, self._held = self._held, ""
        at = self._tag(text)
        if at is not None:
            self._state, self._held = _State.NAME, text[at + len(CALL) :]
            return self._words(text[:at].rstrip())
        if not last:
            safe = len(text) - partial_stop(text, (CALL,)) if self._may_call() else len(text)
            keep = len(text[:safe].rstrip())
            text, self._held = text[:keep], text[keep:]
        return self._words(text)

    def _tag(self, text: str) -> int | None:
        """Where a call begins in `text`."""
        if not self._may_call():
            return None
        if self._anywhere or self.called:
            at = text.find(CALL)
            return at if at >= 0 else None
        start = len(text) - len(text.lstrip())
        return start if text.startswith(CALL, start) else None

    def _may_call(self) -> bool:
        return self._anywhere or self.called or not self._said

    def _words(self, text: str) -> list[Part]:
        """Words; where there are none, white space and the beginning of a tag are left out."""
        if (self.called or not self._may_say) and CALL.startswith(text.strip()):
            return []
        self._said = self._said or bool(text.strip())
        return [text] if text else []

    def _name(self, last: bool) -> list[Part]:
        found = _NAME.match(self._held)
        if found is None:
            self._held = "" if last else self._held
            return []
        self._held = self._held[found.end() :]
        self._state, self._json = _State.ARGUMENTS, _ObjectEnd()
        self._index += 1
        return [CallStart(self._index, f"call_{uuid.uuid4().hex[:24]}", found[1])]

    def _arguments(self, last: bool) -> list[Part]:
        if not self._json.begun:
            self._held = self._held.lstrip()
        end = self._json.find(self._held)
        text, self._held = self._held[:end], self._held[end:]
        if self._json.ended:
            self._state = _State.TEXT
        return [CallArguments(self._index, text)] if text else []


class _ObjectEnd:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.begun = False
        self.ended = False

    def find(self, text: str) -> int:
        """How much of `text` belongs to the object."""
        for i, character in enumerate(text):
            self.begun = True
            if self._in_string:
                self._in_string = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.ended = True
                    return i + 1
        return len(text)


@dataclass(frozen=True)
class Said:
    """A whole answer: its words and its calls."""

    text: str
    calls: tuple[ToolCall, ...] = ()


def read_answer(reader: AnswerReader | None, text: str) -> Said:
    """The words and the calls of a whole answer; without a reader it is all words."""
    return Said(text) if reader is None else said(reader.feed(text, last=True))


def parts_of(reader: AnswerReader | None, delta: Delta) -> list[Part]:
    """What `delta` brings; without a reader it is all text."""
    if reader is None:
        return [delta.text] if delta.text else []
    return reader.feed(delta.text, last=delta.finish_reason is not None)


def words(reader: AnswerReader | None, delta: Delta) -> list[str]:
    """The pieces of text that `delta` brings; calls are left out."""
    return [part for part in parts_of(reader, delta) if isinstance(part, str)]


def said(parts: Iterable[Part]) -> Said:
    """The parts of an answer, put together."""
    words = ""
    calls: list[ToolCall] = []
    for part in parts:
        if isinstance(part, CallStart):
            calls.append(ToolCall(part.id, part.name, ""))
        elif isinstance(part, CallArguments):
            call = calls[part.index]
            calls[part.index] = ToolCall(call.id, call.name, call.arguments + part.text)
        else:
            words += part
    return Said(words, tuple(calls))
