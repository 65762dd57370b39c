"""Where what is new of an answer waits for its reader, in a thread or in an event loop.

The engine's thread puts it there. Waking the reader takes time from the threads that decode, so it is
woken as seldom as possible: once for all that has come since it last looked.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Items from any thread to one reader, which waits in a thread (`take`) or in an event loop (`atake`).

    The reader hears of every item at once; while the mailbox is held, of urgent ones only, and then of all
    that came before them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[T] = []
        self._waiter: asyncio.Future[None] | None = None
        self._held = False
        self._ready = False  # the reader has been told that there is something
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def put(self, item: T, *, urgent: bool = False) -> None:
        """Add an item; from any thread."""
        with self._changed:
            if self._closed:
                return
            self._items.append(item)
            if self._ready or (self._held and not urgent):
                return  # the reader has been told, or need not be
            waiter = self._announce()
        if waiter is not None and not waiter.get_loop().is_closed():
            waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    def hold(self, seconds: float | None = None) -> None:
        """For so many seconds, or for ever, nothing that is not urgent wakes the reader. Only an event
        loop can count the seconds."""
        with self._changed:
            self._held = True
        if seconds is not None:
            import asyncio  # a program without an event loop need not load it

            self._timer = asyncio.get_running_loop().call_later(seconds, self._release)

    def _release(self) -> None:
        with self._changed:
            self._held = False
            waiter = self._announce() if self._items else None
        if waiter is not None:
            _wake(waiter)

    def _announce(self) -> asyncio.Future[None] | None:
        """Let a thread know that there is something, and return what an event loop waits for."""
        self._ready = True
        self._changed.notify()
        waiter, self._waiter = self._waiter, None
        return waiter

    def take(self) -> list[T]:
        """All items there are, as soon as the reader should hear of any; blocks."""
        with self._changed:
            while not self._ready:
                self._changed.wait()
            return self._empty()

    async def atake(self) -> list[T]:
        """The same for the running event loop."""
        import asyncio

        while True:
            with self._changed:
                if self._ready:
                    return self._empty()
                waiter = self._waiter = asyncio.get_running_loop().create_future()
            await waiter

    def _empty(self) -> list[T]:
        self._ready = False
        items, self._items = self._items, []
        return items

    def close(self) -> None:
        """Drop everything that still comes."""
        with self._changed:
            self._closed = True
            self._items = []
        if self._timer is not None:
            self._timer.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
