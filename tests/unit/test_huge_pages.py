"""Which memory gets huge pages: what is new, and nothing else."""

from __future__ import annotations

import mmap
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codellama.native.huge_pages import HUGE, NewMemory, anonymous, without

MAPS = """\
55d0a0000000-55d0a0100000 r-xp 00000000 fe:00 1234                       /usr/bin/python3
55d0a0200000-55d0a0300000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
7f0000400000-7f0000500000 r--p 00000000 00:00 0
7f0000600000-7f0000700000 rw-s 00000000 00:01 77                         /dev/zero (deleted)
7f0000800000-7f0000900000 rw-p 00000000 00:00 0
"""


def test_anonymous_mappings() -> None:
    assert anonymous(MAPS) == [
        (0x7F0000000000, 0x7F0000400000),
        (0x7F0000800000, 0x7F0000900000),
    ]
    assert anonymous("") == []


@pytest.mark.parametrize(
    ("ranges", "taken", "left"),
    [
        ([(0, 10)], [], [(0, 10)]),
        ([(0, 10)], [(0, 10)], []),
        ([(0, 10)], [(2, 4), (6, 12)], [(0, 2), (4, 6)]),
        ([(0, 10), (20, 30)], [(10, 20)], [(0, 10), (20, 30)]),
        ([(5, 10)], [(0, 6)], [(6, 10)]),
    ],
)
def test_without(
    ranges: list[tuple[int, int]], taken: list[tuple[int, int]], left: list[tuple[int, int]]
) -> None:
    assert without(ranges, taken) == left


def huge_kilobytes() -> int:
    text = Path("/proc/self/smaps_rollup").read_text("ascii")
    found = re.search(r"AnonHugePages:\s+(\d+) kB", text)
    return int(found[1]) if found else 0


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are Linux's")
@pytest.mark.parametrize(
    ("how", "written"),
    [
        (NewMemory.want_huge_pages, 0),
        (NewMemory.want_huge_pages, 8),
        (NewMemory.make_pages_huge, 0),
        (NewMemory.make_pages_huge, 8),
        (NewMemory.make_pages_huge, 16),
    ],
)
def test_new_memory_gets_them(how: Callable[[NewMemory], None], written: int) -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text("ascii"):
        pytest.skip("this kernel gives nobody huge pages")
    before = huge_kilobytes()
    new = NewMemory()
    memory = mmap.mmap(-1, 16 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[(16 - written) * HUGE :] = bytes(written * HUGE)
    how(new)
    memory[:] = bytes(16 * HUGE)
    late = written if how is NewMemory.want_huge_pages else 0
    assert huge_kilobytes() - before >= (16 - late - 2) * HUGE // 1024
    memory.close()
