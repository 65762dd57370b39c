"""What steps usually take: by rows, by the place in a prompt, and what is not known."""

from __future__ import annotations

import random

import pytest

from codellama.engine.usual_times import UsualTimes, median, size_of

PLACES = [256.0, 768.0, 1280.0, 1792.0]
GROWTH = 1 / 1300  # of what the first row takes, for each that a row attends to


def seconds(depth: float, rows: int = 512) -> float:
    """A step of so many rows at this mean position, of a millisecond a row at none."""
    return rows * 0.001 * (1 + GROWTH * depth)


def learned(times: UsualTimes, prompts: int, noise: float = 0.0, seed: int = 0) -> UsualTimes:
    """After prompts of four steps each with two threads."""
    rng = random.Random(seed)
    for depth in PLACES * prompts:
        step = seconds(depth) * rng.lognormvariate(0, noise)
        times.compare(2, 512, depth, step)
        if times.ratio(512, depth, step) is None:
            times.begin(512, depth, step, 1.0)
    return times


def test_small_steps_are_alike_by_rows_and_large_ones_by_powers_of_two() -> None:
    assert len({size_of(rows) for rows in range(1, 17)}) == 16
    assert size_of(513) == size_of(1023) != size_of(511)


def test_the_middle() -> None:
    assert [median([3.0, 1.0, 2.0]), median([1.0, 2.0]), median([4.0])] == [2.0, 2.0, 4.0]


def test_a_size_that_was_never_seen_is_unknown() -> None:
    times = UsualTimes()
    assert times.ratio(8, 0.0, 1.0) is None
    times.begin(8, 0.0, 1.0, 2.0)
    assert times.ratio(8, 0.0, 1.0) == 2.0, "it took so long at a level of 2"
    assert times.ratio(9, 0.0, 1.0) is None


def test_two_steps_tell_what_the_place_in_a_prompt_costs() -> None:
    times = UsualTimes()
    times.compare(2, 512, 256.0, seconds(256.0))
    times.begin(512, 256.0, seconds(256.0), 1.0)
    assert times.ratio(512, 768.0, seconds(768.0)) == pytest.approx(seconds(768.0) / seconds(256.0))
    times.compare(2, 512, 768.0, seconds(768.0))
    for depth in (0.0, *PLACES, 9000.0):
        assert times.ratio(512, depth, seconds(depth)) == pytest.approx(1.0)
        assert times.ratio(700, depth, seconds(depth, 700)) == pytest.approx(1.0), "by the row"


def test_only_steps_with_as_many_threads_are_compared() -> None:
    times = UsualTimes()
    for n, depth in zip((1, 2, 1, 2), PLACES, strict=True):
        times.compare(n, 512, depth, seconds(depth) * (2 if n == 1 else 1))
    times.begin(512, 256.0, seconds(256.0), 1.0)
    assert times.ratio(512, 4000.0, seconds(4000.0)) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_outvoted(seed: int) -> None:
    """A tenth of deviation: the end of a prompt is known to a sixth against its beginning."""
    times = learned(UsualTimes(), prompts=10, noise=0.1, seed=seed)
    first, last = (times.ratio(512, depth, seconds(depth)) for depth in (PLACES[0], PLACES[-1]))
    assert first and last
    assert last / first == pytest.approx(1.0, abs=1 / 6)


@pytest.mark.parametrize("deep", [0.1, 1000.0])
def test_what_no_place_explains_has_bounds(deep: float) -> None:
    """Other programs came or went between two steps."""
    times = UsualTimes()
    times.compare(2, 512, 256.0, 1.0)
    times.compare(2, 512, 768.0, deep)
    times.begin(512, 256.0, 1.0, 1.0)
    ratio = times.ratio(512, 768.0, 1.0)
    assert ratio is not None
    assert 256 / 768 <= ratio <= 1.0


@pytest.mark.parametrize("rows", [1, 16])
def test_steps_of_few_rows_tell_nothing_about_places(rows: int) -> None:
    times = UsualTimes()
    times.compare(2, rows, 100.0, 1.0)
    times.compare(2, rows, 4000.0, 2.0)
    times.begin(rows, 100.0, 1.0, 1.0)
    assert times.ratio(rows, 4000.0, 1.0) == 1.0


def test_learning_follows_slowly_after_the_first_steps() -> None:
    times = UsualTimes()
    times.begin(4, 0.0, 1.0, 1.0)
    for _ in range(3):
        times.learn(4, 1.0)
    assert times.seen(4) == 3
    times.learn(4, 50.0)
    ratio = times.ratio(4, 0.0, 1.0)
    assert ratio is not None
    assert 0.9 < ratio < 1.0
    assert times.seen(5) == 0
