"""When the engine is inside llama.cpp: a clock around its C functions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llama_cpp

from bench.client import BenchError


@dataclass(frozen=True)
class Steps:
    """Successive steps of equal width. `rate` in tokens per second over all sequences.

    `outside` is the percentage of the time that was not spent in llama_decode: drawing tokens, and all
    that is Python.
    """

    count: int
    rate: float
    outside: float


@dataclass(frozen=True)
class Call:
    """A call of a C function, by `time.perf_counter`; `rows` of the batch, 0 if it had none."""

    start: float
    end: float
    rows: int


class Clock:
    """While entered, every llama_decode of this process is timed.

    llama_decode returns before a GPU has finished, so the clock waits for it; drawing would.
    """

    def __init__(self) -> None:
        self._decodes: list[Call] = []
        self._originals: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> Clock:
        self._wrap("llama_decode", self._timed_decode)
        return self

    def __exit__(self, *error: object) -> None:
        for name, function in self._originals.items():
            setattr(llama_cpp, name, function)

    def _wrap(self, name: str, function: Callable[..., Any]) -> None:
        self._originals[name] = getattr(llama_cpp, name)
        setattr(llama_cpp, name, function)

    def _timed_decode(self, context: Any, batch: Any) -> Any:
        start = time.perf_counter()
        status = self._originals["llama_decode"](context, batch)
        llama_cpp.llama_synchronize(context)
        self._decodes.append(Call(start, time.perf_counter(), batch.n_tokens))
        return status

    def reset(self) -> None:
        """Forget what has been timed. Nothing may be running."""
        self._decodes.clear()

    def span(self) -> float:
        """Seconds from the first llama_decode to the end of the last."""
        return self._decodes[-1].end - self._decodes[0].start

    def steps(self, width: int) -> Steps:
        """The steps whose batches had `width` rows, from the start of the first to that of the last.

        Raises BenchError if there were fewer than two.
        """
        calls = [call for call in self._decodes if call.rows == width]
        if len(calls) < 2:
            raise BenchError(f"the engine took fewer than two steps with {width} rows")
        start, end = calls[0].start, calls[-1].start
        wall = end - start
        inside = sum(c.end - c.start for c in self._decodes if start <= c.start < end)
        count = len(calls) - 1
        rate = count * width / wall
        return Steps(count=count, rate=rate, outside=100 * (1 - inside / wall))
