"""SHA-256 of the files that were written: one thread for each file, progress told by the caller's own.

A hash goes through its file from front to back, so several threads help only where there are several files.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from codellama.files.provenance import sha256
from codellama.params import Progress

_EVERY_S = 0.1


class _StopError(Exception):
    """The caller does not wait for the hash any more."""


class _Counter:
    """Bytes that all threads have hashed; `stop` ends them at their next piece."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done = 0
        self.stop = False

    def __call__(self, count: int) -> None:
        if self.stop:
            raise _StopError
        with self._lock:
            self.done += count


def hash_files(
    paths: Sequence[Path], threads: int, progress: Progress | None = None
) -> dict[Path, str]:
    """The SHA-256 of each file, up to `threads` at once.

    `progress` gets bytes done and in all, from the thread that called this. An exception in it, or
    Ctrl-C, ends the hashing at once.

    Raises:
        OSError: a file cannot be read.
    """
    if not paths:
        return {}
    total = sum(os.path.getsize(path) for path in paths)
    counter = _Counter()
    if progress:
        progress(0, total)
    with ThreadPoolExecutor(min(threads, len(paths)), thread_name_prefix="hash") as pool:
        try:
            futures = [pool.submit(sha256, path, counter) for path in paths]
            while wait(futures, timeout=_EVERY_S).not_done:
                if progress:
                    progress(counter.done, total)
            hashes = [future.result() for future in futures]
            if progress:
                progress(total, total)
        except BaseException:
            counter.stop = True
            raise
    return dict(zip(paths, hashes, strict=True))
