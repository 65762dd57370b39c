"""Answers as OpenAI's responses: whole, or as the events of a stream.

Shapes: https://platform.openai.com/docs/api-reference/responses and /responses-streaming. llama-server's
`timings` come with the response, and with the event that ends a stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from codellama.compat.logprobs import Shown, chat_logprobs, shown_logprobs
from codellama.compat.replies import Json, progress_json, timings_json
from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason, Usage
from codellama.params import SamplingParams
from codellama.protocol.responses_items import Items, call_item, message_item
from codellama.running.collected import Collected
from codellama.running.tool_calls import AnswerReader, parts_of, read_answer


@dataclass
class ResponseReply:
    """Renders one answer.

    `asked` is what a response repeats of its request. `reader` finds the calls in the answer, if functions
    were offered. In a stream `timed` adds llama-server's timings to every delta, and `progress` tells how
    much of the prompt has been read. The state of a stream: the log probabilities that were `shown`, its
    `items`, and whether it has `begun` to tell.
    """

    id: str
    created: int
    model: str
    shown: Shown
    params: SamplingParams
    asked: Json
    reader: AnswerReader | None
    items: Items
    timed: bool = False
    progress: bool = False
    begun: set[int] = field(default_factory=set)

    @property
    def ends_with_done(self) -> bool:
        """The last event is the one with the whole response."""
        return False

    def head(self, index: int) -> list[Json]:
        """The events that open a response."""
        kinds = ("response.created", "response.in_progress")
        return [
            self.items.event(kind, response=self._response("in_progress", [], None))
            for kind in kinds
        ]

    def chunks(self, answer: Collected, delta: Delta) -> list[Json]:
        """The events for what `delta` brought."""
        logprobs = self._logprobs(self.shown.take(answer, delta.logprobs))
        events: list[Json] = []
        for part in parts_of(self.reader, delta):
            events += self.items.part(part, logprobs)
            logprobs = []
        if logprobs and self.reader is None:  # of text that is held back
            events += self.items.part("", logprobs)
        if events and self.timed:
            events[-1]["timings"] = timings_json(answer.timings, answer.usage)
        if self.progress:
            events += self._progress(answer, delta)
        if delta.finish_reason:
            events += self._end(answer)
        return events

    def _progress(self, answer: Collected, delta: Delta) -> list[Json]:
        steps = progress_json(answer, delta, self.begun, self.timed)
        response = self._response("in_progress", [], None)
        return [
            self.items.event("response.in_progress", response=response, **step) for step in steps
        ]

    def tail(self, answers: Sequence[Collected]) -> list[Json]:
        """Events that close the stream: none are left."""
        return []

    def failure(self, body: Json) -> list[Json]:
        """The events that end a stream before its time, with the `body` of an error."""
        error = body["error"]
        failed = self._response("failed", [], None)
        failed["error"] = {"code": "server_error", "message": error["message"]}
        plain = {"code": error["type"], "message": error["message"], "param": error["param"]}
        return [
            self.items.event("response.failed", response=failed),
            self.items.event("error", **plain, error=error),
        ]

    def whole(self, answers: Sequence[Collected]) -> Json:
        """The response that is not streamed."""
        answer = answers[0]
        said = read_answer(self.reader, answer.text)
        output = []
        if said.text:
            logprobs = self._logprobs(shown_logprobs(answer, self.shown.piece))
            output = [message_item(f"msg_{self.id}", _status(answer), said.text, logprobs)]
        output += [call_item(_status(answer), c.id, c.name, c.arguments) for c in said.calls]
        for item in output[:-1]:  # what was cut is the last one
            item["status"] = "completed"
        return self._final(answer, output) | {"timings": timings_json(answer.timings, answer.usage)}

    def _end(self, answer: Collected) -> list[Json]:
        events = self.items.end(_status(answer))
        response = self._final(answer, self.items.done)
        timings = timings_json(answer.timings, answer.usage)
        kind = f"response.{response['status']}"
        return [*events, self.items.event(kind, response=response, timings=timings)]

    def _final(self, answer: Collected, output: list[Json]) -> Json:
        status = _status(answer)
        response = self._response(status, output, answer.usage)
        if status == "completed":
            return response | {"completed_at": int(time.time())}
        return response | {"incomplete_details": {"reason": "max_output_tokens"}}

    def _response(self, status: str, output: list[Json], usage: Usage | None) -> Json:
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self.model,
            "output": output,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": self.params.temperature,
            "top_p": self.params.top_p,
            "usage": None if usage is None else usage_json(usage),
            **self.asked,
        }

    def _logprobs(self, logprobs: Iterable[TokenLogprob]) -> list[Json]:
        if self.params.logprobs is None:
            return []
        entries: list[Json] = chat_logprobs(logprobs, self.shown.piece)["content"]
        return entries


def usage_json(usage: Usage) -> Json:
    """The counts of a response."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def _status(answer: Collected) -> str:
    """Whether the answer ended by itself, or because there was no room for more."""
    return "incomplete" if answer.finish_reason is FinishReason.LENGTH else "completed"
