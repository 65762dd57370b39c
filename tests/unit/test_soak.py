"""What the soak makes of its samples: growth is told from noise, and every fault has a sentence."""

from __future__ import annotations

import pytest

from bench.client import BenchError
from soak import FEWEST_SAMPLES, Look, look, problems, summary

HOUR = 3600.0


def looks(slope: float, files: int = 0, threads: int = 0) -> list[Look]:
    """An hour's samples: 300 MB in the warm-up, then 100 MB and so many MB more an hour."""
    found = []
    for i in range(720):
        at = i * 5.0
        memory = 300 - i if at < HOUR / 6 else 100 + slope * at / HOUR + i % 2
        late = at > HOUR / 2 + HOUR / 12
        found.append(Look(at, memory, 20 + late * files, 9 + late * threads))
    return found


def waits(late: float) -> list[tuple[float, float]]:
    return [(float(at), 0.1 if at < 2100 else late) for at in range(3600)]


def test_what_stays_as_it_is_is_no_problem() -> None:
    figures = summary(looks(0.2), waits(0.1), HOUR)
    assert figures["memory_slope"] == pytest.approx(0.2, abs=0.1)
    assert figures["samples"] == 600
    assert problems(figures, [], alive=True) == []


@pytest.mark.parametrize(
    ("samples", "first", "word"),
    [
        (looks(3), waits(0.1), "memory grows by 3"),
        (looks(0, files=1), waits(0.1), "files grow"),
        (looks(0, threads=1), waits(0.1), "threads grow"),
        (looks(0), waits(0.2), "first_p99 grow"),
    ],
)
def test_what_grows_is_named(
    samples: list[Look], first: list[tuple[float, float]], word: str
) -> None:
    found = problems(summary(samples, first, HOUR), [], alive=True)
    assert len(found) == 1
    assert word in found[0]


def test_wrong_answers_and_a_server_that_ended_are_problems_in_any_case() -> None:
    figures = summary(looks(9)[:FEWEST_SAMPLES], [], 500)
    assert figures["samples"] < FEWEST_SAMPLES, "too few to speak of growth"
    assert len(problems(figures, ["chat: 500"], alive=False)) == 2


def test_a_process_that_is_gone_is_an_error() -> None:
    with pytest.raises(BenchError, match="ended after 7 seconds"):
        look(2**22 + 1, 7)
