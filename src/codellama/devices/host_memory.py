"""How much main memory there is for a model: what the machine has, what is free, what a container allows.

Linux tells it in /proc/meminfo and in the files of control groups, whose texts are read here. Elsewhere
three quarters of the memory are taken for free. Sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codellama.devices.control_groups import group_folders
from codellama.system import memory_bytes

_UNLIMITED = 2**60  # control groups of version 1 write a number near 2**63 where there is no limit


@dataclass(frozen=True)
class HostMemory:
    """`total` is what there is, or what a container may take, if that is less; `available` what a new program
    can have without anybody being swapped out. What the system keeps of files counts as available."""

    total: int
    available: int


def host_memory(root: Path = Path("/")) -> HostMemory:
    """The memory of this machine now; `root` holds `proc` and `sys`, which tests make up."""
    total = memory_bytes()
    try:
        available = parse_meminfo((root / "proc/meminfo").read_text()).get("MemAvailable", total)
    except OSError:
        return HostMemory(total, total * 3 // 4)
    for found in (limit_of(*group) for group in group_folders(root, "memory")):
        if found is None:
            continue
        limit, used = found
        total, available = min(total, limit), min(available, max(0, limit - used))
    return HostMemory(total, available)


def parse_meminfo(text: str) -> dict[str, int]:
    """The lines of /proc/meminfo that are sizes."""
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    return {row[0]: int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}


def limit_of(folder: Path, version: int) -> tuple[int, int] | None:
    """Limit and use of a control group; None if it has no limit. Use is without what is kept of files."""
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}
    limit_name, use_name, kept_name = names.get(
        version, ("memory.max", "memory.current", "inactive_file")
    )
    try:
        limit = int((folder / limit_name).read_text())  # "max" is no number
        used = int((folder / use_name).read_text())
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        kept = next((int(row[1]) for row in rows if row[0] == kept_name), 0)
    except (OSError, ValueError, IndexError):
        return None
    return None if limit >= _UNLIMITED else (limit, max(0, used - kept))
