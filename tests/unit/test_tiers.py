from __future__ import annotations

from typing import Any, Literal

import pytest

from tests.tiers import time_per_tier


def report(
    path: str, seconds: float, *markers: str, when: Literal["setup", "call", "teardown"] = "call"
) -> pytest.TestReport:
    keywords: dict[str, Any] = dict.fromkeys(markers, 1)
    nodeid = f"tests/{path}"
    return pytest.TestReport(
        nodeid, (nodeid, 1, "x"), keywords, "passed", None, when, duration=seconds
    )


def test_seconds_and_tests_are_told_by_tier_in_order() -> None:
    lines = time_per_tier(
        [
            report("tiny/test_a.py::test_x", 2.0, when="setup"),
            report("tiny/test_a.py::test_x", 1.5),
            report("unit/test_b.py::test_y", 0.25),
            report("unit/test_b.py::test_z", 0.5),
            report("fuzzing/test_c.py::test_f", 9.0),
        ]
    )
    assert [line.split() for line in lines] == [
        ["unit", "0.8", "s", "2", "tests"],
        ["fuzz", "9.0", "s", "1", "tests"],
        ["tiny", "3.5", "s", "1", "tests"],
    ]


def test_a_marker_is_a_tier_wherever_the_test_stands() -> None:
    [slow, reference] = time_per_tier(
        [
            report("tiny/test_a.py::test_x", 4.0, "reference"),
            report("unit/test_b.py::test_y", 3.0, "slow"),
        ]
    )
    assert (slow.split()[:2], reference.split()[:2]) == (["slow", "3.0"], ["reference", "4.0"])
