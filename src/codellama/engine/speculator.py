"""Speculative decoding: who guesses, how long, and what came of it.

Before a step the engine asks for drafts; `Speculator` takes the most promising drafter for each
request, lets `pace` choose the lengths, and writes the guesses to `Request.draft`. After the step it
learns how many were right and how long it took. A drafter that raises is dropped: requests go on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from codellama.engine.drafter import Drafter, Outlook, Wish
from codellama.engine.pace import (
    FIRST_PROBE,
    PROBE_LENGTH,
    Acceptance,
    Candidate,
    Probe,
    StepTimes,
    choose_lengths,
)
from codellama.engine.request import Request

log = logging.getLogger("codellama.engine")

# A new request is tried so much sooner than the one before that drafts did not pay for.
BOLDER = 8


@dataclass
class _History:
    """What is known of one request's drafts."""

    kind: str = ""  # of the latest draft
    acceptance: dict[str, Acceptance] = field(default_factory=dict)
    probe: Probe = field(default_factory=Probe)


@dataclass(frozen=True)
class _Idea:
    """A draft that `drafter` could make for `request`."""

    request: Request
    drafter: Drafter
    kind: str
    candidate: Candidate


class Speculator:
    """Asks the most promising of `drafters` for drafts of up to `n_max` tokens per request."""

    def __init__(self, drafters: Sequence[Drafter] = (), n_max: int = 0) -> None:
        self._drafters = list(drafters)
        self._n_max = n_max
        self._histories: dict[Request, _History] = {}
        self._overall: dict[str, Acceptance] = {}
        self._times = StepTimes()
        self._patience = FIRST_PROBE  # between the latest request's probes, in tokens

    @property
    def active(self) -> bool:
        """Whether anybody guesses at all."""
        return bool(self._drafters) and self._n_max > 0

    def propose(self, requests: Sequence[Request], room: int) -> None:
        """Set `draft` of the requests that are being decoded, `room` tokens in all at most."""
        if not self.active:
            return
        for request in requests:
            if request.steady:
                room -= self._draft_steadily(request, room)
        if room <= 0:
            return
        ideas = [idea for s in requests if (idea := self._idea(s)) is not None]
        if not ideas:
            return
        lengths = choose_lengths(
            [idea.candidate for idea in ideas],
            len(requests),
            room,
            self._times.seconds,
            [drafter.seconds_per_token for drafter in self._drafters],
        )
        room -= sum(lengths)
        for i, idea in enumerate(ideas):
            if not lengths[i] and room >= PROBE_LENGTH and self._history(idea).probe.due():
                lengths[i] = min(PROBE_LENGTH, idea.candidate.most)
                room -= lengths[i]
        self._draft([(idea, n) for idea, n in zip(ideas, lengths, strict=True) if n])

    def _idea(self, request: Request) -> _Idea | None:
        most = min(self._n_max, request.draft_limit)
        if most <= 0 or request.steady:
            return None
        best: _Idea | None = None
        for source, drafter in enumerate(self._drafters):
            outlook = drafter.outlook(request)
            if outlook is None:
                continue
            candidate = Candidate(self._chance(request, outlook), most, source)
            if best is None or candidate.chance > best.candidate.chance:
                best = _Idea(request, drafter, outlook.kind, candidate)
        return best

    def _draft_steadily(self, request: Request, room: int) -> int:
        """Have a steady drafter guess as much as it can, whatever steps took: the number of tokens."""
        most = min(self._n_max, request.draft_limit, room)
        for drafter in self._drafters:
            if most > 0 and drafter.steady:
                outlook = drafter.outlook(request)
                if outlook is not None:
                    candidate = Candidate(self._chance(request, outlook), most)
                    self._draft([(_Idea(request, drafter, outlook.kind, candidate), most)])
                    return len(request.draft)
        return 0

    def _chance(self, request: Request, outlook: Outlook) -> float:
        """What the sequence's own drafts of this kind showed, beginning with what all showed."""
        overall = self._overall.setdefault(outlook.kind, Acceptance())
        history = self._histories.get(request)
        if history is None:
            # Texts that follow each other are often alike: begin nearer to what held.
            probe = Probe(max(FIRST_PROBE, self._patience // BOLDER))
            history = self._histories[request] = _History(probe=probe)
        own = history.acceptance.setdefault(outlook.kind, Acceptance())
        return own.chance(overall.chance(outlook.chance))

    def _history(self, idea: _Idea) -> _History:
        return self._histories[idea.request]

    def _draft(self, wanted: list[tuple[_Idea, int]]) -> None:
        for drafter in list(self._drafters):
            mine = [(idea, n) for idea, n in wanted if idea.drafter is drafter]
            if not mine:
                continue
            try:
                drafts = drafter.draft([Wish(idea.request, n) for idea, n in mine])
            except Exception as error:
                self._drop(drafter, error)
                continue
            for (idea, _), draft in zip(mine, drafts, strict=True):
                idea.request.draft = draft[: idea.request.sampler.fitting(draft)]
                self._history(idea).kind = idea.kind

    def _drop(self, drafter: Drafter, error: Exception) -> None:
        log.error("drafting failed and is off from now on: %s", error)
        self._drafters.remove(drafter)
        drafter.close()

    def learn(self, request: Request, hits: int, trials: int) -> None:
        """Of a request's draft `trials` tokens were tested and `hits` were right."""
        history = self._histories.get(request)
        if history is None or not trials:
            return
        history.acceptance[history.kind].learn(hits, trials)
        self._overall[history.kind].learn(hits, trials)
        history.probe.learn(hits, trials)
        self._patience = history.probe.interval

    def learn_time(self, rows: int, seconds: float) -> None:
        """A step that only decoded answers, with this many rows, took so long with all around it."""
        self._times.learn(rows, seconds)

    def restart(self, request: Request) -> None:
        """The request's tokens are not those of before with more behind them: its context has shifted."""
        for drafter in self._drafters:
            drafter.forget(request)

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._histories.pop(request, None)
        for drafter in self._drafters:
            drafter.forget(request)

    def check_integrity(self, live: Sequence[Request]) -> None:
        """Assert that nothing is kept of requests that have ended; for tests."""
        assert self._histories.keys() <= set(live)

    def reset(self) -> None:
        """A step has failed and the cache is empty."""
        for drafter in list(self._drafters):
            try:
                drafter.reset()
            except Exception as error:
                self._drop(drafter, error)

    def close(self) -> None:
        """Free the drafters."""
        for drafter in self._drafters:
            drafter.close()
        self._drafters.clear()
