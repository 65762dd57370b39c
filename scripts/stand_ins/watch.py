"""Watches a process and a folder while something runs: the memory of the one, the disk of the other."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.client import BenchError

_EVERY_S = 0.2


@dataclass
class Peaks:
    """The most there was at once, in bytes.

    `anonymous` is memory of the process itself, without mapped files; `resident` is with them;
    `disk` is what the files of the folder take on the disk.
    """

    anonymous: int = 0
    resident: int = 0
    disk: int = 0

    def join(self, other: Peaks) -> Peaks:
        """The peaks of two runs, one after the other."""
        return Peaks(
            max(self.anonymous, other.anonymous),
            max(self.resident, other.resident),
            max(self.disk, other.disk),
        )


@contextmanager
def watching(pid: int, folder: Path | None = None) -> Iterator[Peaks]:
    """Keep the peaks of process `pid` and of `folder` until the block ends (Linux)."""
    peaks = Peaks()
    over = threading.Event()

    def watch() -> None:
        while True:
            anonymous, resident = memory_of(pid)
            disk = disk_of(folder) if folder else 0
            joined = peaks.join(Peaks(anonymous, resident, disk))
            peaks.anonymous, peaks.resident, peaks.disk = (
                joined.anonymous, joined.resident, joined.disk,
            )  # fmt: skip
            if over.wait(_EVERY_S):
                return

    thread = threading.Thread(target=watch, name="watch")
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


@dataclass(frozen=True)
class Usage:
    """What a command took: `written` are bytes it gave the disks, by the system's own count."""

    seconds: float
    cpu_seconds: float
    peaks: Peaks
    written: int


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """Run a command that has to succeed. Raises BenchError with the end of what it said."""
    begun = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        with watching(process.pid) as peaks:
            said = process.stdout.read() if process.stdout else b""
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = said[-2000:].decode("utf-8", "replace")
        raise BenchError(f"{command[0]} ended with {process.returncode}\n{end}")
    # The system counts what was written in blocks of 512 bytes.
    return Usage(
        time.monotonic() - begun, usage.ru_utime + usage.ru_stime, peaks, usage.ru_oublock * 512
    )


def memory_of(pid: int) -> tuple[int, int]:
    """Anonymous and resident bytes of a process now; zeros when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return 0, 0
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    found = [int(values.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "VmRSS")]
    return found[0], found[1]


def disk_of(folder: Path) -> int:
    """Bytes that the files below `folder` take on the disk; holes do not count."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_blocks * 512
            except OSError:  # it has just gone
                continue
    return total
