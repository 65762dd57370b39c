"""What an HTTP request waits for, from any thread, in the order in which it came.

A token's way from the engine's thread to the network is one wake-up of the event loop; the loop takes time
from the threads that decode, so it is woken as seldom as possible.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Items for one task of the running event loop. `put` and `close` from any thread, the rest from
    that task."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._items: list[T] = []
        self._waiter: asyncio.Future[None] | None = None
        self._held = False
        self._ready = False  # there is something that the task should hear of
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def put(self, item: T, *, urgent: bool = False) -> None:
        """Add an item. The task hears of it at once, or while the inbox is held, only if it is urgent."""
        with self._lock:
            if self._closed:
                return
            self._items.append(item)
            if self._held and not urgent:
                return
            self._ready = True
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._loop.call_soon_threadsafe(_wake, waiter)

    def hold(self, seconds: float | None = None) -> None:
        """For so many seconds, or for ever, nothing that is not urgent wakes the task."""
        with self._lock:
            self._held = True
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._release)

    def _release(self) -> None:
        with self._lock:
            self._held = False
            if not self._items:
                return
            self._ready = True
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            _wake(waiter)

    async def take(self) -> list[T]:
        """All items there are, as soon as the task should hear of any."""
        while True:
            with self._lock:
                if self._ready:
                    self._ready = False
                    items, self._items = self._items, []
                    return items
                waiter = self._waiter = self._loop.create_future()
            await waiter

    def close(self) -> None:
        """Drop everything that still comes."""
        with self._lock:
            self._closed = True
            self._items = []
        if self._timer is not None:
            self._timer.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
