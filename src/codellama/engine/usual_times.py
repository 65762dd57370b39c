"""What steps usually take, by their number of rows and their place in a prompt, so that any two compare.

Pure arithmetic. Steps of up to sixteen rows are alike if they have as many. Of larger ones those within a
power of two are alike, by the time of a row. A row takes longer the more others it attends to, in a straight
line, whose slope is found from steps of long prompts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

# How far a step moves what is usual, at least.
FOLLOW = 0.02
_LARGEST_EXACT = 16  # rows
# The slope is the median of so many, each of two steps of which one is at so many times the other's position,
# and so many positions apart. A row that attends to 64 others takes at most twice as long as one that attends
# to none.
_SLOPES, _TIMES, _APART, _STEEPEST = 15, 2.0, 128.0, 1 / 64


def size_of(rows: int) -> int:
    """Steps for which this is the same are alike."""
    return rows if rows <= _LARGEST_EXACT else -rows.bit_length()


def median(values: Sequence[float]) -> float:
    """The value in the middle; of an even number the larger of two."""
    return sorted(values)[len(values) // 2]


@dataclass
class _Usual:
    """Seconds of a step, or of a row where there are many, at mean position `depth`, from `n` steps."""

    seconds: float
    depth: float
    n: int = 0


class UsualTimes:
    """What steps take at a level of 1. The first ones of a size move it most."""

    def __init__(self) -> None:
        self._usual: dict[int, _Usual] = {}
        # What a row takes longer for each that it attends to, in times of what the first row takes.
        self._slope = 0.0
        self._slopes: deque[float] = deque(maxlen=_SLOPES)
        # Depth and seconds of the latest step, by its number of threads and its size.
        self._latest: dict[tuple[int, int], tuple[float, float]] = {}

    def ratio(self, rows: int, depth: float, seconds: float) -> float | None:
        """The time of a step of `rows` rows at mean position `depth` against the usual one; None: unknown."""
        usual = self._usual.get(size_of(rows))
        if usual is None:
            return None
        deeper = (1 + self._slope * depth) / (1 + self._slope * usual.depth)
        return _each(rows, seconds) / (usual.seconds * deeper)

    def begin(self, rows: int, depth: float, seconds: float, level: float) -> None:
        """The first step of its size took so long, at this level."""
        self._usual[size_of(rows)] = _Usual(_each(rows, seconds) / level, depth)

    def learn(self, rows: int, off: float) -> None:
        """Steps of this size took `off` times what others of the same time did."""
        usual = self._usual[size_of(rows)]
        usual.n += 1
        share = max(FOLLOW, 1 / (1 + usual.n))
        most = max(0.1, share)
        usual.seconds *= 1 + share * max(-most, min(off - 1, most))

    def seen(self, size: int) -> int:
        """From how many steps of this size it is known what they take."""
        return self._usual[size].n if size in self._usual else 0

    def compare(self, n_threads: int, rows: int, depth: float, seconds: float) -> None:
        """Learn the slope from this step and the latest one with as many threads, if they are alike."""
        key, step = (n_threads, size_of(rows)), (depth, _each(rows, seconds))
        (shallow, quick), (deep, slow) = sorted((self._latest.get(key, step), step))
        self._latest[key] = step
        if rows <= _LARGEST_EXACT or deep < max(shallow * _TIMES, shallow + _APART):
            return
        # Where the line through both is without depth, times their distance.
        at_none = quick * deep - slow * shallow
        slope = (slow - quick) / at_none if at_none > 0 else _STEEPEST
        self._slopes.append(max(0.0, min(slope, _STEEPEST)))
        self._slope = median(self._slopes)


def _each(rows: int, seconds: float) -> float:
    """Seconds of the step, or of each row where they are many."""
    return seconds if rows <= _LARGEST_EXACT else seconds / rows
