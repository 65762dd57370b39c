"""Answers as OpenAI's dictionaries: what llama-cpp-python returns and what the HTTP server sends.

A `TextReply` or `ChatReply` turns collected answers into a whole response, or each delta into the chunks
of a stream. No engine, no HTTP. Shapes: https://platform.openai.com/docs/api-reference (completions,
chat), checked against llama_cpp/llama_types.py and llama-server's server-task.cpp.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from codellama.compat.logprobs import (
    Piece,
    Shown,
    chat_logprobs,
    legacy_logprobs,
    shown_logprobs,
    text_length,
)
from codellama.compat.tool_replies import Calls
from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason, Timings, Usage
from codellama.running.collected import Collected, likeliest, total_usage

Json = dict[str, Any]
FINGERPRINT = "b-codellama"


@dataclass(frozen=True)
class Reply:
    """What every response and chunk of one request shares.

    `n` is the number of answers to each prompt. `extras` adds what llama-server adds to OpenAI's
    shapes: `system_fingerprint`, `timings`, cached tokens and token ids. `response_fields`, if there are
    any, are all that a whole response has; `verbose` gives what llama-server puts beside an answer for
    debugging. In a stream `timed` gives every chunk its timings, `progress` tells how much of the prompt has
    been decoded; `states` and `begun` are what it remembers of its answers.
    """

    id: str
    created: int
    model: str
    piece: Piece
    n: int = 1
    logprobs: bool = False
    include_usage: bool = False
    extras: bool = False
    response_fields: tuple[str, ...] = ()
    verbose: Callable[[Collected], Json] | None = None
    timed: bool = False
    progress: bool = False
    states: dict[int, Shown] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)

    @property
    def ends_with_done(self) -> bool:
        """OpenAI's streams end with a `[DONE]` event."""
        return True

    def failure(self, body: Json) -> list[Json]:
        """Chunks that end a stream before its time, with the `body` of an error."""
        return [body]

    def _envelope(self, kind: str, prefix: str, choices: list[Json], **more: Any) -> Json:
        body: Json = {
            "id": prefix + self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }
        if self.extras:
            body["system_fingerprint"] = FINGERPRINT
        return body

    def _shown(self, answer: Collected, delta: Delta) -> list[TokenLogprob]:
        """The log probabilities that a chunk has: those whose text has been sent."""
        if not self.logprobs:
            return []
        state = self.states.setdefault(answer.index, Shown(self.piece))
        return state.take(answer, delta.logprobs)

    def _picked(self, body: Json) -> Json:
        return select_fields(body, self.response_fields) if self.response_fields else body

    def _progress(self, chunk: Json, answer: Collected, delta: Delta) -> list[Json]:
        """Copies of a chunk that say how far the prompt is, if that was asked for and there is news."""
        if not self.progress:
            return []
        steps = progress_json(answer, delta, self.begun, self.timed)
        return [{**chunk, **step} for step in steps]

    def _verbose(self, answer: Collected) -> Json:
        return {} if self.verbose is None else {"__verbose": self.verbose(answer)}

    def _figures(self, chunks: list[Json], answer: Collected, delta: Delta) -> list[Json]:
        """The chunks, the last of which has the figures that were asked for."""
        if chunks and self.timed and not delta.finish_reason:
            chunks[-1].setdefault("timings", timings_json(answer.timings, answer.usage))
        return chunks

    def _usage(self, answers: Sequence[Collected]) -> Json:
        return usage_json(total_usage(answers, self.n), details=self.extras)

    def _timings(self, answer: Collected) -> Json:
        if not self.extras:
            return {}
        return {"timings": timings_json(answer.timings, answer.usage)}


@dataclass(frozen=True)
class TextReply(Reply):
    """A response of `/v1/completions`, or of `create_completion`.

    `starts` says for each prompt where the text of its answers begins, in characters. If `keep` is not
    None, a whole response has only so many of a prompt's answers, the likeliest; `scored` says that the
    prompt's log probabilities come before an answer's own. `shown` is the state of a stream: the
    characters whose tokens it has shown, by answer.
    """

    starts: Sequence[int] = (0,)
    keep: int | None = None
    scored: bool = False
    shown: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def head(self, index: int) -> list[Json]:
        """Chunks that open the stream of a choice: none."""
        return []

    def chunks(self, answer: Collected, delta: Delta) -> list[Json]:
        """The chunks for what `delta` brought to `answer`."""
        chunks = []
        logprobs = None
        shown = self._shown(answer, delta)
        if shown:
            offset = self.starts[answer.index // self.n] + self.shown[answer.index]
            logprobs = legacy_logprobs(shown, self.piece, offset)
            self.shown[answer.index] += text_length(shown, self.piece)
        if delta.text or logprobs:
            chunks.append(self._chunk(answer.index, delta.text, logprobs, None))
        chunks += self._progress(self._chunk(answer.index, "", None, None), answer, delta)
        if delta.finish_reason:
            end = self._chunk(answer.index, "", None, finish_reason(delta.finish_reason))
            chunks.append(end | self._verbose(answer) | self._timings(answer))
        return self._figures(chunks, answer, delta)

    def tail(self, answers: Sequence[Collected]) -> list[Json]:
        """Chunks that close the stream: the usage, if it was asked for."""
        if not self.include_usage:
            return []
        usage = self._usage(answers)
        chunk = self._envelope("text_completion", "cmpl-", [], usage=usage)
        return [chunk | self._timings(answers[0])]

    def whole(self, answers: Sequence[Collected]) -> Json:
        """The response that is not streamed."""
        chosen = self.chosen(answers)
        choices = [self._choice(answer) for answer in chosen]
        body = self._envelope("text_completion", "cmpl-", choices, usage=self._usage(answers))
        return self._picked(body | self._verbose(chosen[0]) | self._timings(chosen[0]))

    def chosen(self, answers: Sequence[Collected]) -> list[Collected]:
        """The answers that a whole response has, numbered anew."""
        if self.keep is None:
            return list(answers)
        groups = [answers[i : i + self.n] for i in range(0, len(answers), self.n)]
        kept = [a for group in groups for a in likeliest(group, self.keep, scored=self.scored)]
        return [replace(answer, index=i) for i, answer in enumerate(kept)]

    def _choice(self, answer: Collected) -> Json:
        logprobs = None
        if self.logprobs:
            start = self.starts[answer.index // (self.keep or self.n)]
            logprobs = legacy_logprobs(shown_logprobs(answer, self.piece), self.piece, start)
        return _text_choice(
            answer.index, answer.text, logprobs, finish_reason(answer.finish_reason)
        )

    def _chunk(self, index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
        choice = _text_choice(index, text, logprobs, finish)
        return self._envelope("text_completion", "cmpl-", [choice])


@dataclass(frozen=True)
class ChatReply(Reply):
    """A response of `/v1/chat/completions`, or of `create_chat_completion`.

    With `plain` it has probabilities instead of their logarithms (see `compat.logprobs`).
    `dropped` are the indices of the request's messages that the context had no room for. The
    response has them as `dropped_messages`, of a stream the first chunk, if there are any. `calls` says
    how calls of functions are read and written.
    """

    plain: bool = False
    dropped: tuple[int, ...] = ()
    calls: Calls = field(default_factory=Calls)

    def head(self, index: int) -> list[Json]:
        """The chunk that opens the stream of a choice: its role."""
        delta = {"role": "assistant", "content": None} if self.extras else {"role": "assistant"}
        chunk = self._chunk(index, delta, None, None)
        return [chunk | self._dropped()] if index == 0 else [chunk]

    def chunks(self, answer: Collected, delta: Delta) -> list[Json]:
        """The chunks for what `delta` brought to `answer`."""
        chunks: list[Json] = []
        shown = self._shown(answer, delta)
        logprobs = self._shape(shown) if shown else None
        last = delta.finish_reason is not None
        for new in self.calls.deltas(
            answer.index, delta.text, last=last, anyway=logprobs is not None
        ):
            chunks.append(self._chunk(answer.index, new, logprobs, None))
            logprobs = None
        chunks += self._progress(self._chunk(answer.index, {}, None, None), answer, delta)
        if delta.finish_reason:
            reason = self.calls.ended(answer.index, finish_reason(delta.finish_reason))
            end = self._chunk(answer.index, {}, None, reason)
            chunks.append(end | self._verbose(answer) | self._timings(answer))
        return self._figures(chunks, answer, delta)

    def tail(self, answers: Sequence[Collected]) -> list[Json]:
        """Chunks that close the stream: the usage, if it was asked for."""
        if not self.include_usage:
            return []
        usage = self._usage(answers)
        chunk = self._envelope("chat.completion.chunk", "chatcmpl-", [], usage=usage)
        return [chunk | self._timings(answers[0])]

    def whole(self, answers: Sequence[Collected]) -> Json:
        """The response that is not streamed."""
        choices = [self._choice(answer) for answer in answers]
        body = self._envelope("chat.completion", "chatcmpl-", choices, usage=self._usage(answers))
        more = self._dropped() | self._verbose(answers[0]) | self._timings(answers[0])
        return self._picked(body | more)

    def _logprobs(self, answer: Collected) -> Json | None:
        if not self.logprobs:
            return None
        return self._shape(shown_logprobs(answer, self.piece))

    def _shape(self, logprobs: Sequence[TokenLogprob]) -> Json:
        return chat_logprobs(logprobs, self.piece, ids=self.extras, plain=self.plain)

    def _choice(self, answer: Collected) -> Json:
        message, called = self.calls.message(answer.text)
        return {
            "index": answer.index,
            "message": message,
            "logprobs": self._logprobs(answer),
            "finish_reason": self.calls.reason(finish_reason(answer.finish_reason), called),
        }

    def _dropped(self) -> Json:
        return {"dropped_messages": list(self.dropped)} if self.dropped else {}

    def _chunk(self, index: int, delta: Json, logprobs: Json | None, finish: str | None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._envelope("chat.completion.chunk", "chatcmpl-", [choice])


def progress_json(answer: Collected, delta: Delta, begun: set[int], timed: bool) -> list[Json]:
    """What none or several events say of a prompt that is being decoded: llama-server's `prompt_progress`
    (tokens of the prompt, those found in the cache and those done, and milliseconds), and if `timed` its
    `timings`. `begun` are the answers whose first event has been sent: it tells what was in the cache."""
    if delta.processed is None:
        return []
    total, cached = answer.usage.prompt_tokens, answer.usage.cached_tokens
    done = {delta.processed: answer.timings}
    if answer.index not in begun:
        begun.add(answer.index)
        done = {cached: Timings(slot=answer.timings.slot), **done}
    events: list[Json] = []
    for n, timings in done.items():
        time_ms = round(1000 * timings.prompt_s)
        step = {"total": total, "cache": cached, "processed": n, "time_ms": time_ms}
        more = {"timings": timings_json(timings, answer.usage)} if timed else {}
        events.append({"prompt_progress": step, **more})
    return events


def select_fields(body: Mapping[str, Any], names: Sequence[str]) -> Json:
    """llama-server's `response_fields`: only these. `a/b` takes `b` out of the object `a` and keeps its
    whole path as its key; unknown ones are left out."""
    selected: Json = {}
    for name in names:
        value: Any = body
        for part in name.split("/"):
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            selected[name] = value
    return selected


def finish_reason(reason: FinishReason | None) -> str | None:
    """OpenAI's word for why an answer ended; None while it goes on or if it was cut short."""
    return (
        {FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}.get(reason) if reason else None
    )


def usage_json(usage: Usage, details: bool = False) -> Json:
    """OpenAI's usage object; `details` adds the cached prompt tokens."""
    body: Json = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if details:
        body["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    return body


def timings_json(timings: Timings, usage: Usage) -> Json:
    """llama-server's timings, milliseconds. Rates leave out the first token of the answer, which
    comes out of the prompt's last step."""
    prompt_ms, predicted_ms = 1000 * timings.prompt_s, 1000 * timings.decode_s
    body: Json = {
        "cache_n": usage.cached_tokens,
        "prompt_n": timings.prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / timings.prompt_n if timings.prompt_n else 0.0,
        "prompt_per_second": timings.prompt_per_second,
        "predicted_n": usage.completion_tokens,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / timings.decode_n if timings.decode_n else 0.0,
        "predicted_per_second": timings.decode_per_second,
    }
    if timings.draft_n:
        body |= {"draft_n": timings.draft_n, "draft_n_accepted": timings.draft_accepted}
    return body


def _text_choice(index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}
