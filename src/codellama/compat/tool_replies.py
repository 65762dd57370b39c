"""Calls in answers as OpenAI's dictionaries: `tool_calls`, or the `function_call` of older requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from codellama.params import ToolCall, Tools
from codellama.running.tool_calls import AnswerReader, CallStart, Part, read_answer

Json = dict[str, Any]


@dataclass(frozen=True)
class Calls:
    """How the answers of one request are read and written.

    `tools` is what it offered, None for nothing; `anywhere` is `AnswerReader`'s; `legacy` says that it
    came with `functions`. `readers` is the state of a stream, by answer.
    """

    tools: Tools | None = None
    anywhere: bool = True
    legacy: bool = False
    readers: dict[int, AnswerReader] = field(default_factory=dict)

    def deltas(self, index: int, text: str, *, last: bool, anyway: bool = False) -> list[Json]:
        """The `delta`s of the chunks for `text`, the next piece of answer number `index`.

        With `anyway` there is at least one, which may say nothing.
        """
        parts: list[Part] = [text] if text else []
        if self.tools is not None:
            if index not in self.readers:
                self.readers[index] = self._reader()
            parts = self.readers[index].feed(text, last=last)
        return [self._delta(part) for part in parts] or ([{"content": ""}] if anyway else [])

    def _delta(self, part: Part) -> Json:
        if isinstance(part, str):
            return {"content": part}
        head: Json = {}
        if isinstance(part, CallStart):
            head = {"id": part.id, "type": "function"}
            function = {"name": part.name, "arguments": ""}
        else:
            function = {"arguments": part.text}
        if self.legacy:
            return {"function_call": function}
        return {"tool_calls": [{"index": part.index, **head, "function": function}]}

    def ended(self, index: int, reason: str | None) -> str | None:
        """Why a streamed answer ended, in OpenAI's words; `reason` is how it would be put without calls."""
        return self.reason(reason, index in self.readers and self.readers[index].called)

    def message(self, text: str) -> tuple[Json, bool]:
        """The message of a whole answer, and whether it calls something."""
        if self.tools is None:
            return {"role": "assistant", "content": text}, False
        said = read_answer(self._reader(), text)
        message: Json = {"role": "assistant", "content": said.text}
        if said.calls:
            message["content"] = said.text or None
            message |= self._written(said.calls)
        return message, bool(said.calls)

    def _reader(self) -> AnswerReader:
        words = self.tools is None or self.tools.choice == "auto"
        return AnswerReader(anywhere=self.anywhere, words=words)

    def _written(self, calls: Sequence[ToolCall]) -> Json:
        written = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
        return {"function_call": written[0]["function"]} if self.legacy else {"tool_calls": written}

    def reason(self, reason: str | None, called: bool) -> str | None:
        """Why an answer ended: a call of the one function that was asked for is no news to the client."""
        if reason != "stop" or not called or self.tools is None or self.tools.choice == "named":
            return reason
        return "function_call" if self.legacy else "tool_calls"
