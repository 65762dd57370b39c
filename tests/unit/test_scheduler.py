"""The scheduler against a fake cache: admission, prefix reuse, order and budget."""

from __future__ import annotations

import pytest

from codellama.engine.batch import Fork, Trim
from codellama.engine.prefix import common_prefix
from codellama.engine.prompt_cache import WORTH_KEEPING
from codellama.engine.request import Request, Reuse, State
from codellama.engine.scheduler import WORTH_WAITING
from tests.fake_runner import expected, next_token, request
from tests.scheduler_loop import Loop, answer


def test_a_lone_request() -> None:
    loop = Loop()
    lone = request(range(10), 5)
    loop.submit(lone)
    loop.run()
    assert answer(lone) == expected(range(10), 5)
    assert lone.state is State.FINISHED
    assert lone.cached_tokens == 0


def test_the_next_request_trims_what_is_shared() -> None:
    loop = Loop()
    first, second = request(range(20), 3), request([*range(15), 99, 98], 3)
    loop.submit(first)
    loop.run()
    loop.submit(second)
    loop.run()
    assert second.cached_tokens == 15
    assert answer(second) == expected(second.prompt, 3)
    assert [e for s in loop.steps for e in s.batch.edits] == [Trim(0, 15)]


def test_the_same_prompt_again_leaves_one_token_to_decode() -> None:
    loop = Loop(n_slots=1)
    for _ in range(2):
        loop.submit(request(range(20), 1))
        loop.run()
    assert len(loop.steps[-1].batch.tokens) == 1


def test_a_busy_slot_is_forked() -> None:
    loop = Loop()
    first = request(range(20), 30)
    loop.submit(first)
    for _ in range(3):
        loop.step()
    second = request([*range(18), 77], 3)
    loop.submit(second)
    loop.step()
    assert Fork(0, 1, 18) in loop.steps[-1].batch.edits
    loop.run()
    assert second.cached_tokens == 18
    assert answer(second) == expected(second.prompt, 3)
    assert answer(first) == expected(first.prompt, 30)


@pytest.mark.parametrize("reuse", Reuse)
def test_a_slot_that_is_free_can_be_asked_for(reuse: Reuse) -> None:
    loop = Loop(n_slots=3)
    first = request(range(20), 3, reuse=reuse, id_slot=5)
    loop.submit(first)
    loop.run()
    assert first.slot == 2, "numbers go round"
    again = request(range(20), 3, reuse=reuse, id_slot=1)
    loop.submit(again)
    loop.run()
    assert again.slot == 1
    assert answer(again) == expected(range(20), 3)
    busy = [request([7, 8, n], 3, reuse=reuse, id_slot=0) for n in range(2)]
    for one in busy:
        loop.submit(one)
    loop.run()
    assert busy[0].slot == 0 != busy[1].slot
    assert [answer(one) for one in busy] == [expected(one.prompt, 3) for one in busy]


def test_a_small_share_does_not_cost_another_conversation_its_cache() -> None:
    loop = Loop(n_slots=2)
    long = request(range(40), 1)
    loop.submit(long)
    loop.run()
    loop.submit(request([0, 500, 501], 1))
    loop.run()
    assert loop.scheduler.slots[0].tokens[:40] == list(range(40))
    again = request([*range(40), 7], 1)
    loop.submit(again)
    loop.run()
    assert again.cached_tokens == 40


def test_followers_wait_for_the_beginning_that_is_being_decoded() -> None:
    loop = Loop(n_slots=4, cells=2000, n_batch=64, chunk=64)
    beginning = list(range(100, 100 + 6 * WORTH_WAITING))
    group = [request([*beginning, i], 4) for i in range(4)]
    loop.submit(*group)
    loop.run()
    assert [r.cached_tokens for r in group] == [0, *[len(beginning)] * 3]
    decoded = sum(len(s.batch.tokens) for s in loop.steps)
    assert decoded == len(beginning) + 4 + 4 * 3, "the beginning once, then one row per token"
    for r in group:
        assert answer(r) == expected(r.prompt, 4)


@pytest.mark.parametrize("n", [1, 2, 5 * WORTH_WAITING])
def test_equal_prompts_are_decoded_once_and_begin_together(n: int) -> None:
    loop = Loop(n_slots=4, cells=2000, n_batch=64, chunk=64)
    prompt = list(range(100, 100 + n))
    group = [request(prompt, 3) for _ in range(4)]
    loop.submit(*group)
    loop.run()
    n_prompt = -(-n // 64)
    assert [len(s.batch.tokens) for s in loop.steps[n_prompt:]] == [4, 4]
    assert sum(len(s.batch.tokens) for s in loop.steps[:n_prompt]) == n
    assert [r.cached_tokens for r in group] == [0, n, n, n]
    for r in group:
        assert answer(r) == expected(prompt, 3)


def test_equal_prompts_wait_for_slots_and_cells_and_their_turn() -> None:
    prompt = list(range(100, 140))
    for n_slots, cells in [(2, 2000), (4, 90)]:
        loop = Loop(n_slots=n_slots, cells=cells)
        group = [request(prompt, 3) for _ in range(3)]
        loop.submit(*group)
        loop.step()
        assert [r.state for r in group] == [State.DECODE, State.DECODE, State.WAITING]
        loop.run()
        assert [answer(r) for r in group] == [expected(prompt, 3)] * 3
    loop = Loop(n_slots=3, cells=100)
    first, large, twin = request(prompt, 3), request(range(70), 3), request(prompt, 3)
    loop.submit(first, large, twin)
    loop.step()
    assert (large.state, twin.state) == (State.WAITING, State.WAITING), "no overtaking"
    loop.run()
    assert answer(twin) == expected(prompt, 3)


def test_equal_prompts_whose_first_one_ends_at_once() -> None:
    prompt = list(range(100, 110))
    loop = Loop()
    group = [request(prompt, 1), request(prompt, 2), request(prompt, 2)]
    loop.submit(*group)
    loop.run()
    assert [answer(r) for r in group] == [expected(prompt, r.max_tokens) for r in group]


def test_those_behind_a_waiting_follower_go_ahead() -> None:
    loop = Loop(n_slots=4, cells=2000)
    beginning = list(range(100, 100 + 4 * WORTH_WAITING))
    donor, follower, other = (
        request([*beginning, 1], 2),
        request([*beginning, 2], 2),
        request([5, 6], 2),
    )
    loop.submit(donor, follower, other)
    loop.step()
    assert follower.state is State.WAITING
    assert other.state is not State.WAITING
    loop.run()
    assert follower.cached_tokens == len(beginning)


def test_admission_reserves_the_whole_answer() -> None:
    loop = Loop(n_slots=4, cells=100)
    a, b, c = request(range(10), 50), request(range(50, 60), 40), request([1], 1)
    loop.submit(a, b, c)
    loop.step()
    assert a.state is not State.WAITING
    assert b.state is State.WAITING, "60 + 50 cells do not fit 100"
    assert c.state is State.WAITING, "nobody overtakes a request that waits for room"
    loop.run()
    assert answer(b) == expected(b.prompt, 40)


def test_idle_caches_make_room_stalest_first() -> None:
    loop = Loop(n_slots=3, cells=100)
    for start in (100, 200):
        loop.submit(request(range(start, start + 29), 1))
        loop.run()
    loop.submit(request(range(300, 340), 5))
    loop.run()
    held = {slot.tokens[0] for slot in loop.scheduler.slots if slot.tokens}
    assert held == {200, 300}, "the cache that began with 100 was the stalest"


def test_prompts_are_chunked_beside_running_answers() -> None:
    loop = Loop(n_slots=2, cells=1000, n_batch=64, chunk=16)
    running = request([1, 2], 50)
    loop.submit(running)
    loop.step()
    loop.submit(request(range(100, 300), 1))
    sizes = []
    for _ in range(5):
        loop.step()
        sizes.append(len(loop.steps[-1].batch.tokens))
    assert sizes == [17] * 5, "one row for the answer, a chunk of 16 for the prompt"


def test_prompts_alone_take_the_whole_batch_oldest_first() -> None:
    loop = Loop(n_slots=2, cells=1000, n_batch=64, chunk=16)
    loop.submit(request(range(100, 190), 1), request(range(300, 390), 1))
    loop.step()
    assert loop.steps[-1].batch.seq_ids == [0] * 64
    loop.step()
    assert loop.steps[-1].batch.seq_ids == [0] * 26 + [1] * 38


def test_release_of_a_waiting_request() -> None:
    loop = Loop(n_slots=1)
    a, b = request([1], 5), request([2], 5)
    loop.submit(a, b)
    loop.step()
    loop.scheduler.release(b)
    assert not loop.scheduler.waiting
    loop.run()
    assert loop.scheduler.live() == []


def test_right_guesses_save_steps_and_wrong_ones_leave_the_cache() -> None:
    loop = Loop(n_slots=1)
    new = request(range(10), 21)
    loop.guess = lambda s: [*expected(s.tokens, 3), -1, -1]
    loop.submit(new)
    loop.run()
    assert answer(new) == expected(range(10), 21)
    assert len(loop.steps) == 1 + 5, "the prompt's token, then four per step"
    assert loop.steps[2].batch.output_rows == list(range(6))
    assert loop.steps[2].batch.edits == [Trim(0, 10 + 4)]


def test_drafts_stay_inside_the_reservation() -> None:
    loop = Loop(n_slots=1, cells=13)
    new = request(range(10), 3)
    loop.guess = lambda s: expected(s.tokens, 50)
    loop.submit(new)
    loop.run()  # the fake cache has 13 cells and would complain
    assert answer(new) == expected(range(10), 3)


def test_drafts_leave_an_output_for_every_slot() -> None:
    loop = Loop(n_slots=3, max_outputs=7)
    loop.guess = lambda s: expected(s.tokens, 50)
    loop.submit(request([1], 30), request([2], 30))
    loop.step()
    loop.submit(request([3], 30))
    loop.step()
    assert len(loop.steps[-1].batch.output_rows) == 7


LONG = 2 * WORTH_KEEPING


def serve(loop: Loop, *tokens: int) -> Request:
    new = request(tokens, 2)
    loop.submit(new)
    loop.run()
    assert answer(new) == expected(tokens, 2)
    return new


def test_a_prompt_that_comes_back_is_restored() -> None:
    loop = Loop(n_slots=1, cells=1000, cache_bytes=10_000)
    first, second = range(LONG), range(500, 500 + LONG)
    serve(loop, *first)
    assert serve(loop, *second).cached_tokens == 0
    assert serve(loop, *first, 7).cached_tokens == LONG
    assert serve(loop, *second, 7).cached_tokens == LONG


def test_a_tail_that_is_cut_off_is_stored() -> None:
    loop = Loop(n_slots=1, cells=1000, cache_bytes=10_000)
    serve(loop, *range(LONG))
    assert serve(loop, *range(10), 800).cached_tokens == 10
    assert serve(loop, *range(LONG), 7).cached_tokens == LONG


def test_without_host_memory_nothing_comes_back() -> None:
    loop = Loop(n_slots=1, cells=1000)
    serve(loop, *range(LONG))
    serve(loop, *range(500, 500 + LONG))
    assert serve(loop, *range(LONG), 7).cached_tokens == 0


def test_only_part_of_a_stored_state_is_used() -> None:
    loop = Loop(n_slots=1, cells=1000, cache_bytes=10_000)
    serve(loop, *range(LONG))
    serve(loop, 1)
    assert serve(loop, *range(LONG - 10), 900, 901).cached_tokens == LONG - 10


def test_what_another_slot_holds_is_not_stored() -> None:
    loop = Loop(n_slots=3, cells=2000, cache_bytes=100_000)
    for i in range(3):
        serve(loop, *range(LONG), 900 + i)
    serve(loop, 1)
    assert len(loop.scheduler.cache.prompt_cache) == 0


def test_room_is_made_before_a_state_is_restored() -> None:
    loop = Loop(n_slots=2, cells=2 * LONG + 20, cache_bytes=100_000)
    serve(loop, *range(LONG))
    serve(loop, *range(500, 500 + LONG))
    serve(loop, *range(700, 700 + LONG))
    back = serve(loop, *range(LONG), 3)
    assert back.cached_tokens == LONG


def test_a_failed_step_leaves_no_empty_state() -> None:
    loop = Loop(n_slots=1, cells=1000, cache_bytes=10_000)
    serve(loop, *range(LONG))
    loop.submit(request(range(500, 500 + LONG), 2))
    loop.scheduler.admit(99.0)
    assert len(loop.scheduler.cache.prompt_cache) == 1
    loop.scheduler.reset()
    assert len(loop.scheduler.cache.prompt_cache) == 0


@pytest.mark.parametrize("n", [0, 1, 5, 64, 1000])
def test_common_prefix(n: int) -> None:
    a = list(range(1000))
    b = [*range(n), *([-1] if n < 1000 else [])]
    assert common_prefix(a, b) == common_prefix(b, a) == n


def test_the_fake_depends_on_all_tokens() -> None:
    assert next_token([1, 2, 3]) != next_token([2, 1, 3])
