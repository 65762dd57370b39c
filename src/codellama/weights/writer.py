"""Runs plans: the rows of a source in, encoded rows out at their offsets, on all cores.

The source is read once, however many outputs are made of it. Only a few slabs are in memory. Finished
slabs go to the journal of each output every few seconds, so a run that ends early, for whatever reason,
is continued by the next one with the same plans.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from codellama.devices.processors import choose_threads, this_processors
from codellama.errors import ConversionError
from codellama.params import Progress
from codellama.weights.encode import SlabEncoder
from codellama.weights.hashing import hash_files
from codellama.weights.output import Output
from codellama.weights.plan import Slab, files_of, slabs
from codellama.weights.recorder import Recorder
from codellama.weights.source import Source
from codellama.weights.unusable import UnusableWeightsError

log = logging.getLogger(__name__)

Task = TypeVar("Task")
Done = TypeVar("Done")


def write(
    outputs: Sequence[Output],
    source: Source,
    *,
    threads: int,
    progress: Progress | None = None,
    hashing: Progress | None = None,
    force: bool = False,
    restart: bool = False,
) -> None:
    """Write all `outputs`, or go on where an earlier run of the same plans was.

    `progress` is called with the bytes of weights done so far and in all, from the thread that called
    this, and `hashing` likewise for the bytes of the outputs that are read again for their hashes.

    A file that is there already is replaced with `force` only, and not before the new one is ready;
    `restart` forgets an earlier run.

    After a failure in the middle, Ctrl-C included, parts and journals stay for the next run. They are
    removed when nothing was finished, or when the weights themselves are unusable.

    Raises:
        ConversionError: the disk is too small or fails, weights are not finite or do not fit the
            type, another process writes the same output, a file is in the way, or an unfinished run
            had another plan.
    """
    opened: list[Output] = []
    try:
        for output in outputs:
            output.open(force=force, restart=restart)
            opened.append(output)
        todo = [output for output in outputs if not output.written]
        if todo:
            _check_space(todo, source)
            for output in todo:
                output.prepare()
            _Run(todo, source, threads, progress).run()
        _finish(outputs, threads, hashing)
    except OSError as error:
        _abandon(opened, keep=True)
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        if any(Output.begun(output.path) for output in opened):
            reason = f"{reason}; the same command goes on where it was"
        raise ConversionError(f"{outputs[0].path}: cannot be written: {reason}") from error
    except BaseException as error:
        _abandon(opened, keep=not isinstance(error, UnusableWeightsError))
        raise
    finally:
        for output in opened:
            output.close()


def _finish(outputs: Sequence[Output], threads: int, hashing: Progress | None) -> None:
    parts = [part for output in outputs for part in output.check()]
    log.info("hashing %d files for the manifests", len(parts))
    hashes = hash_files(parts, threads, hashing)
    for output in outputs:
        output.finish(hashes)


def _abandon(outputs: Iterable[Output], *, keep: bool) -> None:
    for output in outputs:
        with contextlib.suppress(OSError):
            output.abandon(keep=keep)


def _check_space(outputs: Sequence[Output], source: Source) -> None:
    paths = files_of(slabs(source.tensors))
    needed: Counter[int] = Counter()
    needed[outputs[0].path.absolute().parent.stat().st_dev] = source.room(paths)
    for output in outputs:
        folder = output.path.absolute().parent
        disk = folder.stat().st_dev
        needed[disk] += output.space_needed()
        free = shutil.disk_usage(folder).free
        if needed[disk] > free:
            raise ConversionError(
                f"{output.path}: the run needs {needed[disk] / 1e9:.2f} GB and {folder} has "
                f"{free / 1e9:.2f} GB free: make room or choose a smaller type"
            )


class _Run:
    """One pass over the source: what an earlier run claims is checked, the rest is made."""

    def __init__(
        self, outputs: Sequence[Output], source: Source, threads: int, progress: Progress | None
    ) -> None:
        self.outputs = outputs
        self.source = source
        self.threads = threads
        self.progress = progress
        self.encoder = SlabEncoder(source, outputs)
        self.total = sum(tensor.nbytes for tensor in source.tensors)
        self.done = 0

    def run(self) -> None:
        with _pool(self.threads, self.source) as pool:
            ahead = 4 * self.threads
            for checked in _in_pool(pool, ahead, self._check, self._claimed()):
                self._advance(checked)
            missing = [slab for slab in slabs(self.source.tensors) if self._lacking(slab)]
            if missing:
                self.source.expect(files_of(missing))
            with Recorder(self.outputs, self.source, missing) as recorder:
                for slab, crcs in _in_pool(pool, ahead, self._make, missing):
                    recorder.add(slab, crcs)
                    self._advance(slab)

    def _advance(self, slab: Slab | None) -> None:
        """Count a slab that all outputs have, and report."""
        if slab is not None:
            self.done += slab.source_bytes
        if self.progress:
            self.progress(self.done, self.total)

    def _claimed(self) -> Iterator[Slab]:
        for slab in slabs(self.source.tensors):
            if any(slab.number in output.claimed for output in self.outputs):
                yield slab

    def _check(self, slab: Slab) -> Slab | None:
        """Believe what reads back right; the slab itself if no output lacks it then."""
        for output in self.outputs:
            if slab.number in output.claimed:
                if output.holds(slab):
                    output.done.add(slab.number)
                else:
                    log.info("%s: slab %d is damaged and made again", output.path, slab.number)
        return None if self._lacking(slab) else slab

    def _lacking(self, slab: Slab) -> list[int]:
        """The outputs, by number, that have to get this slab."""
        return [n for n, output in enumerate(self.outputs) if slab.number not in output.done]

    def _make(self, slab: Slab) -> tuple[Slab, dict[int, int]]:
        return slab, self.encoder.make(slab, self._lacking(slab))


@contextlib.contextmanager
def _pool(threads: int, source: Source) -> Iterator[ThreadPoolExecutor]:
    """A pool that is empty when it is left; after a failure nothing new is begun."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="quantize")
    try:
        yield pool
    except BaseException:
        source.interrupt()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_pool(
    pool: ThreadPoolExecutor, ahead: int, function: Callable[[Task], Done], work: Iterable[Task]
) -> Iterator[Done]:
    """`map` in the pool with at most `ahead` items under way; the first failure ends it."""
    pending: deque[Future[Done]] = deque()
    for item in work:
        pending.append(pool.submit(function, item))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def default_threads() -> int:
    """As many threads as a model begins to answer with (`devices.processors`)."""
    return choose_threads(this_processors()).n
