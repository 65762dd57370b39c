"""One request in progress, and what it reports.

A `Request` travels from the caller's thread through the scheduler to its end; it knows token ids and
limits, never formats. Everything the outside learns of it is a `Delta`, handed to its sink: any number
of them with text, then exactly one final one with a `finish_reason`.
"""

from __future__ import annotations

import enum
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from codellama.engine.batch import Scales, TokenLogprob
from codellama.engine.detokenizer import Detokenizer


class FinishReason(str, enum.Enum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class Reuse(enum.Enum):
    """What a request takes over of what the cache holds of its prompt: all of it; if it comes to an idle
    engine, only what decoding it anew would give bit for bit; or nothing."""

    ALL = "all"
    EQUAL = "equal"
    NONE = "none"


NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class ContextShift:
    """What goes when the context is full: behind the first `n_keep` tokens the oldest half, or
    `n_discard` tokens if that is not 0. The rule is llama-server's."""

    n_keep: int = 0
    n_discard: int = 0

    def cut(self, n_ctx: int, n_cached: int) -> tuple[int, int]:
        """How many of `n_cached` tokens stay at the beginning, and how many behind them go."""
        n_keep = max(0, min(self.n_keep, n_ctx - 4))
        n_left = n_cached - n_keep
        return n_keep, max(1, min(self.n_discard or n_left // 2, n_left - 1))


class State(enum.Enum):
    """Where a request is; it only ever moves forward."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


@dataclass(frozen=True)
class Usage:
    """Token counts. `cached_tokens` of the prompt were found in the KV cache and not decoded."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """Seconds a request spent on its prompt and on its answer, and tokens of each.

    Of `draft_n` tokens that were guessed ahead, `draft_accepted` were right. It ran in `slot` (-1: in none).
    """

    prompt_s: float = 0.0
    decode_s: float = 0.0
    prompt_n: int = 0
    decode_n: int = 0
    draft_n: int = 0
    draft_accepted: int = 0
    slot: int = -1

    @property
    def prompt_per_second(self) -> float:
        """Prompt tokens decoded per second (cached ones are not counted)."""
        return self.prompt_n / self.prompt_s if self.prompt_s > 0 else 0.0

    @property
    def decode_per_second(self) -> float:
        """Answer tokens per second."""
        return self.decode_n / self.decode_s if self.decode_s > 0 else 0.0


class Delta(NamedTuple):
    """What is new in an answer. The last one has a `finish_reason`, `usage` and `timings`, and says
    whether prompt and answer had no room in the context (`truncated`).

    Of a request that `reports`, every delta has `usage` and `timings`, and one without tokens says how many
    of the prompt's have been `processed`. `stop` is the stop string or stop token id that ended the answer,
    if one did. `logprobs` go with `tokens`; those of the prompt, if asked for, come in a delta of their own
    before all others, and then the last delta has that of a stop token, which is not among `tokens`.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | int | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: BaseException | None = None
    truncated: bool = False
    processed: int | None = None


Sink = Callable[[Delta], None]


class SamplerHandle(Protocol):
    """What the engine needs of a native sampler."""

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of these tokens may follow one another from here, as far as that is known."""

    def forced(self) -> list[int]:
        """Tokens that the answer's form leaves hardly a choice about; empty without such a form."""

    def close(self) -> None:
        """Free the native side; called once, by the engine."""


_ids = itertools.count()


@dataclass(eq=False, slots=True)
class Request:
    """A request: its prompt, what has been generated, its limits and where its deltas go.

    `max_tokens` is already cut to what the context has room for, unless it can shift. After
    `max_decode_s` seconds of writing the answer ends with its line, at `deadline` in any case. With
    `prompt_logprobs`, the prompt's own log probabilities are computed too, with so many alternatives
    each. `scales` are the scales of the LoRA adapters. At most `n_ctx` tokens are held at once; with
    `shift`, the answer then goes on without some of the older ones. No guess is longer than `n_draft_max`;
    with `steady` only those are made that would be made again. `id_slot` is the slot that it would like to
    have, counted round; below 0: any.
    `cursor` is the number of `tokens` (prompt and answer, without the `n_dropped` ones) whose KV is in the
    cache; the slot holds exactly those. `draft` are guesses at what comes next, for the next step only.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampler: SamplerHandle
    sink: Sink
    detokenizer: Detokenizer
    stop_tokens: frozenset[int] = frozenset()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    deadline: float | None = None  # of time.perf_counter
    max_decode_s: float | None = None
    scales: Scales = ()
    n_ctx: int = NO_LIMIT
    shift: ContextShift | None = None
    reports: bool = False
    reuse: Reuse = Reuse.ALL
    n_draft_max: int = NO_LIMIT
    steady: bool = False
    id_slot: int = -1

    id: int = field(default_factory=lambda: next(_ids))
    state: State = State.WAITING
    tokens: list[int] = field(default_factory=list)
    cursor: int = 0
    cached_tokens: int = 0
    n_dropped: int = 0
    draft: list[int] = field(default_factory=list)
    draft_n: int = 0
    draft_accepted: int = 0
    slot: int = -1  # the latest that it had
    cancelled: bool = False  # set by any thread, read by the engine at the start of a step
    admitted_at: float = 0.0
    first_token_at: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def generated(self) -> int:
        """Number of answer tokens so far."""
        return len(self.tokens) + self.n_dropped - len(self.prompt)

    @property
    def reserve(self) -> int:
        """KV cells this request may need in all: the prompt and its whole answer, or a full context."""
        return min(len(self.prompt) + self.max_tokens, self.n_ctx)

    @property
    def draft_limit(self) -> int:
        """The longest draft that is wanted and of use: it ends before the last token that may be written,
        and before the one that makes the context shift."""
        most = min(self.n_draft_max, self.max_tokens - self.generated - 1)
        return most if self.shift is None else min(most, self.n_ctx - 1 - len(self.tokens))

    @property
    def truncated(self) -> bool:
        """Whether prompt and answer have filled the context."""
        return self.n_dropped > 0 or len(self.tokens) >= self.n_ctx

    def out_of_limits(self, text: str) -> bool:
        """Whether the answer ends with `text`: a line too little indented, or a line end too late."""
        if self.detokenizer.outdented:
            return True
        if self.max_decode_s is None or "\n" not in text:
            return False
        return time.perf_counter() - self.first_token_at > self.max_decode_s

    def usage(self) -> Usage:
        """Token counts as of now."""
        return Usage(len(self.prompt), self.generated, self.cached_tokens)

    def timings(self) -> Timings:
        """Durations as of now, in seconds."""
        now = time.perf_counter()
        admitted = self.admitted_at or now
        first = self.first_token_at or now
        read = self.cursor if self.state is State.PREFILL else len(self.prompt)
        return Timings(
            prompt_s=first - admitted,
            decode_s=now - first,
            prompt_n=read - self.cached_tokens,
            decode_n=max(0, self.generated - 1),  # the first token comes out of the prompt's step
            draft_n=self.draft_n,
            draft_accepted=self.draft_accepted,
            slot=self.slot,
        )

    @property
    def tells_progress(self) -> bool:
        """Whether it is to be said how far the prompt is."""
        return self.reports and self.state is State.PREFILL

    def delta(
        self,
        text: str = "",
        tokens: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Delta:
        """What is new, before the end; without tokens, how far the prompt is."""
        if not self.reports:
            return Delta(text, tokens, logprobs)
        processed = None if tokens else self.cursor
        return Delta(
            text, tokens, logprobs, usage=self.usage(), timings=self.timings(), processed=processed
        )

    def final(
        self,
        last: Delta,
        reason: FinishReason,
        stop: str | int | None,
        timings: Timings,
        error: BaseException | None,
    ) -> Delta:
        """The final delta: what is new in `last`, the text held back until now, and how it ended."""
        return last._replace(
            text=last.text + self.detokenizer.flush(),
            finish_reason=reason,
            stop=stop,
            usage=self.usage(),
            timings=timings,
            error=error,
            truncated=self.truncated,
        )
