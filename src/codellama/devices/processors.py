"""The processors that this process may use, and the number of threads that is right to begin with.

`read_processors` looks at Linux's folders under a root, which tests make up; `choose_threads` is pure. The
number is one per core: two hardware threads of a core share its arithmetic. Slower cores are left out,
because all threads meet many times a token and would wait for them. So are other sockets, whose memory is
far. And there are no more threads than a quota is good for: one too many uses it up early, and all stand
still until the next period. A trial of a few steps would not show that, so none is made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from codellama import system
from codellama.devices.quota import read_quota

# Cores with less than this share of the quickest one's capacity or clock are efficiency cores: Intel's have
# 0.73 to 0.78, ARM's little ones at most 0.5. Clocks of equal cores differ by a few percent.
LEAST_CAPACITY = 0.8
# A thread for the last part of a quota is worth it from this part on. With a quota of 1.75 two threads stand
# still for an eighth of the time. Measured with a quota of 1.5: one thread 241 tokens/s, two 231.
LAST_PART = 0.75


@dataclass(frozen=True)
class Core:
    """A core that this process may use: its hardware threads (those allowed), socket and NUMA node, and
    its speed against the quickest core's."""

    cpus: tuple[int, ...]
    socket: int = 0
    node: int = 0
    capacity: float = 1.0


@dataclass(frozen=True)
class Processors:
    """The machine has `n_cpus` hardware threads; `cores` are those that this process may use.

    `quota` is how many cores' time a container may take; None: as much as there is.
    """

    n_cpus: int
    cores: tuple[Core, ...]
    quota: float | None = None

    @property
    def n_allowed(self) -> int:
        """Hardware threads that this process may use."""
        return sum(len(core.cpus) for core in self.cores)

    @property
    def most(self) -> int:
        """The most threads worth a try: one per core, of whatever kind, as far as a quota goes."""
        if self.quota is None:
            return len(self.cores)
        return max(1, min(len(self.cores), math.floor(self.quota + 1 - LAST_PART)))


ONE_CORE = Processors(1, (Core((0,)),))
"""A machine with nothing to choose."""


@dataclass(frozen=True)
class ThreadChoice:
    """How many threads to begin with, the most that are worth a try, and why, in words."""

    n: int
    most: int
    reason: str


def choose_threads(processors: Processors) -> ThreadChoice:
    """The number of threads to begin with on these processors."""
    cores = processors.cores
    words: list[str] = []
    if processors.n_allowed < processors.n_cpus:
        words.append(f"{processors.n_allowed} of {processors.n_cpus} processors are allowed")
    if processors.n_allowed > len(cores):
        words.append(f"{processors.n_allowed} hardware threads are {len(cores)} cores")
    quick = [core for core in cores if core.capacity >= LEAST_CAPACITY]
    if len(quick) < len(cores):
        words.append(f"{len(cores) - len(quick)} efficiency cores are left out")
    sockets = Counter(core.socket for core in quick)
    n = max(sockets.values())
    if len(sockets) > 1:
        words.append(f"one of {len(sockets)} sockets, whose memory is near")
    elif (nodes := len({core.node for core in quick})) > 1:
        words.append(f"{nodes} NUMA nodes of one socket")
    if processors.quota is not None and processors.quota < n:
        n = min(n, processors.most)
        words.append(f"a quota of {processors.quota:g} cores")
    kind = "performance core" if len(quick) < len(cores) else "core"
    reason = "; ".join([f"one per {kind}", *words])
    return ThreadChoice(n, max(n, processors.most), reason)


def this_processors() -> Processors:
    """What this process may use now. Where there is no Linux: one core per processor."""
    return read_processors(Path("/"), system.processors())


def read_processors(root: Path, affinity: Iterable[int]) -> Processors:
    """The processors by the folders `sys` and `proc` under `root`; of them this process may use `affinity`.

    What a folder does not tell is taken to be a plain machine: one thread a core, all equal, no quota.
    Documented in Linux's Documentation/ABI/stable/sysfs-devices-system-cpu and sysfs-devices-node.
    """
    allowed = sorted(affinity)
    folder = root / "sys/devices/system/cpu"
    online = parse_list(_text(folder / "online"))
    siblings: dict[tuple[int, ...], list[int]] = {}
    for cpu in allowed:
        listed = _text(folder / f"cpu{cpu}/topology/thread_siblings_list")
        siblings.setdefault(tuple(parse_list(listed)) or (cpu,), []).append(cpu)
    nodes = _nodes(root / "sys/devices/system/node")
    speeds = _speeds(root, online or allowed)
    cores = [
        Core(
            cpus=tuple(cpus),
            socket=_number(folder / f"cpu{cpus[0]}/topology/physical_package_id") or 0,
            node=nodes.get(cpus[0], 0),
            capacity=speeds.get(cpus[0], 1.0),
        )
        for cpus in siblings.values()
    ]
    quickest = max((core.capacity for core in cores), default=1.0)
    cores = [Core(c.cpus, max(0, c.socket), c.node, c.capacity / quickest) for c in cores]
    return Processors(max(len(online), len(allowed)), tuple(cores), read_quota(root))


def _speeds(root: Path, cpus: Iterable[int]) -> dict[int, float]:
    """How quick processors are against each other, by the first of three sources that tells of differences:
    Intel's list of its efficiency cores, capacities (ARM's and others'), the highest clocks."""
    small = parse_list(_text(root / "sys/devices/cpu_atom/cpus"))
    if small:
        return {cpu: 0.5 if cpu in small else 1.0 for cpu in cpus}
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        folder = root / "sys/devices/system/cpu"
        found = {cpu: _number(folder / f"cpu{cpu}" / name) for cpu in cpus}
        known = {cpu: float(value) for cpu, value in found.items() if value}
        if len(known) == len(found) and len(set(known.values())) > 1:
            return known
    return {}


def _nodes(folder: Path) -> dict[int, int]:
    """The NUMA node of each processor."""
    return {
        cpu: int(path.name.removeprefix("node"))
        for path in sorted(folder.glob("node[0-9]*"))
        for cpu in parse_list(_text(path / "cpulist"))
    }


def parse_list(text: str) -> list[int]:
    """Linux's lists of processors, such as `0-3,8,10-11`; empty if it is no such list."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            return []
        found += range(int(first), int(last or first) + 1)
    return found


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""
