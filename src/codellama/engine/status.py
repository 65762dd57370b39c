"""What the engine tells of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from codellama.engine.batch import Scales
from codellama.engine.request import Request
from codellama.engine.slot import Slot
from codellama.engine.threads import ThreadStatus


@dataclass
class EngineStatus:
    """Requests after the latest step, counts since the start, and whether the engine lives.

    Of `draft_tokens` guessed ahead in `drafts` guesses, `draft_accepted` were right; `accepted_at` has how
    many of these stood first in their guess, second and so on. `steps` are batches
    decoded, `busy_slots` the requests in all of them together, `longest` the most tokens that a prompt and
    its answer had. `prompt_seconds` and `decode_seconds` are what ended requests spent on
    `timed_prompt_tokens` and on `timed_answer_tokens`. `started` is when the engine was, by `time.monotonic`.
    `threads` are those that steps compute with, and why.
    """

    n_slots: int
    n_running: int = 0
    n_waiting: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens_decoded: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    draft_accepted: int = 0
    accepted_at: list[int] = field(default_factory=list)
    steps: int = 0
    busy_slots: int = 0
    longest: int = 0
    timed_prompt_tokens: int = 0
    timed_answer_tokens: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    started: float = 0.0
    dead: bool = False
    threads: ThreadStatus = ThreadStatus()

    def decoded(self, prompt_tokens: int, busy_slots: int = 1) -> None:
        """Count a batch with so many tokens of prompts."""
        self.prompt_tokens += prompt_tokens
        self.busy_slots += busy_slots
        self.steps += 1

    def guessed(self, n: int) -> None:
        """Count a guess at `n` tokens (0: none)."""
        self.draft_tokens += n
        self.drafts += bool(n)
        self.accepted_at += [0] * (n - len(self.accepted_at))

    def accepted(self, position: int) -> None:
        """Count a guessed token that was right: the first of its guess is at 0."""
        self.draft_accepted += 1
        self.accepted_at[position] += 1

    def ended(self, request: Request, prompt_s: float, decode_s: float) -> None:
        """Count a request that took so long for its prompt and its answer."""
        self.prompt_seconds += prompt_s
        self.decode_seconds += decode_s
        if request.first_token_at:
            self.timed_prompt_tokens += len(request.prompt) - request.cached_tokens
            self.timed_answer_tokens += max(0, request.generated - 1)
        self.longest = max(self.longest, len(request.tokens))


@dataclass(frozen=True)
class SlotStatus:
    """What a slot holds, and the request that it works for (None: it is idle).

    `n_cached` tokens of that request's prompt were there before, `n_processed` have been decoded;
    `n_decoded` are those of its answer so far, `n_remaining` those that it may still have.
    """

    id: int
    tokens: Sequence[int]
    scales: Scales
    task: int | None = None
    n_cached: int = 0
    n_processed: int = 0
    n_decoded: int = 0
    n_remaining: int = 0


def slot_status(slot: Slot) -> SlotStatus:
    """A snapshot of `slot`."""
    request = slot.request
    if request is None:
        return SlotStatus(slot.id, tuple(slot.tokens), slot.scales)
    return SlotStatus(
        slot.id,
        tuple(slot.tokens),
        slot.scales,
        task=request.id,
        n_cached=request.cached_tokens,
        n_processed=max(0, min(request.cursor, len(request.prompt)) - request.cached_tokens),
        n_decoded=request.generated,
        n_remaining=max(0, request.max_tokens - request.generated),
    )
