"""Huge pages for the large buffers that llama.cpp allocates, where Linux gives them only to who asks.

The weights that llama.cpp rearranges for the processor, the KV cache and the scratch of a context are
walked through by every step; in pages of 4 KiB the processor spends a few percent of its time on finding
them. llama.cpp has no option for it, so the new mappings are found in the process's map and advised
afterwards. Without Linux, or if it refuses, nothing happens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from codellama.system import madvise

Range = tuple[int, int]
"""Addresses from the first up to, but not including, the second."""

HUGE = 2 << 20  # bytes; x86 and most arm64 kernels
_MAPS = Path("/proc/self/maps")
_ANONYMOUS = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0\s*$", re.MULTILINE)
_MADV_HUGEPAGE = 14  # linux/mman.h
_MADV_COLLAPSE = 25  # since Linux 6.1; older ones do it by and by


class NewMemory:
    """What this process has allocated in large pieces since this was made, by whichever thread."""

    def __init__(self) -> None:
        self._before = anonymous(_read_maps())

    def want_huge_pages(self) -> None:
        """Ask for huge pages where nothing has been written yet."""
        for start, end in self._pieces():
            _advise(start, end)

    def make_pages_huge(self) -> None:
        """The same, and gather in huge pages what has been written."""
        for start, end in self._pieces():
            if _advise(start, end):
                _collapse(start, end)

    def _pieces(self) -> list[Range]:
        new = without(anonymous(_read_maps()), self._before)
        whole = [(-(-start // HUGE) * HUGE, end // HUGE * HUGE) for start, end in new]
        return [(start, end) for start, end in whole if start < end]


def anonymous(maps: str) -> list[Range]:
    """The private anonymous mappings of a /proc/PID/maps."""
    return [(int(m[1], 16), int(m[2], 16)) for m in _ANONYMOUS.finditer(maps)]


def without(ranges: Iterable[Range], taken: Iterable[Range]) -> list[Range]:
    """The parts of `ranges` that are in none of `taken`; both ascending and disjoint."""
    parts: list[Range] = []
    holes = sorted(taken)
    for start, end in ranges:
        for low, high in holes:
            if high <= start or low >= end:
                continue
            if start < low:
                parts.append((start, low))
            start = high
        if start < end:
            parts.append((start, end))
    return parts


def _read_maps() -> str:
    try:
        return _MAPS.read_text("ascii", "replace")
    except OSError:
        return ""


def _advise(start: int, end: int) -> bool:
    return madvise(start, end - start, _MADV_HUGEPAGE)


def _collapse(start: int, end: int) -> None:
    for address in range(start, end, HUGE):  # one by one: it stops at memory nobody has touched yet
        madvise(address, HUGE, _MADV_COLLAPSE)
