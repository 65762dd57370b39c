"""Requests with different LoRA adapters: never in one step, none waits long, no cache is shared."""

from __future__ import annotations

import pytest

from codellama.engine.batch import Fork, Restore
from codellama.engine.prompt_cache import WORTH_KEEPING
from codellama.engine.request import Request, State
from codellama.engine.scheduler import STEPS_PER_TURN, WORTH_WAITING
from tests.fake_runner import expected, request
from tests.scheduler_loop import Loop, answer

PLAIN, A, B = (0.0, 0.0), (1.0, 0.0), (0.0, 0.5)


def test_a_step_is_for_equal_adapters_and_they_take_turns() -> None:
    loop = Loop(n_slots=4, cells=1000)
    everyone = [request([i], 12, scales=a) for i, a in enumerate((PLAIN, A, PLAIN, B))]
    loop.submit(*everyone)
    loop.run()
    turns = [step.batch.scales for step in loop.steps]
    first, second, third = ([scales] * STEPS_PER_TURN for scales in (PLAIN, A, B))
    assert turns == (first + second + third) * 3
    for req in everyone:
        assert answer(req) == expected(req.prompt, 12, req.scales)
    assert {len(step.batch.tokens) for step in loop.steps[:STEPS_PER_TURN]} == {2}


def test_a_turn_ends_with_its_last_request() -> None:
    loop = Loop(n_slots=2)
    short, long = request([1], 2, scales=A), request([2], 9, scales=B)
    loop.submit(short, long)
    loop.run()
    assert [step.batch.scales for step in loop.steps] == [A] * 2 + [B] * 9


def test_newcomers_do_not_push_others_back() -> None:
    """A group that has just arrived stands behind those that wait already."""
    loop = Loop(n_slots=2, cells=1000)
    patient = request([1], 30, scales=PLAIN)
    loop.submit(patient)
    for i in range(60):
        loop.submit(request([i], 1, scales=(1.0 + i, 0.0)))
        loop.step()
    assert answer(patient) == expected([1], 30, PLAIN), "it had its turns"


def test_a_prompt_beside_answers_with_other_adapters_comes_in_chunks() -> None:
    loop = Loop(n_slots=2, cells=1000, n_batch=64, chunk=16)
    loop.submit(request([1, 2], 50, scales=A))
    loop.step()
    loop.submit(request(range(100, 300), 1, scales=B))
    for _ in range(4 * STEPS_PER_TURN):
        loop.step()
    for step in loop.steps[1:]:
        assert len(step.batch.tokens) == (1 if step.batch.scales == A else 16)


def test_drafts_are_only_asked_for_those_whose_turn_it_is() -> None:
    loop = Loop(n_slots=2, cells=1000)
    asked: list[Request] = []
    loop.guess = lambda s: (asked.append(s), expected(s.tokens, 3, s.scales))[1]  # type: ignore[func-returns-value]
    one, two = request([1], 20, scales=A), request([2], 20, scales=B)
    loop.submit(one, two)
    loop.run()
    assert asked[:3] == [one] * 3, "after its prompt"
    assert asked[3:6] == [two] * 3
    for req in (one, two):
        assert answer(req) == expected(req.prompt, 20, req.scales)


def test_a_busy_slot_is_forked_only_with_its_own_adapters() -> None:
    loop = Loop()
    loop.submit(request(range(20), 30, scales=A))
    for _ in range(3):
        loop.step()
    other, same = request(range(20), 3, scales=B), request(range(20), 3, scales=A)
    loop.submit(other, same)
    loop.run()
    assert (other.cached_tokens, same.cached_tokens) == (0, 19)
    forks = [e for step in loop.steps for e in step.batch.edits if isinstance(e, Fork)]
    assert len(forks) == 1


def test_an_idle_slot_is_continued_only_with_its_own_adapters() -> None:
    loop = Loop(n_slots=2)
    loop.submit(request(range(20), 3, scales=A))
    loop.run()
    other = request(range(20), 3, scales=B)
    loop.submit(other)
    loop.run()
    same = request(range(20), 3, scales=A)
    loop.submit(same)
    loop.run()
    assert (other.cached_tokens, same.cached_tokens) == (0, 19)
    assert answer(other) == expected(range(20), 3, B)


def test_nobody_waits_for_a_beginning_with_other_adapters() -> None:
    loop = Loop(n_slots=2, cells=2000)
    beginning = range(100, 100 + 4 * WORTH_WAITING)
    one, two = request(beginning, 2, scales=A), request(beginning, 2, scales=B)
    loop.submit(one, two)
    loop.step()
    assert two.state is State.PREFILL
    loop.run()
    assert two.cached_tokens == 0


def test_a_stored_state_comes_back_only_with_its_own_adapters() -> None:
    loop = Loop(n_slots=1, cells=1000, cache_bytes=100_000)
    prompt = range(2 * WORTH_KEEPING)
    for scales in (A, B, PLAIN):
        new = request(prompt, 2, scales=scales)
        loop.submit(new)
        loop.run()
        assert new.cached_tokens == 0
    assert len(loop.scheduler.cache.prompt_cache) == 2
    again = request(prompt, 2, scales=B)
    loop.submit(again)
    loop.run()
    assert again.cached_tokens == len(prompt) - 1
    assert answer(again) == expected(prompt, 2, B)
    assert any(isinstance(e, Restore) for step in loop.steps for e in step.batch.edits)


@pytest.mark.parametrize("scales", [A, B])
def test_what_is_saved_is_what_was_asked_for(scales: tuple[float, ...]) -> None:
    loop = Loop(n_slots=2)
    for each in (A, B):
        loop.submit(request(range(40), 2, scales=each))
    loop.run()
    state, edits = loop.scheduler.cache.plan_save(list(range(40)), scales)
    assert state is not None
    assert state.scales == scales
    for edit in edits:
        loop.runner.edit(edit)
    assert loop.scheduler.cache.plan_save(list(range(40)), PLAIN) == (None, [])
