"""Answers as Anthropic's messages: whole, or as the events of a stream.

Shapes: https://docs.anthropic.com/en/api/messages and /messages-streaming. Prompt tokens that were found in
the KV cache count as `cache_read_input_tokens` and not as `input_tokens`. How many they are is known only at
the end of a stream, so `message_start` counts all of them as input and `message_delta` says it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from codellama.compat.replies import Json
from codellama.engine.request import Delta, FinishReason, Usage
from codellama.protocol.functions import arguments_of
from codellama.running.collected import Collected
from codellama.running.tool_calls import (
    AnswerReader,
    CallArguments,
    CallStart,
    Part,
    parts_of,
    read_answer,
)


@dataclass
class MessageReply:
    """Renders one answer.

    `n_prompt` are the prompt's tokens. `reader` finds the calls in the answer, if functions were offered.
    `extra` is what a message says beside what Anthropic's say. The state of a stream is the number of
    its current `block` and the block's `kind`, None between blocks.
    """

    id: str
    model: str
    n_prompt: int
    reader: AnswerReader | None = None
    extra: Json = field(default_factory=dict)
    block: int = -1
    kind: str | None = None

    @property
    def ends_with_done(self) -> bool:
        """The last event is `message_stop`."""
        return False

    def head(self, index: int) -> list[Json]:
        """The event that opens a message."""
        message = self._message([], None, None, Usage(prompt_tokens=self.n_prompt))
        return [{"type": "message_start", "message": message}]

    def chunks(self, answer: Collected, delta: Delta) -> list[Json]:
        """The events for what `delta` brought."""
        events: list[Json] = []
        for part in parts_of(self.reader, delta):
            events += self._part(part)
        if delta.finish_reason:
            events += self._end(answer)
        return events

    def tail(self, answers: Sequence[Collected]) -> list[Json]:
        """Events that close the stream: none are left."""
        return []

    def failure(self, body: Json) -> list[Json]:
        """The event that ends a stream before its time."""
        return [body]

    def whole(self, answers: Sequence[Collected]) -> Json:
        """The message that is not streamed."""
        answer = answers[0]
        said = read_answer(self.reader, answer.text)
        content: list[Json] = [{"type": "text", "text": said.text}] if said.text else []
        content += [_call(call.id, call.name, arguments_of(call.arguments)) for call in said.calls]
        reason = stop_reason(answer, called=bool(said.calls))
        return self._message(content, reason, stop_sequence(answer), answer.usage)

    # -- the parts of a stream ----------------------------------------------------------------

    def _part(self, part: Part) -> list[Json]:
        if isinstance(part, CallStart):
            return [*self._close(), self._open(_call(part.id, part.name, {}))]
        if isinstance(part, CallArguments):
            return [self._delta({"type": "input_json_delta", "partial_json": part.text})]
        opened = []
        if self.kind != "text":
            opened = [*self._close(), self._open({"type": "text", "text": ""})]
        return [*opened, self._delta({"type": "text_delta", "text": part})]

    def _open(self, block: Json) -> Json:
        self.block += 1
        self.kind = block["type"]
        return {"type": "content_block_start", "index": self.block, "content_block": block}

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self.block, "delta": delta}

    def _close(self) -> list[Json]:
        if self.kind is None:
            return []
        self.kind = None
        return [{"type": "content_block_stop", "index": self.block}]

    def _end(self, answer: Collected) -> list[Json]:
        called = self.reader is not None and self.reader.called
        end = {
            "stop_reason": stop_reason(answer, called=called),
            "stop_sequence": stop_sequence(answer),
        }
        return [
            *self._close(),
            {"type": "message_delta", "delta": end, "usage": usage_json(answer.usage)},
            {"type": "message_stop"},
        ]

    def _message(
        self, content: list[Json], reason: str | None, sequence: str | None, usage: Usage
    ) -> Json:
        return {
            "id": f"msg_{self.id}",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage_json(usage),
            **self.extra,
        }


def stop_reason(answer: Collected, *, called: bool) -> str | None:
    """Anthropic's word for why an answer ended; `called` says that it calls something."""
    if answer.finish_reason is FinishReason.LENGTH:
        return "model_context_window_exceeded" if answer.truncated else "max_tokens"
    if answer.finish_reason is not FinishReason.STOP:
        return None
    if called:
        return "tool_use"
    return "stop_sequence" if isinstance(answer.stop, str) else "end_turn"


def stop_sequence(answer: Collected) -> str | None:
    """The client's text that ended the answer, if one did."""
    return answer.stop if isinstance(answer.stop, str) else None


def usage_json(usage: Usage) -> Json:
    """Anthropic's counts."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _call(called: str, name: str, arguments: Json) -> Json:
    return {"type": "tool_use", "id": called, "name": name, "input": arguments}
