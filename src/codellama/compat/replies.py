"""Answers as OpenAI's dictionaries: what llama-cpp-python returns and what the HTTP server sends.

A `TextReply` or `ChatReply` turns collected answers into a whole response, or each delta into the chunks
of a stream. No engine, no HTTP. Shapes: https://platform.openai.com/docs/api-reference (completions,
chat), checked against llama_cpp/llama_types.py and llama-server's server-task.cpp.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from codellama.compat.tool_replies import Calls
from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason, Timings, Usage
from codellama.running.collected import Collected, likeliest, total_usage

Json = dict[str, Any]
Piece = Callable[[int], bytes]
"""Token id to its bytes, as `Tokenizer.piece`."""

LOWEST_LOGPROB = (
    -9999.0
)  # what OpenAI reports for a token that could not be drawn; JSON has no -inf
FINGERPRINT = "b-codellama"


@dataclass(frozen=True)
class Reply:
    """What every response and chunk of one request shares.

    `n` is the number of answers to each prompt. `extras` adds what llama-server adds to OpenAI's
    shapes: `system_fingerprint`, `timings`, cached tokens and token ids.
    """

    id: str
    created: int
    model: str
    piece: Piece
    n: int = 1
    logprobs: bool = False
    include_usage: bool = False
    extras: bool = False

    @property
    def ends_with_done(self) -> bool:
        """OpenAI's streams end with a `[DONE]` event."""
        return True

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
        if self.logprobs and delta.logprobs:
            offset = self.starts[answer.index // self.n] + self.shown[answer.index]
            logprobs = legacy_logprobs(delta.logprobs, self.piece, offset)
            self.shown[answer.index] += _text_length(delta.logprobs, self.piece)
        if delta.text or logprobs:
            chunks.append(self._chunk(answer.index, delta.text, logprobs, None))
        if delta.finish_reason:
            end = self._chunk(answer.index, "", None, finish_reason(delta.finish_reason))
            chunks.append(end | self._timings(answer))
        return chunks

    def tail(self, answers: Sequence[Collected]) -> list[Json]:
        """Chunks that close the stream: the usage, if it was asked for."""
        if not self.include_usage:
            return []
        return [self._envelope("text_completion", "cmpl-", [], usage=self._usage(answers))]

    def whole(self, answers: Sequence[Collected]) -> Json:
        """The response that is not streamed."""
        chosen = self.chosen(answers)
        choices = [self._choice(answer) for answer in chosen]
        body = self._envelope("text_completion", "cmpl-", choices, usage=self._usage(answers))
        return body | self._timings(chosen[0])

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
            logprobs = legacy_logprobs(answer.logprobs, self.piece, start)
        return _text_choice(
            answer.index, answer.text, logprobs, finish_reason(answer.finish_reason)
        )

    def _chunk(self, index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
        choice = _text_choice(index, text, logprobs, finish)
        return self._envelope("text_completion", "cmpl-", [choice])


@dataclass(frozen=True)
class ChatReply(Reply):
    """A response of `/v1/chat/completions`, or of `create_chat_completion`.

    `dropped` are the indices of the request's messages that the context had no room for. The
    response has them as `dropped_messages`, of a stream the first chunk, if there are any. `calls` says
    how calls of functions are read and written.
    """

    dropped: tuple[int, ...] = ()
    calls: Calls = field(default_factory=Calls)

    def head(self, index: int) -> list[Json]:
        """The chunk that opens the stream of a choice: its role."""
        delta = {"role": "assistant", "content": None} if self.extras else {"role": "assistant"}
        chunk = self._chunk(index, delta, None, None)
        return [chunk | self._dropped()] if index == 0 else [chunk]

    def chunks(self, answer: Collected, delta: Delta) -> list[Json]:
        """The chunks for what `delta` brought to `answer`."""
        chunks = []
        logprobs = None
        if self.logprobs and delta.logprobs:
            logprobs = chat_logprobs(delta.logprobs, self.piece, ids=self.extras)
        last = delta.finish_reason is not None
        for new in self.calls.deltas(
            answer.index, delta.text, last=last, anyway=logprobs is not None
        ):
            chunks.append(self._chunk(answer.index, new, logprobs, None))
            logprobs = None
        if delta.finish_reason:
            reason = self.calls.ended(answer.index, finish_reason(delta.finish_reason))
            chunks.append(self._chunk(answer.index, {}, None, reason) | self._timings(answer))
        return chunks

    def tail(self, answers: Sequence[Collected]) -> list[Json]:
        """Chunks that close the stream: the usage, if it was asked for."""
        if not self.include_usage:
            return []
        return [
            self._envelope("chat.completion.chunk", "chatcmpl-", [], usage=self._usage(answers))
        ]

    def whole(self, answers: Sequence[Collected]) -> Json:
        """The response that is not streamed."""
        choices = [self._choice(answer) for answer in answers]
        body = self._envelope("chat.completion", "chatcmpl-", choices, usage=self._usage(answers))
        return body | self._dropped() | self._timings(answers[0])

    def _choice(self, answer: Collected) -> Json:
        message, called = self.calls.message(answer.text)
        logprobs = None
        if self.logprobs:
            logprobs = chat_logprobs(answer.logprobs, self.piece, ids=self.extras)
        return {
            "index": answer.index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self.calls.reason(finish_reason(answer.finish_reason), called),
        }

    def _dropped(self) -> Json:
        return {"dropped_messages": list(self.dropped)} if self.dropped else {}

    def _chunk(self, index: int, delta: Json, logprobs: Json | None, finish: str | None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._envelope("chat.completion.chunk", "chatcmpl-", [choice])


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


def legacy_logprobs(logprobs: Iterable[TokenLogprob], piece: Piece, offset: int) -> Json:
    """The logprobs object of `/v1/completions`; `offset` is where the first token's text begins."""
    body: Json = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
    for entry in logprobs:
        raw = piece(entry.token)
        token = _legacy_token(raw)
        inside = _continues(raw[:1])  # of a character that began in a token before
        body["text_offset"].append(max(0, offset - inside))
        body["tokens"].append(token)
        if math.isnan(entry.logprob):  # nothing comes before it
            body["token_logprobs"].append(None)
            body["top_logprobs"].append(None)
        else:
            top = {_legacy_token(piece(i)): finite(value) for i, value in entry.top}
            top.setdefault(token, finite(entry.logprob))
            body["token_logprobs"].append(finite(entry.logprob))
            body["top_logprobs"].append(top)
        offset += _text_length([entry], piece)
    return body


def chat_logprobs(logprobs: Iterable[TokenLogprob], piece: Piece, ids: bool = False) -> Json:
    """The logprobs object of `/v1/chat/completions`; `ids` adds each token's id."""
    content = [
        token_json(entry.token, entry.logprob, piece, ids)
        | {"top_logprobs": [token_json(i, value, piece, ids) for i, value in entry.top]}
        for entry in logprobs
    ]
    return {"content": content, "refusal": None}


def token_json(token: int, logprob: float, piece: Piece, ids: bool) -> Json:
    """One token with its text, bytes and natural-log probability."""
    raw = piece(token)
    body: Json = {"id": token} if ids else {}
    return body | {
        "token": raw.decode("utf-8", "replace"),
        "bytes": list(raw),
        "logprob": finite(logprob),
    }


def finite(logprob: float) -> float:
    """A log probability that JSON can hold."""
    return max(logprob, LOWEST_LOGPROB) if not math.isnan(logprob) else LOWEST_LOGPROB


def _text_choice(index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}


def _legacy_token(raw: bytes) -> str:
    """A token as text; half a character is spelled `bytes:\\xe2\\x80`, as OpenAI does."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _text_length(logprobs: Iterable[TokenLogprob], piece: Piece) -> int:
    """Characters that begin in these tokens; one may end in the next."""
    text = b"".join(piece(entry.token) for entry in logprobs)
    return len(text) - _continues(text)


def _continues(raw: bytes) -> int:
    """How many bytes continue a UTF-8 character."""
    return sum(byte & 0xC0 == 0x80 for byte in raw)
