"""How much processor time Linux's control groups leave to this process, their parents' limits included.

Of version 1 and of version 2, as Documentation/scheduler/sched-bwc and admin-guide/cgroup-v2 describe them.
Pure over a folder: `root` holds `proc` and `sys`, which tests make up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class _Mount:
    """Where a hierarchy is mounted, and which of its groups that is: a container sees its own as the root."""

    point: PurePosixPath
    group: PurePosixPath
    version: int


def read_quota(root: Path) -> float | None:
    """The cores' worth of time that this process's group, or the tightest one above it, may take; None if
    none of them has a limit."""
    groups = _groups(root / "proc/self/cgroup")
    limits: list[float] = []
    for mount in _mounts(root / "proc/self/mountinfo"):
        if mount.version in groups:
            for folder in _folders(mount, groups[mount.version]):
                limit = _limit(root / str(folder).lstrip("/"), mount.version)
                limits += [] if limit is None else [limit]
    return min(limits, default=None)


def _groups(path: Path) -> dict[int, PurePosixPath]:
    """The group of this process in the hierarchy of version 2, and in that of version 1 that has `cpu`."""
    found: dict[int, PurePosixPath] = {}
    for line in _lines(path):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            found[2] = PurePosixPath(group)
        elif "cpu" in controllers.split(","):
            found[1] = PurePosixPath(group)
    return found


def _mounts(path: Path) -> Iterator[_Mount]:
    for line in _lines(path):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        point, group = PurePosixPath(_plain(fields[4])), PurePosixPath(_plain(fields[3]))
        if kind[0] == "cgroup2":
            yield _Mount(point, group, 2)
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield _Mount(point, group, 1)


def _folders(mount: _Mount, group: PurePosixPath) -> Iterator[PurePosixPath]:
    """The group's folder and those above it, as far as they can be seen here."""
    inside = group.relative_to(mount.group) if group.is_relative_to(mount.group) else None
    folder = mount.point if inside is None or ".." in inside.parts else mount.point / inside
    yield folder
    while folder != mount.point:
        folder = folder.parent
        yield folder


def _limit(folder: Path, version: int) -> float | None:
    if version == 2:
        quota, _, period = " ".join(_lines(folder / "cpu.max")).partition(" ")
    else:
        quota = "".join(_lines(folder / "cpu.cfs_quota_us"))
        period = "".join(_lines(folder / "cpu.cfs_period_us"))
    if not quota.isdecimal() or not period.isdecimal() or not int(quota) or not int(period):
        return None  # "max", -1, or no such file
    return int(quota) / int(period)


def _plain(field: str) -> str:
    """A field of mountinfo, where blanks and backslashes are written as octal numbers."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
