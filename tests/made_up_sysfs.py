"""Made-up `/sys` and `/proc` of machines: cores, their threads, sockets and nodes, and control groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def write(root: Path, path: str, text: object) -> None:
    """A file with a line."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{text}\n")


def machine(
    root: Path,
    cores: Sequence[Sequence[int]],
    *,
    sockets: int = 1,
    nodes: int = 1,
    capacities: Mapping[int, int] | None = None,
    clocks: Mapping[int, int] | None = None,
    atoms: str = "",
) -> Path:
    """`cores` are lists of hardware threads, shared out evenly to sockets and NUMA nodes."""
    cpus = sorted(cpu for core in cores for cpu in core)
    write(root, "sys/devices/system/cpu/online", f"0-{cpus[-1]}")
    for number, core in enumerate(cores):
        for cpu in core:
            folder = f"sys/devices/system/cpu/cpu{cpu}"
            write(root, f"{folder}/topology/thread_siblings_list", ",".join(map(str, core)))
            socket = number * sockets // len(cores)
            write(root, f"{folder}/topology/physical_package_id", socket)
            if capacities:
                write(root, f"{folder}/cpu_capacity", capacities[cpu])
            if clocks:
                write(root, f"{folder}/cpufreq/cpuinfo_max_freq", clocks[cpu])
    for node in range(nodes):
        mine = [c for n, core in enumerate(cores) if n * nodes // len(cores) == node for c in core]
        write(root, f"sys/devices/system/node/node{node}/cpulist", ",".join(map(str, sorted(mine))))
    if atoms:
        write(root, "sys/devices/cpu_atom/cpus", atoms)
    return root


def groups_v2(
    root: Path, group: str, limits: Mapping[str, str], *, mounted: str = "/", point: str = ""
) -> None:
    """Control groups of version 2: the process is in `group`; `limits` are `cpu.max` by folder below the
    mount; `mounted` is the group that this process sees as the root."""
    point = point or "/sys/fs/cgroup"
    write(root, "proc/self/cgroup", f"0::{group}")
    line = f"31 23 0:28 {mounted} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
    write(root, "proc/self/mountinfo", f"22 1 8:1 / / rw - ext4 /dev/sda rw\n{line}")
    for folder, limit in limits.items():
        write(root, f"{point}/{folder}/cpu.max".lstrip("/"), limit)


def groups_v1(
    root: Path, group: str, limits: Mapping[str, tuple[int, int]], *, mounted: str = "/"
) -> None:
    """The same of version 1: a quota and a period in microseconds."""
    write(root, "proc/self/cgroup", f"5:memory:/x\n4:cpu,cpuacct:{group}\n0::/")
    point = "/sys/fs/cgroup/cpu,cpuacct"
    line = f"33 31 0:30 {mounted} {point} rw - cgroup cgroup rw,cpu,cpuacct"
    write(
        root,
        "proc/self/mountinfo",
        f"{line}\n34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    )
    for folder, (quota, period) in limits.items():
        write(root, f"{point}/{folder}/cpu.cfs_quota_us".lstrip("/"), quota)
        write(root, f"{point}/{folder}/cpu.cfs_period_us".lstrip("/"), period)
