"""How much of the processors other programs leave to this process, as Linux counts it in /proc/stat.

What was not used, or only by programs of a lower priority, and what this process used itself. A quota of a
container bounds it. Where there is no /proc/stat nothing is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from codellama import system

# Linux counts in hundredths of a second, so less than this tells little; and reading may take this part of
# the time at most.
LEAST_S, MOST_COST = 0.1, 0.001
# The fields of a processor's line (proc_stat(5)): user, nice, system, idle, iowait ...
_NICE, _IDLE, _IOWAIT = 2, 4, 5


class ProcessorTime:
    """Of the processors `cpus`, of which a container may use `quota` processors' worth of time.

    `root` has the folder proc. `clock`, `own` and `cost` give seconds: of any clock, and of processor time of
    this process and this thread.
    """

    def __init__(
        self,
        cpus: Collection[int],
        quota: float | None = None,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.perf_counter,
        own: Callable[[], float] = time.process_time,
        cost: Callable[[], float] = time.thread_time,
    ) -> None:
        self._names = frozenset(f"cpu{cpu}".encode() for cpu in cpus)
        self._most = min(len(cpus), quota or len(cpus))
        self._file = root / "proc" / "stat"
        self._clock, self._own, self._cost = clock, own, cost
        self._interval = LEAST_S
        self._fields = (_IDLE, _IOWAIT) if system.is_nice() else (_NICE, _IDLE, _IOWAIT)
        self._tick = system.clock_tick()
        self._last = self._read()

    def restart(self) -> None:
        """Forget what was: the next answer is about the time from now on."""
        self._last = self._read()

    def since(self) -> tuple[float, float] | None:
        """Processors' worth of time since the last answer: what was left here, and what others took.

        None: not yet again, or nothing tells.
        """
        if self._last is None or self._clock() - self._last[0] < self._interval:
            return None
        now, before = self._read(), self._last
        self._last = now
        if now is None:
            return None
        left = (now[1] - before[1]) / (now[0] - before[0])
        return min(self._most, left), max(0.0, len(self._names) - left)

    def _read(self) -> tuple[float, float] | None:
        """The time, and seconds that were left to this process until then."""
        began, cost = self._clock(), self._cost()
        try:
            lines = self._file.read_bytes().splitlines()
        except OSError:
            return None
        left = self._own()
        found = 0
        for line in lines:
            parts = line.split()
            if parts and parts[0] in self._names and len(parts) > _IOWAIT:
                left += sum(int(parts[field]) for field in self._fields) * self._tick
                found += 1
        self._interval = max(LEAST_S, (self._cost() - cost) / MOST_COST)
        return (began, left) if found == len(self._names) else None
