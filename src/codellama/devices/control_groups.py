"""The folders of Linux's control groups that a process is in, those above its own included.

Of version 1 and of version 2, as Documentation/admin-guide/cgroup-v1 and cgroup-v2 describe them. Pure over
a folder: `root` holds `proc` and `sys`, which tests make up.
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


def group_folders(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The folders that may limit how much of `controller` ("cpu", "memory") this process gets, each with its
    version."""
    groups = _groups(root / "proc/self/cgroup", controller)
    for mount in _mounts(root / "proc/self/mountinfo", controller):
        if mount.version in groups:
            for folder in _folders(mount, groups[mount.version]):
                yield root / str(folder).lstrip("/"), mount.version


def _groups(path: Path, controller: str) -> dict[int, PurePosixPath]:
    """The group of this process in the hierarchy of version 2, and in that of the controller in version 1."""
    found: dict[int, PurePosixPath] = {}
    for line in lines_of(path):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            found[2] = PurePosixPath(group)
        elif controller in controllers.split(","):
            found[1] = PurePosixPath(group)
    return found


def _mounts(path: Path, controller: str) -> Iterator[_Mount]:
    for line in lines_of(path):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        point, group = PurePosixPath(_plain(fields[4])), PurePosixPath(_plain(fields[3]))
        if kind[0] == "cgroup2":
            yield _Mount(point, group, 2)
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            yield _Mount(point, group, 1)


def _folders(mount: _Mount, group: PurePosixPath) -> Iterator[PurePosixPath]:
    """The group's folder and those above it, as far as they can be seen here."""
    inside = group.relative_to(mount.group) if group.is_relative_to(mount.group) else None
    folder = mount.point if inside is None or ".." in inside.parts else mount.point / inside
    yield folder
    while folder != mount.point:
        folder = folder.parent
        yield folder


def _plain(field: str) -> str:
    """A field of mountinfo, where blanks and backslashes are written as octal numbers."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def lines_of(path: Path) -> list[str]:
    """The lines of a file; none if it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
