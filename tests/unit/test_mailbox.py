"""What wakes the task that waits for an answer, and when."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from codellama.running.mailbox import Mailbox

SOON = 0.05  # seconds; nothing here should take as long


def in_a_loop(test: Callable[[], Awaitable[Any]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 10)

    asyncio.run(limited())


def test_all_there_is_comes_in_order() -> None:
    async def test() -> None:
        mailbox: Mailbox[int] = Mailbox()
        for i in range(3):
            mailbox.put(i)
        assert await mailbox.atake() == [0, 1, 2]

    in_a_loop(test)


def test_a_thread_wakes_the_task() -> None:
    async def test() -> None:
        mailbox: Mailbox[int] = Mailbox()
        taking = asyncio.create_task(mailbox.atake())
        await asyncio.sleep(0)
        threading.Thread(target=mailbox.put, args=(7,)).start()
        assert await taking == [7]

    in_a_loop(test)


def test_a_thread_can_wait_too() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(1)
    assert mailbox.take() == [1]
    mailbox.hold()
    mailbox.put(2)
    timer = threading.Timer(SOON, mailbox.put, (3,), {"urgent": True})
    timer.start()
    assert mailbox.take() == [2, 3], "only what is urgent wakes it"
    timer.join()


def test_a_loop_that_has_ended_is_left_alone() -> None:
    mailbox: Mailbox[int] = Mailbox()

    async def test() -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(mailbox.atake(), SOON / 5)

    asyncio.run(test())
    mailbox.put(1)
    assert mailbox.take() == [1]


def test_what_is_held_comes_together_when_time_is_up() -> None:
    async def test() -> None:
        mailbox: Mailbox[int] = Mailbox()
        mailbox.hold(SOON)
        mailbox.put(1)
        taking = asyncio.create_task(mailbox.atake())
        await asyncio.sleep(SOON / 5)
        assert not taking.done()
        mailbox.put(2)
        assert await taking == [1, 2]
        mailbox.put(3)
        assert await mailbox.atake() == [3], "not held any more"

    in_a_loop(test)


def test_holding_an_empty_mailbox_wakes_nobody() -> None:
    async def test() -> None:
        mailbox: Mailbox[int] = Mailbox()
        mailbox.hold(SOON / 5)
        taking = asyncio.create_task(mailbox.atake())
        await asyncio.sleep(SOON)
        assert not taking.done()
        mailbox.put(1)
        assert await taking == [1]

    in_a_loop(test)


def test_what_is_urgent_comes_at_once_with_all_before_it() -> None:
    async def test() -> None:
        mailbox: Mailbox[int] = Mailbox()
        mailbox.hold()
        mailbox.put(1)
        mailbox.put(2, urgent=True)
        assert await mailbox.atake() == [1, 2]
        taking = asyncio.create_task(mailbox.atake())
        mailbox.put(3)
        await asyncio.sleep(SOON)
        assert not taking.done(), "held for ever"
        mailbox.put(4, urgent=True)
        assert await taking == [3, 4]

    in_a_loop(test)


def test_nothing_comes_after_the_end() -> None:
    async def test() -> None:
        mailbox: Mailbox[int] = Mailbox()
        mailbox.hold(SOON / 5)
        mailbox.put(1)
        mailbox.close()
        mailbox.put(2, urgent=True)
        taking = asyncio.create_task(mailbox.atake())
        await asyncio.sleep(SOON)
        assert not taking.done()
        taking.cancel()

    in_a_loop(test)
