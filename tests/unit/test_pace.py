"""How long drafts should be, given what was measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.engine.pace import (
    FIRST_PROBE,
    LAST_PROBE,
    LEAST_ROW,
    MARGIN,
    ROW_BLOCK,
    Acceptance,
    Candidate,
    Probe,
    StepTimes,
    choose_lengths,
)


def free(rows: int) -> float:
    """Rows cost nothing, as on a GPU with few of them."""
    return 1.0


def dear(rows: int) -> float:
    """Every row costs a whole step."""
    return float(rows)


def test_free_rows_are_all_used() -> None:
    assert choose_lengths([Candidate(0.9, 8)], 1, 64, free) == [8]
    assert choose_lengths([Candidate(0.9, 8)], 1, 5, free) == [5]


def test_dear_rows_are_not_used() -> None:
    assert choose_lengths([Candidate(0.95, 8)], 1, 64, dear) == [0]


def test_a_small_gain_is_noise() -> None:
    assert choose_lengths([Candidate(0.02, 8)], 1, 64, free) == [0]


def test_the_surest_gets_the_rows_first() -> None:
    low, high = choose_lengths([Candidate(0.3, 8), Candidate(0.95, 8)], 2, 6, free)
    assert high > low


def test_lengths_follow_the_price() -> None:
    def length(price: float) -> int:
        return choose_lengths([Candidate(0.9, 32)], 1, 64, lambda rows: 1 + price * (rows - 1))[0]

    lengths = [length(price) for price in (0.01, 0.05, 0.2, 0.9)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 8
    assert lengths[-1] == 0


def test_more_requests_make_rows_dearer() -> None:
    """A step whose rows fill the processor has no room for guesses: time is flat up to 8 rows."""

    def seconds(rows: int) -> float:
        return max(1.0, rows / 8)

    assert choose_lengths([Candidate(0.6, 8)], 1, 64, seconds)[0] > 3
    assert choose_lengths([Candidate(0.6, 8)] * 8, 8, 64, seconds) == [0] * 8


def test_a_drafter_that_takes_time_is_paid_for() -> None:
    slow = choose_lengths([Candidate(0.8, 8)], 1, 64, free, [0.5])[0]
    quick = choose_lengths([Candidate(0.8, 8)], 1, 64, free, [0.05])[0]
    assert slow < quick
    together = choose_lengths([Candidate(0.8, 8)] * 4, 4, 64, free, [0.5])
    assert together == [slow] * 4, "one pass of the drafter serves all sequences"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 20)), max_size=8),
    st.integers(0, 40),
    st.floats(0, 2),
)
def test_lengths_keep_to_the_limits(raw: list[tuple[float, int]], room: int, price: float) -> None:
    candidates = [Candidate(chance, most) for chance, most in raw]
    lengths = choose_lengths(
        candidates, max(1, len(candidates)), room, lambda rows: 1 + price * rows
    )
    assert sum(lengths) <= room
    assert all(0 <= n <= c.most for n, c in zip(lengths, candidates, strict=True))


def test_acceptance_moves_from_the_prior_to_what_was_measured() -> None:
    acceptance = Acceptance()
    assert acceptance.chance(0.5) == 0.5
    for _ in range(100):
        acceptance.learn(0, 1)
    assert acceptance.chance(0.5) < 0.12
    for _ in range(100):
        acceptance.learn(8, 8)
    assert acceptance.chance(0.5) > 0.8


def test_step_times_between_and_beyond_what_was_measured() -> None:
    times = StepTimes()
    assert times.seconds(2) > times.seconds(1) > 0
    times.learn(1, 1.0)
    times.learn(5, 2.0)
    assert times.seconds(1) == 1.0
    assert times.seconds(3) == pytest.approx((1.0 + times.seconds(5)) / 2)
    assert times.seconds(9) > times.seconds(5)


def test_one_slow_step_does_not_change_the_picture() -> None:
    times = StepTimes()
    for _ in range(10):
        times.learn(4, 1.0)
    times.learn(4, 1000.0)
    assert times.seconds(4) < 1.5


def test_a_slow_machine_is_not_a_price_of_rows() -> None:
    times = StepTimes()
    for _ in range(20):
        times.learn(1, 1.0)
        times.learn(8, 2.0)
    for _ in range(40):  # others take its time, while nothing is drafted
        times.learn(1, 1.6)
    assert times.seconds(1) == pytest.approx(1.6, rel=0.01)
    assert times.seconds(8) / times.seconds(1) == pytest.approx(2, rel=0.15)


def test_the_price_of_rows_is_learned_all_the_same() -> None:
    times = StepTimes()
    for _ in range(100):
        times.learn(1, 1.0)
        times.learn(8, 2.0)
    for _ in range(100):  # the context has grown
        times.learn(1, 2.0)
        times.learn(8, 3.0)
    assert times.seconds(1) == pytest.approx(2, rel=0.05)
    assert times.seconds(8) == pytest.approx(3, rel=0.05)


def test_probes_become_rare_while_they_fail() -> None:
    probe = Probe()
    waits = []
    for _ in range(8):
        wait = 1
        while not probe.due():
            wait += 1
        waits.append(wait)
        probe.learn(0, 2)
    assert waits[0] == FIRST_PROBE
    assert waits == sorted(waits)
    assert waits[-1] == LAST_PROBE
    probe.learn(2, 2)
    assert probe.interval == FIRST_PROBE


def exhaustive(chance: float, most: int, seconds: Callable[[int], float]) -> int:
    """The best length of one draft, by trying all that are weighed."""
    rates = [MARGIN / seconds(1)]
    tokens = 1.0
    for n in range(1, most + 1):
        tokens += chance**n
        rates.append(tokens / max(seconds(1 + n), seconds(1) * (1 + LEAST_ROW * n)))
    weighed = [n for n in range(most + 1) if n < ROW_BLOCK or (1 + n) % ROW_BLOCK == 0 or n == most]
    return max(weighed, key=lambda n: (rates[n], -n))


@given(
    st.floats(0, 1),
    st.integers(0, 40),
    st.lists(st.floats(0.0, 0.5), min_size=41, max_size=41),
)
def test_stopping_early_misses_nothing(chance: float, most: int, steps: list[float]) -> None:
    """Steps take longer with more rows, however unevenly."""
    seconds = [1.0]
    for more in steps:
        seconds.append(seconds[-1] + more)
    found = choose_lengths([Candidate(chance, most)], 1, 64, lambda rows: seconds[rows - 1])[0]
    wanted = exhaustive(chance, most, lambda rows: seconds[rows - 1])

    def rate(n: int) -> float:
        tokens = sum(chance**i for i in range(n + 1))
        return tokens / max(seconds[n], 1 + LEAST_ROW * n)

    assert found == wanted or rate(found) == pytest.approx(rate(wanted))
