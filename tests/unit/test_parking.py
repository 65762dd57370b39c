"""Idle caches leave the KV cells for host memory when a request has work to do beside them."""

from __future__ import annotations

import pytest

from codellama.engine.batch import Fork, Save, Trim
from codellama.engine.kv_cache import LEAST_OWN, LEAST_SHARE, WORTH_PARKING
from codellama.engine.prompt_cache import WORTH_KEEPING
from codellama.engine.request import Request
from tests.fake_runner import expected, request
from tests.scheduler_loop import Loop, answer

LONG = 2 * WORTH_KEEPING
PLENTY = 100_000


def loop_with_an_idle_cache(cache_bytes: int = PLENTY) -> Loop:
    loop = Loop(n_slots=4, cells=4000, cache_bytes=cache_bytes)
    serve(loop, range(LONG), 2)
    return loop


def serve(loop: Loop, prompt: range | list[int], max_tokens: int) -> Request:
    new = request(prompt, max_tokens)
    loop.submit(new)
    loop.run()
    assert answer(new) == expected(prompt, max_tokens)
    return new


def idle_cells(loop: Loop) -> list[int]:
    return [len(slot.tokens) for slot in loop.scheduler.slots if slot.request is None]


def test_work_parks_idle_caches_before_it_takes_cells() -> None:
    loop = loop_with_an_idle_cache()
    loop.submit(request(range(500, 510), WORTH_PARKING))
    loop.step()
    assert idle_cells(loop) == [0, 0, 0]
    kinds = [type(edit) for edit in loop.steps[-1].batch.edits]
    assert kinds == [Save, Trim], "edits come before the batch's rows"
    loop.run()
    assert serve(loop, [*range(LONG), 7], 2).cached_tokens == LONG


def test_a_little_work_is_done_beside_them() -> None:
    loop = loop_with_an_idle_cache()
    loop.submit(request(range(500, 510), WORTH_PARKING - 11))
    loop.step()
    assert max(idle_cells(loop)) == LONG + 1


@pytest.mark.parametrize("cache_bytes", [0, 8 * LONG])
def test_without_room_in_host_memory_they_stay(cache_bytes: int) -> None:
    loop = loop_with_an_idle_cache(cache_bytes)  # of LONG + 1 tokens with eight bytes each
    loop.submit(request(range(500, 510), WORTH_PARKING))
    loop.step()
    assert max(idle_cells(loop)) == LONG + 1


def test_what_is_too_short_to_store_is_dropped() -> None:
    loop = Loop(n_slots=4, cells=4000, cache_bytes=PLENTY)
    serve(loop, range(10), 2)
    serve(loop, range(500, 510), WORTH_PARKING)
    assert len(loop.scheduler.cache.prompt_cache) == 0
    assert sorted(idle_cells(loop)) == [0, 0, 0, 10 + WORTH_PARKING - 1]


def test_those_that_a_waiting_request_shares_stay() -> None:
    loop = loop_with_an_idle_cache()
    other, back = request(range(500, 510), WORTH_PARKING), request([*range(LONG), 7], 2)
    loop.submit(other, back)
    loop.run()
    assert back.cached_tokens == LONG
    assert not any(isinstance(e, Save) for step in loop.steps for e in step.batch.edits)


def test_a_shared_beginning_is_parked_once() -> None:
    loop = Loop(n_slots=4, cells=4000, cache_bytes=PLENTY)
    loop.submit(*(request([*range(LONG), 900 + i], 2) for i in range(3)))
    loop.run()
    loop.submit(request(range(500, 510), WORTH_PARKING))
    loop.step()
    assert idle_cells(loop) == [0, 0, 0]
    assert len(loop.scheduler.cache.prompt_cache) == 1


def test_short_tails_behind_a_long_beginning_are_not_stored() -> None:
    loop = Loop(n_slots=4, cells=4000, cache_bytes=PLENTY)
    beginning, tail = range(LEAST_OWN * WORTH_KEEPING), WORTH_KEEPING
    loop.submit(*(request([*beginning, *range(900 * i, 900 * i + tail)], 2) for i in (1, 2, 3)))
    loop.run()
    loop.submit(request(range(500, 510), WORTH_PARKING))
    loop.step()
    assert idle_cells(loop) == [0, 0, 0]
    assert len(loop.scheduler.cache.prompt_cache) == 1
    loop.run()
    again = serve(loop, [*beginning, *range(900, 900 + tail)], 2)
    assert again.cached_tokens >= len(beginning)


def test_what_lends_its_beginning_is_parked_after_that() -> None:
    loop = loop_with_an_idle_cache()
    loop.submit(request([*range(10), *range(500, 510)], WORTH_PARKING))
    loop.step()
    assert idle_cells(loop) == [0, 0, 0]
    kinds = [type(edit) for edit in loop.steps[-1].batch.edits]
    assert kinds == [Fork, Save, Trim]
    assert serve(loop, [*range(LONG), 7], 2).cached_tokens == LONG


def test_a_conversation_that_goes_on_keeps_its_slot() -> None:
    loop = loop_with_an_idle_cache()
    loop.submit(request([*range(LONG), 7], WORTH_PARKING))
    loop.step()
    assert loop.steps[-1].batch.edits == [Trim(0, LONG)]


def test_a_token_or_two_of_a_long_prompt_are_not_shared() -> None:
    loop = loop_with_an_idle_cache()
    assert serve(loop, [0, *range(500, 500 + LEAST_SHARE)], 2).cached_tokens == 0
    assert serve(loop, [0, *range(600, 600 + LEAST_SHARE - 1)], 2).cached_tokens == 1
