"""A made-up machine for the policy of threads: cores of different speeds, other programs, noise.

A step has a part that one thread does alone, a part that all share, and a wait for memory that no thread
shortens below its bandwidth. All threads meet, so a step takes as long as its slowest thread. A core that
another program takes gives half of its time, in slices: some steps escape, some wait for a whole one. More
threads than cores get a part of each core, so the slowest shares it with as many as do so most.

Where it `tells`, it says how much of its cores other programs leave.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from codellama.engine.thread_count import ThreadCount

SLICE = 0.004  # seconds that the other program has the core for
TOLD_S = 0.1  # seconds between two answers to how much is free


@dataclass
class SimulatedMachine:
    """`speeds` are the cores', the quickest first. `work` is the seconds of a step with one row on one core
    of speed 1, `alone` the share that only one thread does, `bandwidth` the most cores that memory feeds.

    `noise` is the standard deviation of a step's time; one step in `burst_every` takes ten times as long.
    """

    speeds: Sequence[float]
    work: float = 0.008
    alone: float = 0.03
    bandwidth: float = 1000.0
    noise: float = 0.02
    burst_every: int = 0
    taken: int = 0
    tells: bool = False
    seed: int = 0
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def seconds(self, n: int, rows: int = 1) -> float:
        """What a step with `n` threads takes now."""
        time = self.plain(n, rows)
        contended = max(0, n + self.taken - len(self.speeds))
        if n > len(self.speeds):
            return time * max(0.5, self.rng.gauss(1, self.noise))
        if (
            contended
        ):  # the slowest of them: it shares its core, and comes late by what is left of a slice
            time *= 1.8
            late = max(self.rng.random() for _ in range(min(contended, 4)))
            time += 3 * SLICE * late if self.rng.random() < 0.9 else 0.0
        if self.burst_every and self.rng.random() < 1 / self.burst_every:
            time *= 10
        return time * max(0.5, self.rng.gauss(1, self.noise))

    def plain(self, n: int, rows: int = 1) -> float:
        """The same on a quiet machine without noise."""
        work = self.work * (0.75 + 0.25 * rows)
        cores = len(self.speeds)
        slowest = self.speeds[min(n, cores) - 1]
        shared = work * (1 - self.alone) / min(n * slowest, self.bandwidth)
        if n > cores:  # a crowd that meets too often wakes its sleepers for nothing
            return work * self.alone + shared * math.ceil((n + self.taken) / cores) + SLICE
        waits = 0.00001 * n  # of meeting
        return work * self.alone + shared + waits

    def free(self, n: int) -> float:
        """Cores' worth of time that other programs leave to `n` threads."""
        cores = len(self.speeds)
        crowd = math.ceil(max(n + self.taken, cores) / cores)
        shared = min(self.taken, max(0, n + self.taken - cores))
        return cores - (self.taken - shared) - shared / max(2, crowd)

    def best(self, rows: int = 1) -> int:
        """The number of threads with the shortest steps on a quiet machine, of the cores that are free."""
        free = len(self.speeds) - self.taken
        return min(range(1, free + 1), key=lambda n: self.plain(n, rows))


@dataclass
class Run:
    """What came of steps: the seconds of all, and the number of threads that was settled on after each."""

    seconds: float = 0.0
    counts: list[tuple[float, int]] = field(default_factory=list)

    @property
    def changes(self) -> int:
        """How often the settled number changed."""
        numbers = [n for _, n in self.counts]
        return sum(a != b for a, b in zip(numbers, numbers[1:], strict=False))

    def reached(self, low: int, high: int) -> float:
        """Seconds until the number was in this range; all of them if it never was."""
        return next((s for s, n in self.counts if low <= n <= high), self.seconds)


def run(
    machine: SimulatedMachine, count: ThreadCount, seconds: float, rows: Sequence[int] = (1,)
) -> Run:
    """Let `count` decide for so many seconds of steps, with rows in turn."""
    found = Run()
    told = 0.0
    while found.seconds < seconds:
        size = rows[len(found.counts) % len(rows)]
        n = count.choose()
        time = machine.seconds(n, size)
        found.seconds += time
        if machine.tells and found.seconds - told >= TOLD_S:
            told = found.seconds
            free = machine.free(n) + machine.rng.gauss(0, 0.08)
            count.heard(free, max(0.0, len(machine.speeds) - free))
        count.learn(size, time)
        found.counts.append((found.seconds, count.n))
    return found
