"""Turns of a dialog on their way from another dialect to OpenAI's messages.

What has no content of its own is put together here: texts of one turn, and turns of one role that follow
one another, which the chat formats do not have. Every message knows where it was in the client's request,
so that an error names that place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from codellama.errors import ChatFormatError, InvalidRequestError
from codellama.protocol.errors import Json

TOOL = "tool"
"""The role of a call's result."""


@dataclass
class _Turn:
    """One of OpenAI's messages that is being put together, and the `places` that its parts come from."""

    role: str
    texts: list[str]
    calls: list[Json]
    called: Any
    places: list[int | str]

    def message(self) -> Json:
        """The whole message."""
        message: Json = {"role": self.role, "content": joined(self.texts)}
        if self.calls:
            message["tool_calls"] = self.calls
        return message | {"tool_call_id": self.called} if self.role == TOOL else message


@dataclass
class Turns:
    """The turns of a dialog. `param` is the client's field that holds it.

    A place is the number of one of the client's messages, or the name of another field.
    """

    param: str
    _turns: list[_Turn] = field(default_factory=list)

    def add(self, message: Json, place: int | str) -> None:
        """Add a message; one that goes on in the role of the last one becomes part of it.

        Results of tools stay apart: each belongs to a call of its own.
        """
        role, text, calls = message["role"], message["content"], message.get("tool_calls", ())
        last = self._turns[-1] if self._turns else None
        if last is None or last.role != role or role == TOOL:
            called = message.get("tool_call_id")
            self._turns.append(_Turn(role, [text], [*calls], called, [place]))
            return
        # Put together at the end: a text that grows with every message would be copied as often.
        last.texts.append(text)
        last.calls += calls
        last.places.append(place)

    def messages(self) -> list[Json]:
        """The dialog as OpenAI's messages."""
        return [turn.message() for turn in self._turns]

    def places(self, number: int) -> list[int | str]:
        """Where the parts of a message came from."""
        return self._turns[number].places

    def respell(self, error: InvalidRequestError) -> None:
        """Let an error about a message name the client's place for it."""
        if error.param != "messages":
            return
        name = self.param
        place = error.values.get("i")
        if isinstance(place, int) and place < len(self._turns):
            origin = self._turns[place].places[0]
            if isinstance(origin, str):
                name, error.sentence = origin, error.sentence.replace("[{i}]", "")
            else:
                error.values = {**error.values, "i": origin}
        error.rename(name)


def joined(texts: Sequence[str]) -> str:
    """Texts of one turn, a line each, as the parts of OpenAI's messages."""
    return "\n".join(text for text in texts if text)


def part_text(part: Any, kinds: Mapping[str, str], place: str, param: str) -> str:
    """The text of a part of a message, whose `type` says under which key of it (`kinds`) it stands.

    `place` is where the part is in `param`. Raises ChatFormatError for anything but text.
    """
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get(kinds[kind]) if isinstance(kind, str) and kind in kinds else None
    if not isinstance(text, str):
        raise ChatFormatError(
            "{param}{place} must be a part of type {kinds}, got {kind!r:.80}: the model only reads text",
            param,
            place=place,
            kinds=" or ".join(kinds),
            kind=kind,
        )
    return text


def content_text(content: Any, kinds: Mapping[str, str], place: str, param: str) -> str:
    """The text of a message's content: a text, or parts of the types in `kinds`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ChatFormatError(
            "{param}{place} must be a text or a list of parts", param, place=place
        )
    return joined(
        [part_text(part, kinds, f"{place}[{k}]", param) for k, part in enumerate(content)]
    )
