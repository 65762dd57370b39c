"""How much processor time Linux's control groups leave to this process, their parents' limits included.

Documentation/scheduler/sched-bwc and admin-guide/cgroup-v2 describe the files. Pure over a folder: `root`
holds `proc` and `sys`, which tests make up.
"""

from __future__ import annotations

from pathlib import Path

from codellama.devices.control_groups import group_folders, lines_of


def read_quota(root: Path) -> float | None:
    """The cores' worth of time that this process's group, or the tightest one above it, may take; None if
    none of them has a limit."""
    limits = [_limit(folder, version) for folder, version in group_folders(root, "cpu")]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(folder: Path, version: int) -> float | None:
    if version == 2:
        quota, _, period = " ".join(lines_of(folder / "cpu.max")).partition(" ")
    else:
        quota = "".join(lines_of(folder / "cpu.cfs_quota_us"))
        period = "".join(lines_of(folder / "cpu.cfs_period_us"))
    if not quota.isdecimal() or not period.isdecimal() or not int(quota) or not int(period):
        return None  # "max", -1, or no such file
    return int(quota) / int(period)
