"""The policy of threads on made-up machines of 2 to 64 cores: what it finds, how soon, and what it costs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from codellama.engine.thread_count import ThreadCount
from codellama.engine.threads import Threads
from tests.simulated_machine import Run, SimulatedMachine, run

SIZES = [2, 3, 4, 6, 8, 12, 16, 32, 64]
SEEDS = range(5)


def machine_of(n: int, seed: int = 0, **more: object) -> SimulatedMachine:
    """`n` equal cores; steps of 2 to 10 milliseconds."""
    return SimulatedMachine([1.0] * n, work=0.004 * (n + 1), alone=0.01, seed=seed, **more)  # type: ignore[arg-type]


def counting(n: int, most: int | None = None) -> ThreadCount:
    return ThreadCount(n, most or n, "one per core")


def settled(machine: SimulatedMachine, count: ThreadCount, seconds: float = 3.0) -> Run:
    return run(machine, count, seconds)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_quiet_machine_pays_next_to_nothing(n: int, seed: int) -> None:
    """Under half a percent beside the same steps with the right number throughout."""
    machine = machine_of(n, seed, noise=0.0)
    count, seconds = counting(n), 0.0
    steps = 12000
    for _ in range(steps):
        time = machine.seconds(count.choose())
        count.learn(1, time)
        seconds += time
    assert count.n == n
    assert seconds / (steps * machine.plain(n)) < 1.005


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_core_that_is_taken_is_left_within_half_a_second(n: int, seed: int, tells: bool) -> None:
    machine, count = machine_of(n, seed, tells=tells), counting(n)
    settled(machine, count)
    machine.taken = 1
    found = run(machine, count, 4.0)
    assert found.reached(max(1, n - 3), n - 1) < 0.5
    assert count.n < n, "it stays away"
    assert "other programs" in count.why


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_core_that_came_back_is_used_within_two_seconds(n: int, seed: int, tells: bool) -> None:
    machine, count = machine_of(n, seed, tells=tells), counting(n)
    settled(machine, count)
    machine.taken = 1
    run(machine, count, 10.0)
    machine.taken = 0
    assert run(machine, count, 4.0).reached(n, n) < (1.0 if tells else 2.0)
    assert count.why == "one per core"


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("taken", [2, 5, 13, 20])
def test_several_cores_are_left_together(taken: int, tells: bool) -> None:
    machine, count = machine_of(32, tells=tells), counting(32)
    settled(machine, count)
    machine.taken = taken
    run(machine, count, 3.0)
    free = 32 - taken
    assert 0.75 * free <= count.n <= free
    machine.taken = 0
    assert run(machine, count, 4.0).reached(32, 32) < 2.0


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("seed", SEEDS)
def test_noise_does_not_make_it_swing(n: int, seed: int, tells: bool) -> None:
    """A tenth of deviation and a step of ten times its length now and then: a minute of it."""
    machine, count = machine_of(n, seed, noise=0.1, burst_every=300, tells=tells), counting(n)
    found = run(machine, count, 60.0)
    away = sum(number != n for _, number in found.counts)
    assert away / len(found.counts) < 0.05
    assert found.changes <= 12


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("n", [2, 4, 8, 64])
@pytest.mark.parametrize("seed", SEEDS)
def test_it_does_not_swing_while_a_core_is_taken(n: int, seed: int, tells: bool) -> None:
    machine, count = machine_of(n, seed, tells=tells), counting(n)
    settled(machine, count)
    machine.taken = 1
    run(machine, count, 2.0)
    found = run(machine, count, 30.0)
    assert found.changes <= 10
    best = min(SimulatedMachine.plain(machine, m) for m in range(1, n))
    assert found.seconds / (len(found.counts) * best) < 1.08


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_core_that_comes_and_goes(seed: int, tells: bool) -> None:
    """Every three seconds: close to the best number of each phase."""
    machine, count = machine_of(4, seed, tells=tells), counting(4)
    spent = best = 0.0
    for phase in range(10):
        machine.taken = phase % 2
        found = run(machine, count, 3.0)
        spent += found.seconds
        best += len(found.counts) * machine.plain(machine.best())
    assert best / spent > (0.93 if tells else 0.85)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_core_that_is_known_to_be_taken_is_hardly_tried(seed: int) -> None:
    machine, count = machine_of(2, seed, tells=True), counting(2)
    settled(machine, count)
    machine.taken = 1
    run(machine, count, 3.0)
    found = run(machine, count, 30.0)
    assert found.seconds / (len(found.counts) * machine.plain(1)) < 1.015


def long_steps(cores: int, taken: int = 0) -> tuple[SimulatedMachine, ThreadCount]:
    """Steps of half a second, as of long prompts."""
    machine = machine_of(cores, tells=True, taken=taken)
    machine.work = 0.5 * cores
    return machine, counting(cores)


@pytest.mark.parametrize(("cores", "taken", "crowd"), [(2, 1, 3), (4, 1, 7), (8, 3, 13)])
def test_long_steps_get_a_crowd_where_cores_are_taken(cores: int, taken: int, crowd: int) -> None:
    """From the third of them on, though nobody knows what they take on a quiet machine."""
    machine, count = long_steps(cores, taken=taken)
    found = run(machine, count, 20.0)
    assert found.reached(crowd - 1, crowd) < 4 * machine.seconds(cores)
    assert "larger part" in count.why
    assert count.n <= crowd
    machine.taken = 0
    assert run(machine, count, 10.0).reached(cores, cores) < 3.0
    assert count.why == "one per core"


def prompts(times: dict[int, float], n: int, noise: float, seed: int) -> tuple[float, list[int]]:
    """`n` prompts of four long steps and a short one while one of two cores is taken.

    A row takes longer by what it attends to, a step by its number of threads. The best number's seconds ÷
    those that were taken, and the number after each prompt."""
    count, rng = counting(2), random.Random(seed)
    spent = best = 0.0
    numbers = []
    for _ in range(n):
        for depth, rows in ((256, 512), (768, 512), (1280, 512), (1792, 512), (2083, 70)):
            plain = 0.5 * (1 + depth / 1300) * (1 if rows == 512 else 0.25)
            seconds = plain * times[count.choose()] * rng.lognormvariate(0, noise)
            spent, best = spent + seconds, best + plain * min(times.values())
            others = (1.0 if count.choose() == 1 else 0.7) + rng.gauss(0, 0.06)
            count.heard(2 - others, others)
            count.learn(rows, seconds, depth)
        numbers.append(count.n)
    return best / spent, numbers


@pytest.mark.parametrize("seed", SEEDS)
def test_steps_at_different_places_of_a_prompt_are_compared(seed: int) -> None:
    """The last takes twice as long as the first; what gains a seventh is found by the second prompt."""
    share, numbers = prompts({1: 0.98, 2: 1.0, 3: 0.86}, 20, noise=0.02, seed=seed)
    assert set(numbers[1:]) == {3}
    assert share > 0.98


@pytest.mark.parametrize("best", [1, 2, 3])
def test_noise_does_not_decide_about_long_steps(best: int) -> None:
    """An eighth of deviation, where the best number is as much quicker than the others."""
    times = {n: 0.86 if n == best else 1.0 for n in (1, 2, 3)}
    found = [prompts(times, 40, noise=0.125, seed=seed)[0] for seed in range(20)]
    assert sum(found) / len(found) > 0.93


def test_a_trial_ends_where_only_steps_of_another_size_follow() -> None:
    """Nobody knows what those take otherwise, so the number stays as it was."""
    _, count = long_steps(2, taken=1)
    while count.choose() == count.n:
        count.heard(1.5, 0.5)
        count.learn(512, 1.0)
    for _ in range(8):
        count.learn(100, 0.2)
    assert count.choose() == count.n == 2


def test_very_long_steps_are_tried_as_rarely_as_long_ones() -> None:
    """A minute each, as of large models: pauses are counted in steps."""
    machine, count = long_steps(2, taken=1)
    machine.seconds = lambda n, rows=1: {1: 60.0, 2: 60.0}.get(n, 80.0)  # type: ignore[method-assign]
    tried = 0
    for _ in range(100):
        n = count.choose()
        tried += n != count.n
        count.heard(1.5 if n > 1 else 1.0, 0.5 if n > 1 else 1.0)
        count.learn(512, machine.seconds(n), 256.0)
    assert tried < 25


def test_a_prompt_that_gets_longer_is_no_reason_to_change() -> None:
    """Its later steps take half as long again, on a machine that is known to do nothing else."""
    machine, count = long_steps(2)
    spent = plain = 0.0
    for i in range(80):
        longer = 1 + 0.125 * (i % 5)
        time = machine.seconds(count.choose()) * longer
        spent, plain = spent + time, plain + machine.plain(2) * longer
        count.heard(2.0, 0.0)
        count.learn(512, time)
    assert spent / plain < 1.03, "looks into it now and then"


def test_short_steps_get_no_crowd() -> None:
    machine, count = machine_of(2, tells=True), counting(2)
    machine.taken = 1
    assert max(n for _, n in run(machine, count, 20.0).counts) == 2
    assert count.n == 1


def test_a_short_step_that_had_to_wait_is_not_long() -> None:
    machine, count = machine_of(2, tells=True), counting(2)
    settled(machine, count)
    numbers = set()
    for i in range(400):
        numbers.add(count.choose())
        count.heard(1.5, 0.5)
        count.learn(1, machine.seconds(count.choose()) * (60 if i % 40 == 0 else 1))
    assert numbers == {1, 2}


def test_a_crowd_that_does_not_help_is_left() -> None:
    """Programs on every core, more than a crowd could push aside."""
    machine, count = long_steps(2, taken=1)
    machine.seconds = lambda n, rows=1: 0.5 if n < 3 else 0.8  # type: ignore[method-assign]
    found = run(machine, count, 60.0)
    assert max(n for _, n in found.counts) == 2
    assert found.seconds / len(found.counts) < 0.53


def test_efficiency_cores_are_tried_and_left() -> None:
    """Eight quick cores and eight that would hold all up."""
    machine = SimulatedMachine([1.0] * 8 + [0.4] * 8, work=0.04, alone=0.01)
    count = counting(8, 16)
    spent = run(machine, count, 30.0)
    assert count.n == 8
    assert spent.seconds / (len(spent.counts) * machine.plain(8)) < 1.01


def test_efficiency_cores_that_help_are_used() -> None:
    machine = SimulatedMachine([1.0] * 4 + [0.8] * 8, work=0.04, alone=0.01)
    count = counting(4, 12)
    run(machine, count, 60.0)
    assert count.n > 4
    assert "more than the 4" in count.why


def test_memory_that_feeds_fewer_cores_is_found_out() -> None:
    """With 64 threads on memory for 12, meeting takes longer than it gains."""
    machine = SimulatedMachine([1.0] * 64, work=0.02, alone=0.01, bandwidth=12.0)
    count = counting(64)
    run(machine, count, 60.0)
    assert machine.plain(count.n) < 0.9 * machine.plain(64)


@pytest.mark.parametrize("tells", [False, True])
def test_a_machine_that_was_busy_from_the_beginning(tells: bool) -> None:
    machine, count = machine_of(2, tells=tells), counting(2)
    machine.taken = 1
    run(machine, count, 15.0)
    assert count.n == 1
    machine.taken = 0
    assert run(machine, count, 4.0).reached(2, 2) < 2.0


def test_steps_of_different_sizes_are_compared_by_their_size() -> None:
    machine, count = machine_of(4, noise=0.0), counting(4)
    found = run(machine, count, 20.0, rows=(1, 8, 3, 33, 500, 1, 1))
    assert count.n == 4
    assert found.changes == 0


def test_long_steps_are_judged_one_by_one() -> None:
    """A model whose tokens take a second: three slow steps are enough to leave a core."""
    machine, count = machine_of(4), counting(4)
    machine.work = 4.0
    for _ in range(10):
        count.learn(1, machine.seconds(count.choose()))
    for _ in range(5):
        count.learn(1, machine.seconds(count.choose()) * (2.5 if count.choose() == 4 else 1.0))
    assert count.n == 3


def test_a_context_that_grows_is_no_reason_to_change() -> None:
    """Steps that become three times as long within twenty seconds, bit by bit."""
    machine, count = machine_of(4, noise=0.02), counting(4)
    numbers = set()
    for i in range(4000):
        count.learn(1, machine.seconds(count.choose()) * (1 + i / 2000))
        numbers.add(count.n)
    assert numbers == {4}


def test_after_a_rest_more_threads_are_tried_at_once() -> None:
    machine, count = machine_of(2), counting(2)
    settled(machine, count)
    machine.taken = 1
    run(machine, count, 10.0)
    assert count.n == 1
    machine.taken = 0
    count.rested()
    assert run(machine, count, 1.0).reached(2, 2) < 0.1


def test_a_fixed_number_stays() -> None:
    machine, count = machine_of(4), ThreadCount(3, 3, "as asked for", adapts=False)
    machine.taken = 2
    run(machine, count, 5.0)
    assert (count.n, count.choose(), count.why) == (3, 3, "as asked for")


def both(**options: Any) -> tuple[Threads, ThreadCount, ThreadCount]:
    answers, prompts = counting(4), ThreadCount(3, 4, "one per core")
    return Threads(answers, prompts, **options), answers, prompts


def test_answers_and_prompts_have_numbers_of_their_own() -> None:
    threads, answers, prompts = both()
    assert (threads.choose(0, 1, 0, False), threads.choose(0, 300, 299, False)) == (4, 3)
    assert threads.choose(0, 12, 8, False) == 4, "a short prompt among answers"
    for _ in range(200):
        threads.choose(0, 1, 0, False)
        threads.learn(1, 0.003)
    while answers.n == 4:
        slow = threads.choose(0, 1, 0, False) == 4
        threads.learn(1, 0.03 if slow else 0.004)
    assert (answers.n, prompts.n) == (3, 3)
    assert threads.status.n == 3
    assert threads.status.n_batch == 3
    assert threads.status.changes == 1
    assert "other programs" in threads.status.why
    assert threads.status.why_batch == "one per core"


def test_a_row_that_rounds_by_the_number_of_threads_keeps_it() -> None:
    """Of requests that are to repeat, whatever a trial or other programs make of the number."""
    threads, answers, _ = both(one_row_varies=True)
    answers.n = 2
    assert threads.choose(0, 1, 0, True) == 4
    threads.learn(1, 9.9)
    assert threads.choose(0, 1, 0, False) == 2
    assert threads.choose(0, 2, 0, True) == 2, "rows of several do not depend on it"
    plain, answers, _ = both(one_row_varies=False)
    answers.n = 2
    assert plain.choose(0, 1, 0, True) == 2


class Told:
    """What is free, as told."""

    def __init__(self, *answers: tuple[float, float] | None) -> None:
        self.answers = [*answers]
        self.restarts = 0

    def restart(self) -> None:
        self.restarts += 1

    def since(self) -> tuple[float, float] | None:
        return self.answers.pop(0) if self.answers else None


def test_what_is_free_is_told_to_both() -> None:
    told = Told(None, (2.5, 1.5))
    threads, answers, prompts = both(processors=told)
    heard: list[tuple[str, float, float]] = []
    answers.heard = lambda *said: heard.append(("answers", *said))  # type: ignore[method-assign]
    prompts.heard = lambda *said: heard.append(("prompts", *said))  # type: ignore[method-assign]
    for now in (5.0, 5.1, 5.2, 9.0):
        threads.choose(now, 1, 0, False)
        threads.learn(1, 0.1)
    assert heard == [("answers", 2.5, 1.5), ("prompts", 2.5, 1.5)]
    assert told.restarts == 2, "what was before a rest says nothing about now"


def test_no_threads_to_choose_from() -> None:
    threads = Threads.fixed(2)
    assert {threads.choose(0, rows, rows - 1, False) for rows in (1, 2, 300)} == {2}
    threads.learn(1, 1.0)
    assert threads.status.changes == 0


def test_only_a_long_pause_is_a_rest() -> None:
    """Requests that follow each other closely must not cost a trial each."""
    threads, answers, _ = both()
    rests: list[float] = []
    answers.rested = lambda: rests.append(now)  # type: ignore[method-assign]
    for now in (10.0, 10.5, 11.2, 20.0, 20.9):
        threads.choose(now, 1, 0, False)
        threads.learn(1, 0.1)
    assert rests == [10.0, 20.0]
