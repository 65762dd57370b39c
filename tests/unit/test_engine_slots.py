"""Slots are emptied and filled from outside, between requests, and every answer stays what it is."""

from __future__ import annotations

import random

import pytest

from codellama.engine import Engine, Scheduler
from codellama.engine.batch import KVState
from codellama.engine.prompt_cache import PromptCache
from tests.fake_runner import FakeRunner, expected, request
from tests.unit.test_engine import Inbox

N_SLOTS, CELLS = 3, 200


@pytest.mark.parametrize("seed", range(20))
def test_answers_do_not_depend_on_what_was_put_into_slots(seed: int) -> None:
    rng = random.Random(seed)
    scheduler = Scheduler(N_SLOTS, CELLS, 64, 16, prompt_cache=PromptCache(rng.choice([0, 500]), 1))
    engine = Engine(FakeRunner(N_SLOTS, CELLS), scheduler, 100)
    stems = [[rng.randrange(1000) for _ in range(60)] for _ in range(3)]
    states: list[KVState] = []
    set_slots = 0
    try:
        for _ in range(30):
            running = []
            for _ in range(rng.randrange(1, 4)):
                stem = rng.choice(stems)[: rng.randrange(1, 61)]
                prompt = [*stem, rng.randrange(1000)]
                inbox = Inbox()
                engine.submit([request(prompt, 5, inbox)])
                running.append((inbox, prompt))
            for _ in range(rng.randrange(4)):
                slot = rng.randrange(N_SLOTS)
                held = engine.slots()[slot]
                match rng.randrange(3):
                    case 0:
                        set_slots += engine.set_slot(slot, None)
                    case 1 if states:
                        set_slots += engine.set_slot(slot, rng.choice(states))
                    case _ if held.tokens:
                        state = engine.save_state(held.tokens, held.scales)
                        states += [state] if state is not None else []
                engine.check_integrity()
            for inbox, prompt in running:
                assert inbox.tokens() == expected(prompt, 5)
            engine.check_integrity()
        assert set_slots
    finally:
        engine.close()


def test_what_a_slot_does_is_told_and_a_busy_one_is_left_alone() -> None:
    engine = Engine(FakeRunner(2, 100), Scheduler(2, 100, 64, 16), 10)
    try:
        assert [slot.task for slot in engine.slots()] == [None, None]
        inbox = Inbox()
        asked = request(range(40), 3, inbox)
        engine.submit([asked])
        inbox.final()
        holder = next(slot for slot in engine.slots() if slot.tokens)
        assert holder.id == asked.slot
        timings = inbox.final().timings
        assert timings is not None
        assert timings.slot == asked.slot
        state = engine.save_state(holder.tokens, holder.scales)
        assert state is not None
        assert engine.set_slot(holder.id, None)
        assert all(not slot.tokens for slot in engine.slots())
        assert engine.set_slot(1, state)
        assert list(engine.slots()[1].tokens) == list(range(40)) + expected(range(40), 2)
        assert not engine.set_slot(1, KVState(list(range(101)), bytearray(101)))
        engine.check_integrity()
    finally:
        engine.close()


def test_what_is_counted() -> None:
    engine = Engine(FakeRunner(2, 100), Scheduler(2, 100, 64, 16), 10)
    try:
        inbox = Inbox()
        engine.submit([request(range(40), 3, inbox)])
        inbox.final()
        status = engine.status
        assert (status.longest, status.timed_prompt_tokens, status.timed_answer_tokens) == (
            43,
            40,
            2,
        )
        assert status.busy_slots == status.steps
    finally:
        engine.close()
