"""The numbers of threads of an engine's steps, one for answers and one for prompts, as it runs.

How a number is found is in `codellama.engine.thread_count`; here is which of the two a step asks and teaches,
and what both hear of other programs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from codellama.engine.thread_count import ThreadCount

log = logging.getLogger("codellama.engine")

# Steps with so many rows of prompts at most compute as answers do.
FEW = 32
# After so many seconds without a step a core that was taken may be free.
REST = 1.0


@dataclass(frozen=True)
class ThreadStatus:
    """Threads in use for answers, `n`, and for prompts, `n_batch`; why, in words; how often they changed."""

    n: int = 1
    n_batch: int = 1
    why: str = ""
    why_batch: str = ""
    changes: int = 0


class FreeProcessors(Protocol):
    """Tells how much of the processors other programs leave (`codellama.devices.processor_time`)."""

    def restart(self) -> None:
        """Forget what was: the next answer is about the time from now on."""

    def since(self) -> tuple[float, float] | None:
        """Processors' worth of time since the last answer: what was left here, and what others took.
        None: not yet again, or nothing tells."""


class Threads:
    """The numbers of threads of an engine: for steps that only decode answers, and for those with prompts.

    A step of one row rounds by its number of threads where `one_row_varies`: llama.cpp's flash attention on a
    CPU gives each thread a part of the cache. Such steps of requests that are to repeat take the number to
    begin with.
    """

    def __init__(
        self,
        answers: ThreadCount,
        prompts: ThreadCount,
        *,
        one_row_varies: bool = False,
        processors: FreeProcessors | None = None,
    ) -> None:
        self._answers, self._prompts = answers, prompts
        self._processors = processors
        self._one_row_varies = one_row_varies
        self._count: ThreadCount | None = None  # that learns from this step
        self._changes = 0
        self._began = self._ended = 0.0

    @classmethod
    def fixed(cls, n: int = 1) -> Threads:
        """Always `n`."""
        count = ThreadCount(n, n, "as asked for", adapts=False)
        return cls(count, count)

    def choose(self, now: float, rows: int, n_prompt: int, repeats: bool) -> int:
        """The number for a step of `rows` rows, `n_prompt` of prompts, that begins `now`, in seconds of any
        clock; `repeats`: a request is to repeat."""
        if now - self._ended > REST:
            self._answers.rested()
            self._prompts.rested()
            if self._processors:
                self._processors.restart()
        self._began = now
        count = self._prompts if n_prompt > FEW else self._answers
        if repeats and rows == 1 and self._one_row_varies:
            self._count = None
            return count.home
        self._count = count
        return count.choose()

    def learn(self, rows: int, seconds: float, depth: float = 0.0) -> None:
        """The step took so long, with all around it. Its rows had position `depth` on average."""
        self._ended = self._began + seconds
        if self._count is not None:
            found = self._processors.since() if self._processors else None
            if found is not None:
                self._answers.heard(*found)
                self._prompts.heard(*found)
            before = self._count.n
            self._count.learn(rows, seconds, depth)
            if self._count.n != before:
                self._changes += 1
                log.info("%d threads instead of %d: %s", self._count.n, before, self._count.why)

    @property
    def status(self) -> ThreadStatus:
        """A snapshot."""
        answers, prompts = self._answers, self._prompts
        return ThreadStatus(answers.n, prompts.n, answers.why, prompts.why, self._changes)
