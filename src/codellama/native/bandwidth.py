"""How fast this machine's memory can be read, measured in a fraction of a second.

All cores look for the largest number of an array that no cache holds, each in a part of its own: numpy reads
as fast there as memory gives. That is the speed at which weights can be read.
"""

from __future__ import annotations

import threading
import time

import numpy as np

_BYTES = 2**27  # more than caches hold
_SECONDS = 0.05


def read_bandwidth(threads: int, seconds: float = _SECONDS, nbytes: int = _BYTES) -> float:
    """Bytes a second that so many threads read together, all of `nbytes` at least once."""
    numbers = np.ones(nbytes // 8, np.uint64)  # ones, because zeros may share one page
    parts = np.array_split(numbers, threads)
    done = [0] * threads
    begun = time.perf_counter()

    def work(index: int) -> None:
        while done[index] == 0 or time.perf_counter() - begun < seconds:
            parts[index].max()
            done[index] += parts[index].nbytes

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - begun)
