"""Drafts by a small model with the same vocabulary: its likeliest tokens, as long as it is sure of them.

It runs on the engine's thread between steps, one pass per drafted token for all requests together, and
keeps a KV cache per request of its own. A long prompt is caught up with in chunks, so that running
answers never wait for more than one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from codellama.engine.batch import Batch, Fork, Trim
from codellama.engine.drafter import Outlook, Wish
from codellama.engine.prefix import common_prefix
from codellama.engine.request import Request

_OUTLOOK = Outlook("model", 0.7)
_SMOOTHING = 0.2


class DraftRunner(Protocol):
    """The draft model's context, as the drafter sees it."""

    def run(self, batch: Batch) -> None:
        """Carry out the KV edits and decode the rows; raises if it cannot."""

    def best(self, row: int) -> tuple[int, float]:
        """The likeliest token after batch row `row`, and its probability."""

    def clear(self) -> None:
        """Forget all sequences."""

    def close(self) -> None:
        """Free everything."""


@dataclass(eq=False)
class _Cache:
    """A sequence id of the draft context and the tokens its KV cache holds."""

    id: int
    tokens: list[int] = field(default_factory=list)
    request: Request | None = None
    last_used: int = 0


@dataclass
class _Run:
    """A draft in the making."""

    cache: _Cache
    wish: Wish
    draft: list[int] = field(default_factory=list)
    row: int = -1  # of the latest pass; -1: not caught up yet


class ModelDrafter:
    """Drafts with `runner`, which has `n_slots` sequences and `cells` KV cells.

    A pass has at most `n_batch` rows, and at most `chunk` tokens are caught up with per draft. Drafts
    end at tokens with a probability below `p_min`. `foreign` ids mean something else to the draft
    model: it never proposes them, and reads `substitute` instead.
    """

    steady = False

    def __init__(
        self,
        runner: DraftRunner,
        n_slots: int,
        cells: int,
        chunk: int,
        p_min: float,
        foreign: frozenset[int] = frozenset(),
        substitute: int = 0,
    ) -> None:
        self.seconds_per_token = 0.0
        self._runner = runner
        self._caches = [_Cache(i) for i in range(n_slots)]
        self._by_request: dict[Request, _Cache] = {}
        self._cells = cells
        self._chunk = chunk
        self._p_min = p_min
        self._foreign = foreign
        self._substitute = substitute
        self._clock = 0

    def outlook(self, request: Request) -> Outlook | None:
        """A model always has an idea."""
        return _OUTLOOK

    def draft(self, wishes: Sequence[Wish]) -> list[list[int]]:
        """A draft per wish; empty while the prompt is being caught up with."""
        self._clock += 1
        batch = Batch()
        runs = [_Run(self._cache(wish.request, batch), wish) for wish in wishes]
        self._make_room(runs, batch)
        self._catch_up(runs, batch)
        if not batch.tokens:
            return [[] for _ in runs]
        self._runner.run(batch)
        active = [run for run in runs if run.row >= 0 and self._propose(run)]
        while active:
            started = time.perf_counter()
            self._pass(active)
            active = [run for run in active if self._propose(run)]
            took = time.perf_counter() - started
            before = self.seconds_per_token or took
            self.seconds_per_token = before + _SMOOTHING * (took - before)
        return [run.draft for run in runs]

    # -- one pass -----------------------------------------------------------------------------

    def _catch_up(self, runs: list[_Run], batch: Batch) -> None:
        """Rows for what the caches lack, up to the chunk; those that are then complete get a row."""
        room = self._chunk
        for run in sorted(runs, key=lambda r: len(r.wish.request.tokens) - len(r.cache.tokens)):
            known, tokens = len(run.cache.tokens), run.wish.request.tokens
            missing = tokens[known : known + room]
            room -= len(missing)
            if missing:
                self._add(batch, run.cache, missing)
            if len(run.cache.tokens) == len(tokens):
                run.row = len(batch.tokens) - 1
                batch.output_rows.append(run.row)

    def _pass(self, active: list[_Run]) -> None:
        batch = Batch()
        for run in active:
            run.row = len(batch.tokens)
            batch.output_rows.append(run.row)
            self._add(batch, run.cache, run.draft[-1:])
        self._runner.run(batch)

    def _propose(self, run: _Run) -> bool:
        """Take the likeliest token if the model is sure enough; whether the next one is wanted."""
        token, probability = self._runner.best(run.row)
        if probability < self._p_min or token in self._foreign:
            return False
        run.draft.append(token)
        return len(run.draft) < run.wish.length

    def _add(self, batch: Batch, cache: _Cache, tokens: list[int]) -> None:
        readable = tokens
        if not self._foreign.isdisjoint(tokens):
            readable = [self._substitute if t in self._foreign else t for t in tokens]
        batch.add(readable, len(cache.tokens), cache.id)
        cache.tokens += tokens
        cache.last_used = self._clock

    # -- caches -------------------------------------------------------------------------------

    def _cache(self, request: Request, batch: Batch) -> _Cache:
        """The request's cache, cut to what agrees with its tokens; the last one is left to decode."""
        cache = self._by_request.get(request)
        if cache is None:
            cache = self._by_request[request] = self._new_cache(request, batch)
        _keep(cache, _shared(cache, request), batch)
        return cache

    def _new_cache(self, request: Request, batch: Batch) -> _Cache:
        """The free cache that shares most, or the stalest one, forked from the one that does."""
        free = [cache for cache in self._caches if cache.request is None]
        donor = max(self._caches, key=lambda c: (_shared(c, request), c.request is None))
        shared = _shared(donor, request)
        chosen = donor if donor in free else min(free, key=lambda c: c.last_used)
        chosen.request = request
        if chosen is not donor and shared:
            batch.edits.append(Fork(donor.id, chosen.id, shared))
            chosen.tokens = donor.tokens[:shared]
        return chosen

    def _make_room(self, runs: list[_Run], batch: Batch) -> None:
        """Drop caches of others, the ended and the stalest first, until all drafts fit."""
        busy = {run.cache for run in runs}
        needed = sum(len(run.wish.request.tokens) + run.wish.length for run in runs)
        others = [cache for cache in self._caches if cache not in busy and cache.tokens]
        held = sum(len(cache.tokens) for cache in others)
        for cache in sorted(others, key=lambda c: (c.request is not None, c.last_used)):
            if needed + held <= self._cells:
                return
            held -= len(cache.tokens)
            _keep(cache, 0, batch)

    def forget(self, request: Request) -> None:
        """The request has ended; its cache stays for one that begins alike."""
        cache = self._by_request.pop(request, None)
        if cache is not None:
            cache.request = None

    def reset(self) -> None:
        """Forget all caches."""
        self._runner.clear()
        for cache in self._caches:
            cache.tokens.clear()

    def close(self) -> None:
        """Free the draft model's context."""
        self._runner.close()


def _shared(cache: _Cache, request: Request) -> int:
    return min(common_prefix(cache.tokens, request.tokens), len(request.tokens) - 1)


def _keep(cache: _Cache, n: int, batch: Batch) -> None:
    if len(cache.tokens) > n:
        batch.edits.append(Trim(cache.id, n))
        del cache.tokens[n:]
