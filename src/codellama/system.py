"""What only some operating systems have: locks, reads at a place, advice about memory, a silent terminal.

Each function does its work everywhere. Where the system lacks a call, something slower or nothing stands in
for it, as each says. No other module asks which system this is.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BINARY = getattr(os, "O_BINARY", 0)
"""For `os.open`: bytes as they are, also on Windows."""

ASSUMED_MEMORY = 8 << 30
"""Bytes of main memory of a machine that does not tell."""

_LOCKED_BYTE = 2**31 - 2  # beyond what anybody reads: Windows locks what it locks for readers too
_moving = (
    threading.Lock()
)  # one file position serves all threads where there are no reads at a place


def _module(name: str) -> Any:
    """A module of the standard library, or None where it is not part of it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def lock(file: int) -> bool:
    """Lock an open file for this process until it is closed; False if another process has it.

    Without fcntl and msvcrt there are no locks, and this is True.
    """
    fcntl, msvcrt = _module("fcntl"), _module("msvcrt")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            with _place(file, _LOCKED_BYTE):
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True


def pread(file: int, count: int, position: int) -> bytes:
    """Up to `count` bytes from `position` on; safe from any thread."""
    if hasattr(os, "pread"):
        return os.pread(file, count, position)
    with _place(file, position):
        return os.read(file, count)


def pread_into(file: int, view: memoryview, position: int) -> int:
    """Fill the beginning of `view` from `position` on; how many bytes that were, 0 at the file's end."""
    if hasattr(os, "preadv"):
        return os.preadv(file, [view], position)
    data = pread(file, min(len(view), 1 << 20), position)
    view[: len(data)] = data
    return len(data)


def pwrite(file: int, data: memoryview, position: int) -> int:
    """Write at `position`, which leaves threads alone that write elsewhere; how many bytes were written."""
    if hasattr(os, "pwrite"):
        return os.pwrite(file, data, position)
    with _place(file, position):
        return os.write(file, data)


@contextlib.contextmanager
def _place(file: int, position: int) -> Iterator[None]:
    with _moving:
        before = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, position, os.SEEK_SET)
        try:
            yield
        finally:
            os.lseek(file, before, os.SEEK_SET)


def sync_data(file: int) -> None:
    """Wait until the file's bytes are on the disk."""
    getattr(os, "fdatasync", os.fsync)(file)


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk; nothing where folders cannot be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def processors() -> tuple[int, ...]:
    """The numbers of the processors that this process may use; all, where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def clock_tick() -> float:
    """The seconds that the system counts processor time in; 0.01 where it does not tell."""
    return 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


def is_nice() -> bool:
    """Whether this process has a lower priority than others; False where the system does not tell."""
    return hasattr(os, "getpriority") and os.getpriority(os.PRIO_PROCESS, 0) > 0


def memory_bytes() -> int:
    """Bytes of main memory, used or not; `ASSUMED_MEMORY` where nobody tells."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    windows = getattr(ctypes, "windll", None)
    if windows is None:
        return ASSUMED_MEMORY
    status = (ctypes.c_uint64 * 8)(
        64
    )  # MEMORYSTATUSEX; ullTotalPhys is its second field of 8 bytes
    done = windows.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status[1]) if done else ASSUMED_MEMORY


def peak_memory_bytes() -> int | None:
    """The most main memory that this process has had, with mapped files; None where nobody tells."""
    try:
        lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak) * 1024
    except (OSError, ValueError):
        resource = _module("resource")
    if resource is None:
        return None
    # Bytes on macOS, kilobytes elsewhere. Linux counts the process that started this one in it.
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def madvise(start: int, nbytes: int, advice: int) -> bool:
    """Tell the kernel how memory will be used; False where it cannot be told, or refuses."""
    try:
        advise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError, TypeError):
        return False
    done: int = advise(ctypes.c_void_p(start), ctypes.c_size_t(nbytes), advice)
    return done == 0


@contextlib.contextmanager
def no_echo(descriptor: int) -> Iterator[None]:
    """Keys that are pressed meanwhile are not shown; they wait. Nothing without termios or a terminal."""
    termios = _module("termios")
    try:
        before = termios.tcgetattr(descriptor) if termios is not None else None
    except (OSError, termios.error):
        before = None
    if before is None:
        yield
        return
    silent = before.copy()
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
