"""Work that shares the engine's thread with the streams: done piece by piece, between their steps.

A piece of work is a generator: each `yield` gives the thread back. Requests are served in the order they
came, the first to its end before the next begins, so at most one piece stands between two steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

Work = Generator[int, None, T]
"""Does a piece up to each `yield`, which says how many tokens were decoded, and returns the result; closed
early if nobody waits for it."""


class Background:
    """Requests that wait for their turn. `add` from any thread, the rest on the engine's.

    Cancelling a request's future ends it before its next piece.
    """

    def __init__(self, as_error: Callable[[BaseException], BaseException]) -> None:
        """`as_error` turns what a piece raised into what its future raises."""
        self._as_error = as_error
        self._queue: deque[tuple[Future[Any], Work[Any]]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, work: Work[T]) -> Future[T]:
        """Queue `work`; the future has its result."""
        future: Future[T] = Future()
        self._queue.append((future, work))
        return future

    def advance(self) -> tuple[int, int]:
        """Drop what was cancelled, then do one piece: how many requests have ended, and tokens decoded."""
        ended = 0
        while self._queue and self._queue[0][0].cancelled():
            self._queue.popleft()[1].close()
            ended += 1
        if not self._queue:
            return ended, 0
        future, work = self._queue[0]
        try:
            n_tokens = next(work)
        except StopIteration as end:
            self._queue.popleft()
            _settle(future, end.value, None)
        except Exception as error:
            self._queue.popleft()
            _settle(future, None, self._as_error(error))
        else:
            return ended, n_tokens
        return ended + 1, 0

    def fail(self, error: BaseException) -> int:
        """End all requests with `error`; how many there were."""
        ended = len(self._queue)
        while self._queue:
            future, work = self._queue.popleft()
            work.close()
            _settle(future, None, error)
        return ended


def _settle(future: Future[Any], result: Any, error: BaseException | None) -> None:
    """Give the future its end, unless somebody cancelled it just now."""
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def settle(future: Future[T], job: Callable[[], T]) -> None:
    """Run `job` and give the future its result, or what it raised."""
    try:
        future.set_result(job())
    except Exception as error:
        future.set_exception(error)
