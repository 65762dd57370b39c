"""What wakes the task that waits for an answer, and when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from codellama.server.inbox import Inbox

SOON = 0.05  # seconds; nothing here should take as long


def in_a_loop(test: Callable[[], Awaitable[Any]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 10)

    asyncio.run(limited())


def test_all_there_is_comes_in_order() -> None:
    async def test() -> None:
        inbox: Inbox[int] = Inbox()
        for i in range(3):
            inbox.put(i)
        assert await inbox.take() == [0, 1, 2]

    in_a_loop(test)


def test_a_thread_wakes_the_task() -> None:
    async def test() -> None:
        inbox: Inbox[int] = Inbox()
        taking = asyncio.create_task(inbox.take())
        await asyncio.sleep(0)
        threading.Thread(target=inbox.put, args=(7,)).start()
        assert await taking == [7]

    in_a_loop(test)


def test_what_is_held_comes_together_when_time_is_up() -> None:
    async def test() -> None:
        inbox: Inbox[int] = Inbox()
        inbox.hold(SOON)
        inbox.put(1)
        taking = asyncio.create_task(inbox.take())
        await asyncio.sleep(SOON / 5)
        assert not taking.done()
        inbox.put(2)
        assert await taking == [1, 2]
        inbox.put(3)
        assert await inbox.take() == [3], "not held any more"

    in_a_loop(test)


def test_holding_an_empty_inbox_wakes_nobody() -> None:
    async def test() -> None:
        inbox: Inbox[int] = Inbox()
        inbox.hold(SOON / 5)
        taking = asyncio.create_task(inbox.take())
        await asyncio.sleep(SOON)
        assert not taking.done()
        inbox.put(1)
        assert await taking == [1]

    in_a_loop(test)


def test_what_is_urgent_comes_at_once_with_all_before_it() -> None:
    async def test() -> None:
        inbox: Inbox[int] = Inbox()
        inbox.hold()
        inbox.put(1)
        inbox.put(2, urgent=True)
        assert await inbox.take() == [1, 2]
        taking = asyncio.create_task(inbox.take())
        inbox.put(3)
        await asyncio.sleep(SOON)
        assert not taking.done(), "held for ever"
        inbox.put(4, urgent=True)
        assert await taking == [3, 4]

    in_a_loop(test)


def test_nothing_comes_after_the_end() -> None:
    async def test() -> None:
        inbox: Inbox[int] = Inbox()
        inbox.hold(SOON / 5)
        inbox.put(1)
        inbox.close()
        inbox.put(2, urgent=True)
        taking = asyncio.create_task(inbox.take())
        await asyncio.sleep(SOON)
        assert not taking.done()
        taking.cancel()

    in_a_loop(test)
