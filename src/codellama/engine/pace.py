"""How long drafts should be: pure arithmetic over what has been measured.

A drafted token is one more row in the next step. It pays if the tokens it is expected to bring, at the
measured acceptance of its kind, cost less time than they would one step at a time, at the measured time
of steps with that many rows. So drafts become shorter when guesses fail and when many requests run at
once, and stop when they do not pay; a rare short probe notices when that changes.
"""

from __future__ import annotations

import heapq
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# A draft must promise this much more speed than none: below, the estimate is noise.
MARGIN = 1.03
# And a drafted token per request is never taken to cost less than this share of a step.
LEAST_ROW = 0.02
# llama.cpp's matrix products take so many rows at once: beyond the first few only whole blocks are weighed.
ROW_BLOCK = 4
# A row that was never measured is taken to cost this share of a step with one row.
GUESSED_ROW = 0.05
PROBE_LENGTH = 2
FIRST_PROBE, LAST_PROBE = 16, 512  # tokens without a draft before a probe; doubled when it fails
FORGET_EVERY = 512  # steps
_FADE = 0.95
_PRIOR_TRIALS = 4.0
_OUTLIER = 2.0
# How far a step moves the estimate of all steps, and that of steps with as many rows against the others:
# other programs slow the machine down for seconds, which must not look like a price of rows.
_SPEED, _SHAPE = 0.3, 0.1


@dataclass
class Acceptance:
    """The chance that a drafted token is right: right ones among those tested, the latest count most."""

    hits: float = 0.0
    trials: float = 0.0

    def learn(self, hits: int, trials: int) -> None:
        """Of `trials` tested tokens `hits` were right."""
        fade = _FADE**trials
        self.hits = self.hits * fade + hits
        self.trials = self.trials * fade + trials

    def chance(self, prior: float) -> float:
        """The estimate, between `prior` and what was measured."""
        return (self.hits + prior * _PRIOR_TRIALS) / (self.trials + _PRIOR_TRIALS)


class StepTimes:
    """Measured seconds of steps by their number of rows, and an estimate for numbers not yet seen."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}  # at the speed 1
        self._speed = 1.0  # of the machine now: a factor for all
        self._rows: list[int] = []  # that are known, ascending
        self._fresh: set[int] = set()
        self._count = 0

    def learn(self, rows: int, seconds: float) -> None:
        """A step with `rows` rows took `seconds`; a single slow one does not count in full."""
        self._forget_old()
        self._fresh.add(rows)
        if rows not in self._seconds:
            if self._seconds:
                seconds = min(seconds, _OUTLIER * self.seconds(rows))
            self._seconds[rows] = seconds / self._speed
            self._rows = sorted(self._seconds)
            return
        off = min(seconds / self.seconds(rows), _OUTLIER) - 1
        self._speed *= 1 + _SPEED * off
        self._seconds[rows] *= 1 + _SHAPE * off

    def _forget_old(self) -> None:
        """Times not seen again for long may be of another load: better guess than believe them."""
        self._count += 1
        if self._count % FORGET_EVERY == 0:
            self._seconds = {r: s for r, s in self._seconds.items() if r in self._fresh}
            self._rows = sorted(self._seconds)
            self._fresh.clear()

    def seconds(self, rows: int) -> float:
        """The estimate: measured, between the measured neighbours, or the nearest one plus a guess."""
        known = self._seconds.get(rows)
        if known is not None:
            return known * self._speed
        place = bisect(self._rows, rows)
        if not 0 < place < len(self._rows):
            return self._beyond(rows, self._rows[max(0, place - 1)] if self._rows else None)
        below, above = self._rows[place - 1], self._rows[place]
        low, high = self._seconds[below], self._seconds[above]
        return (low + (high - low) * (rows - below) / (above - below)) * self._speed

    def _beyond(self, rows: int, nearest: int | None) -> float:
        if nearest is None:
            return 1.0 + GUESSED_ROW * rows  # only ratios count
        known = self._seconds[nearest] * self._speed
        return known + known * GUESSED_ROW / (1 + GUESSED_ROW * nearest) * (rows - nearest)


@dataclass
class Probe:
    """When to try a draft again although it is not expected to pay."""

    interval: int = FIRST_PROBE
    waited: int = 0

    def due(self) -> bool:
        """Called once per token without a draft."""
        self.waited += 1
        return self.waited >= self.interval

    def learn(self, hits: int, trials: int) -> None:
        """A draft was tested: ask soon again if most of it was right, later if not."""
        self.waited = 0
        self.interval = FIRST_PROBE if 2 * hits >= trials else min(2 * self.interval, LAST_PROBE)


@dataclass(frozen=True)
class Candidate:
    """A draft that could be made: its chance per token, the most tokens of use, whose time it takes."""

    chance: float
    most: int
    source: int = 0

    def promise(self, length: int) -> float:
        """Tokens that may be expected of all that could follow the first `length`."""
        following = self.chance ** (length + 1)
        left = self.most - length
        return min(float(left), following / (1 - self.chance)) if self.chance < 1 else float(left)


@dataclass
class _Trial:
    """Lengths under consideration, and what they promise."""

    lengths: list[int]
    tokens: float
    rows: int
    longest: dict[int, int] = field(default_factory=dict)  # per source

    def grow(self, index: int, candidate: Candidate) -> None:
        length = self.lengths[index] = self.lengths[index] + 1
        self.rows += 1
        self.tokens += candidate.chance**length
        if length > self.longest.get(candidate.source, 0):
            self.longest[candidate.source] = length


def choose_lengths(
    candidates: Sequence[Candidate],
    n_decoding: int,
    room: int,
    step_seconds: Callable[[int], float],
    token_seconds: Sequence[float] = (0.0,),
) -> list[int]:
    """A length per candidate, 0 for none: the ones that promise most tokens per second.

    `n_decoding` requests get a token each in any case; `room` is the most drafted tokens in all.
    `step_seconds` is a step's time by rows, `token_seconds` what a drafted token costs by source.
    """
    trial = _Trial([0] * len(candidates), float(n_decoding), n_decoding)
    base = step_seconds(n_decoding)
    best_rate, best = MARGIN * trial.tokens / base, list(trial.lengths)
    heap = [(-c.chance, i) for i, c in enumerate(candidates) if c.most > 0]
    heapq.heapify(heap)
    most = n_decoding + room
    while heap and trial.rows < most:
        _, i = heapq.heappop(heap)
        candidate = candidates[i]
        trial.grow(i, candidate)
        if trial.lengths[i] < candidate.most:
            heapq.heappush(heap, (-(candidate.chance ** (trial.lengths[i] + 1)), i))
        if trial.rows > ROW_BLOCK and trial.rows % ROW_BLOCK and heap and trial.rows < most:
            continue
        least = base * (1 + LEAST_ROW * (trial.rows / n_decoding - 1))
        seconds = max(step_seconds(trial.rows), least)
        for source, length in trial.longest.items():
            seconds += token_seconds[source] * length
        if trial.tokens > best_rate * seconds:
            best_rate, best = trial.tokens / seconds, list(trial.lengths)
            continue
        promised = sum(map(Candidate.promise, candidates, trial.lengths))
        if trial.tokens + promised < best_rate * seconds:
            break  # with more rows a step only takes longer
    return best
