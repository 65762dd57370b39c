"""Notes finished slabs in the journals of their outputs, behind the run's back.

Every few seconds a thread waits until the disk has the data and then notes it. A file of the source
that is finished is released only when all that was made of it is safe.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from codellama.weights.output import Output
from codellama.weights.plan import Slab
from codellama.weights.source import Source

CHECKPOINT_SECONDS = 5.0
"""How often finished slabs are noted; a power cut costs the work of that time."""

Finished = tuple[Slab, dict[int, int]]
"""A slab and the CRC of its bytes in each output it was made for, by the output's number."""


class Recorder:
    """Use as a context manager around the run that makes `expected` slabs; `add` each one."""

    def __init__(self, outputs: Sequence[Output], source: Source, expected: Iterable[Slab]) -> None:
        self.outputs = outputs
        self.source = source
        self._left = Counter(path for slab in expected for path in slab.tensor.files)
        self._finished: list[Finished] = []
        self._read: list[Path] = []
        self._last = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._running: Future[None] | None = None

    def add(self, slab: Slab, crcs: dict[int, int]) -> None:
        """Count a slab as finished."""
        self._finished.append((slab, crcs))
        self._left.subtract(slab.tensor.files)
        used_up = [path for path in slab.tensor.files if not self._left[path]]
        if used_up:
            # The next file may wait for the room of this one, so this cannot wait for a later slab.
            self._read += used_up
            self._wait()
        elif time.monotonic() - self._last < CHECKPOINT_SECONDS or self._busy():
            return
        self._checkpoint()

    def _busy(self) -> bool:
        return self._running is not None and not self._running.done()

    def _wait(self) -> None:
        if self._running is not None:
            self._running.result()

    def _checkpoint(self) -> None:
        self._wait()
        self._last = time.monotonic()
        self._running = self._thread.submit(self._note, self._finished, self._read)
        self._finished, self._read = [], []

    def _note(self, finished: list[Finished], read: list[Path]) -> None:
        for number, output in enumerate(self.outputs):
            output.sync()
            output.record((slab.number, crcs[number]) for slab, crcs in finished if number in crcs)
        for path in read:
            self.source.release(path)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._checkpoint()
                self._wait()
        finally:
            self._thread.shutdown(wait=True)
            if error is not None:
                self._note_in_a_hurry()

    def _note_in_a_hurry(self) -> None:
        """Without waiting for the disk: what a power cut takes away now is noticed by its CRC."""
        for number, output in enumerate(self.outputs):
            entries = [
                (slab.number, crcs[number]) for slab, crcs in self._finished if number in crcs
            ]
            output.record(entries, sync=False)
