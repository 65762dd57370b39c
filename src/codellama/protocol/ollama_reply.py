"""Answers as Ollama's: one object, or lines whose last one has the counts.

Durations are in nanoseconds. The prompt's and the answer's are those of the engine; `total_duration` runs
from when the request was read. Nothing is loaded for a request, so `load_duration` is 0.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from codellama.compat.logprobs import Shown, shown_logprobs, token_json
from codellama.compat.replies import Json
from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason
from codellama.params import ToolCall
from codellama.protocol.functions import arguments_of
from codellama.running.collected import Collected
from codellama.running.tool_calls import AnswerReader, Part, parts_of, read_answer, said

NS = 1_000_000_000


@dataclass
class OllamaReply:
    """Renders one answer, of `/api/chat` if `is_chat`, else of `/api/generate`. `shown` are log
    probabilities so far, of a stream, if `logprobs` are wanted. `started` is when the
    request was read, by `time.perf_counter_ns`. `reader` finds the calls in the answer, if functions were
    offered; a stream brings them whole, at its end. `extra` is what the last line says beside what
    Ollama's say. `parts` are those of a stream so far."""

    model: str
    shown: Shown
    logprobs: bool
    is_chat: bool
    started: int
    reader: AnswerReader | None = None
    extra: Json = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)

    @property
    def ends_with_done(self) -> bool:
        """The last line is the one whose `done` is true."""
        return False

    def head(self, index: int) -> list[Json]:
        """Lines that open a stream: none."""
        return []

    def chunks(self, answer: Collected, delta: Delta) -> list[Json]:
        """The lines for what `delta` brought."""
        new = parts_of(self.reader, delta)
        self.parts += new if self.reader else ()
        text = "".join(part for part in new if isinstance(part, str))
        lines: list[Json] = []
        logprobs = self.shown.take(answer, delta.logprobs) if self.logprobs else []
        if text or logprobs:
            lines.append(self._line(text, logprobs, done=False))
        if delta.finish_reason:
            calls = said(self.parts).calls
            if calls:
                lines.append(self._line("", (), done=False, calls=calls))
            lines.append(self._line("", (), done=True) | self._counts(answer))
        return lines

    def tail(self, answers: Sequence[Collected]) -> list[Json]:
        """Lines that close the stream: none are left."""
        return []

    def failure(self, body: Json) -> list[Json]:
        """The line that ends a stream before its time."""
        return [body]

    def whole(self, answers: Sequence[Collected]) -> Json:
        """The answer that is not streamed."""
        answer = answers[0]
        found = read_answer(self.reader, answer.text)
        logprobs = shown_logprobs(answer, self.shown.piece) if self.logprobs else []
        line = self._line(found.text, logprobs, done=True, calls=found.calls)
        return line | self._counts(answer)

    def _line(
        self,
        text: str,
        logprobs: Iterable[TokenLogprob],
        *,
        done: bool,
        calls: Sequence[ToolCall] = (),
    ) -> Json:
        line: Json = {"model": self.model, "created_at": stamp()}
        if self.is_chat:
            line["message"] = {"role": "assistant", "content": text}
            if calls:
                line["message"]["tool_calls"] = [_call(i, call) for i, call in enumerate(calls)]
        else:
            line["response"] = text
        if self.logprobs:
            line["logprobs"] = [self._logprob(entry) for entry in logprobs]
        return line | {"done": done}

    def _logprob(self, entry: TokenLogprob) -> Json:
        top = [token_json(token, value, self.shown.piece, ids=False) for token, value in entry.top]
        return token_json(entry.token, entry.logprob, self.shown.piece, ids=False) | {
            "top_logprobs": top
        }

    def _counts(self, answer: Collected) -> Json:
        timings, usage = answer.timings, answer.usage
        return {
            "done_reason": "length" if answer.finish_reason is FinishReason.LENGTH else "stop",
            "total_duration": time.perf_counter_ns() - self.started,
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": round(timings.prompt_s * NS),
            "eval_count": usage.completion_tokens,
            "eval_duration": round(timings.decode_s * NS),
            **self.extra,
        }


def _call(index: int, call: ToolCall) -> Json:
    function = {"index": index, "name": call.name, "arguments": arguments_of(call.arguments)}
    return {"id": call.id, "function": function}


def stamp(seconds: float | None = None) -> str:
    """A time, by default now, as Ollama writes it (RFC 3339, UTC)."""
    utc = datetime.timezone.utc
    moment = datetime.datetime.now(utc)
    if seconds is not None:
        moment = datetime.datetime.fromtimestamp(seconds, utc)
    return moment.isoformat().replace("+00:00", "Z")
