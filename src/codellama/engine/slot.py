"""A slot of the KV cache, and how much of what it holds is of use to another request.

`Slot` knows token ids and what they were decoded with, nothing about text. `Step` is a batch and what
to do with its results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from codellama.engine.batch import Batch, Scales, TokenLogprob
from codellama.engine.prefix import common_prefix
from codellama.engine.request import Request, Reuse


@dataclass(eq=False, slots=True)
class Slot:
    """A sequence id of the context and the tokens its KV cache holds, decoded with `scales`.

    `scores` are the log probabilities of its tokens from the second one on, as far as a request
    wanted them, with `n_top` alternatives each; at most one more than `tokens` has (the next one's).
    Those behind the first `n_exact` (None: all are exact) were decoded behind others that have been
    dropped since, so they are of no use to anyone else.
    `chunks` are the ends of the pieces in which the first tokens were decoded, as long as each was a step of
    its own with no other slot's cells in the cache. llama.cpp takes the first free cells, so these tokens lie
    where they would in an empty cache, and are what decoding them anew in these pieces would give.
    `turn` is the step since which its request has waited for its next one.
    """

    id: int
    tokens: list[int] = field(default_factory=list)
    scores: list[TokenLogprob] = field(default_factory=list)
    n_top: int = 0
    scales: Scales = ()
    n_exact: int | None = None
    chunks: list[int] = field(default_factory=list)
    request: Request | None = None
    last_used: int = 0
    turn: int = 0

    def shared(self, tokens: list[int], scales: Scales) -> int:
        """How many of `tokens` decoded with `scales` are in the cache, from the first one on."""
        if scales != self.scales:
            return 0
        shared = common_prefix(self.tokens, tokens)
        return shared if self.n_exact is None else min(shared, self.n_exact)

    def drop(self, n_keep: int, n_discard: int) -> None:
        """The context has shifted: `n_discard` tokens behind the first `n_keep` are gone."""
        del self.tokens[n_keep : n_keep + n_discard]
        self.scores.clear()
        self.chunks.clear()
        self.n_exact = n_keep if self.n_exact is None else min(n_keep, self.n_exact)

    def spares(self, request: Request) -> int:
        """How many tokens the cache spares `request` decoding; the last one is left to decode."""
        shared = self.shared(request.tokens, request.scales)
        return usable_share(shared, request, len(self.scores), self.n_top)


class Sample(NamedTuple):
    """Tokens to draw for `request`: after batch row `row`, and as long as each one equals the next
    token of `draft`, after the row that follows."""

    request: Request
    row: int
    draft: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scored:
    """Rows of a prompt whose log probabilities are wanted: row `first + i` tells of `tokens[i]`."""

    slot: Slot
    request: Request
    first: int
    tokens: tuple[int, ...]

    def take(self, logprob: Callable[[int, int, int], TokenLogprob]) -> tuple[TokenLogprob, ...]:
        """Compute the rows' log probabilities while their logits are there; those of the whole prompt once
        it has ended, else none."""
        slot, request = self.slot, self.request
        for row, token in enumerate(self.tokens, self.first):
            slot.scores.append(logprob(row, token, slot.n_top))
        if request.cursor != len(request.prompt):
            return ()
        first = TokenLogprob(request.prompt[0], math.nan)
        wanted = request.prompt_logprobs
        return (first, *(replace(score, top=score.top[:wanted]) for score in slot.scores))


@dataclass(slots=True)
class Step:
    """A batch and what to do with its results: what to draw, and the tokens decoded per slot."""

    batch: Batch
    samples: list[Sample] = field(default_factory=list)
    decoded: list[tuple[Slot, list[int]]] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    n_prompt: int = 0  # rows of prompts

    @property
    def repeats(self) -> bool:
        """Whether one of the requests is to give the same answer each time."""
        requests = (slot.request for slot, _ in self.decoded)
        return any(request is not None and request.reuse is not Reuse.ALL for request in requests)

    def telling(self) -> list[Request]:
        """The requests that are to say how far their prompts are."""
        requests = [slot.request for slot, _ in self.decoded if slot.request is not None]
        return [request for request in requests if request.tells_progress]


def usable_share(
    shared: int, request: Request, n_scores: int, n_top: int, scored: bool = True
) -> int:
    """How many of `shared` tokens spare `request` decoding its own; the last is left to decode.

    If it wants its prompt's log probabilities, they must be there too: a row tells of the token
    that follows it, so one more token must be the same.
    """
    if request.reuse is Reuse.NONE:
        return 0
    shared = min(shared, len(request.prompt) - 1)
    if request.prompt_logprobs is None:
        return shared
    if not scored or n_top < request.prompt_logprobs:
        return 0
    return max(0, min(shared - 1, n_scores))


def longest_waiting(running: Sequence[tuple[Slot, Request]]) -> list[tuple[Slot, Request]]:
    """The one of `running` that has waited longest for a step, and all with the same adapters."""
    if not running:
        return []
    first, _ = min(running, key=lambda pair: pair[0].turn)
    return [pair for pair in running if pair[0].scales == first.scales]
