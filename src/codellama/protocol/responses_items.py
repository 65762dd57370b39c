"""The items of a response, a message and calls of functions, and the events in which a stream brings them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from codellama.compat.replies import Json
from codellama.running.tool_calls import CallArguments, CallStart, Part


def message_item(name: str, status: str, text: str, logprobs: Sequence[Json] = ()) -> Json:
    """The item of an answer in words, called `name`."""
    return _message(name, status, [_text_part(text, logprobs)])


def call_item(status: str, called: str, name: str, arguments: str) -> Json:
    """The item of a call."""
    return {
        "id": _item_name(called),
        "type": "function_call",
        "status": status,
        "call_id": called,
        "name": name,
        "arguments": arguments,
    }


@dataclass
class Items:
    """The items of one stream: those that are `done`, and the one that is being written.

    `id` is the response's; every event has a number. `call` is the call that is being written, if it is
    one, `text` what the current item has so far.
    """

    id: str
    done: list[Json] = field(default_factory=list)
    call: CallStart | None = None
    text: str | None = None
    logprobs: list[Json] = field(default_factory=list)
    n_events: int = 0

    def event(self, kind: str, **more: object) -> Json:
        """The next event."""
        self.n_events += 1
        return {"type": kind, "sequence_number": self.n_events - 1, **more}

    def part(self, part: Part, logprobs: Sequence[Json]) -> list[Json]:
        """The events of a part of the answer; `logprobs` are those of a text."""
        if isinstance(part, CallStart):
            events = self.end("completed")
            self.call, self.text = part, ""
            item = call_item("in_progress", part.id, part.name, "")
            return [*events, self._item_event("added", item)]
        if isinstance(part, CallArguments):
            self.text = f"{self.text}{part.text}"
            return [self._call_event("delta", delta=part.text)]
        events = [] if self.text is not None and self.call is None else self._begin_text()
        self.text = f"{self.text}{part}"
        self.logprobs += logprobs
        return [*events, self._text_event("output_text.delta", delta=part, logprobs=logprobs)]

    def end(self, status: str) -> list[Json]:
        """The events that end the current item, if there is one."""
        if self.text is None:
            return []
        if self.call is not None:
            item = call_item(status, self.call.id, self.call.name, self.text)
            events = [self._call_event("done", name=self.call.name, arguments=self.text)]
        else:
            item = message_item(self._name, status, self.text, self.logprobs)
            part = item["content"][0]
            events = [
                self._text_event("output_text.done", text=self.text, logprobs=self.logprobs),
                self._text_event("content_part.done", part=part),
            ]
        events.append(self._item_event("done", item))
        self.done.append(item)
        self.call, self.text = None, None
        return events

    @property
    def _name(self) -> str:
        """The current message's: the first one has the response's id, as one that is not streamed."""
        return f"msg_{self.id}" if not self.done else f"msg_{self.id}_{len(self.done)}"

    def _begin_text(self) -> list[Json]:
        events = self.end("completed")
        self.text, self.logprobs = "", []
        return [
            *events,
            self._item_event("added", _message(self._name, "in_progress", [])),
            self._text_event("content_part.added", part=_text_part("", ())),
        ]

    def _item_event(self, kind: str, item: Json) -> Json:
        index = len(self.done)
        return self.event(f"response.output_item.{kind}", output_index=index, item=item)

    def _text_event(self, kind: str, **more: object) -> Json:
        place = {"item_id": self._name, "output_index": len(self.done), "content_index": 0}
        return self.event(f"response.{kind}", **place, **more)

    def _call_event(self, kind: str, **more: object) -> Json:
        assert self.call is not None, "arguments follow the beginning of a call"
        place = {"item_id": _item_name(self.call.id), "output_index": len(self.done)}
        return self.event(f"response.function_call_arguments.{kind}", **place, **more)


def _message(name: str, status: str, content: list[Json]) -> Json:
    return {
        "id": name,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _text_part(text: str, logprobs: Sequence[Json]) -> Json:
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": list(logprobs),
    }


def _item_name(called: str) -> str:
    """The id of the item of a call, whose own id is `call_...`."""
    return f"fc_{called.removeprefix('call_')}"
