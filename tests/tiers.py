"""Tiers of tests, and how long each one took.

A tier is a folder of `tests/`; what is marked `slow` or `reference` is a tier of its own, wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

TIERS = {"unit": "unit", "fuzzing": "fuzz", "tiny": "tiny", "browser": "browser", "slow": "slow"}
"""Folder → name."""
MARKERS = ("slow", "reference")


def tier_of(report: pytest.TestReport) -> str:
    """The tier of a test, by its report."""
    marked = [marker for marker in MARKERS if marker in report.keywords]
    folder = report.nodeid.removeprefix("tests/").split("/")[0]
    return marked[0] if marked else TIERS.get(folder, folder)


def time_per_tier(reports: Iterable[pytest.TestReport]) -> list[str]:
    """A line per tier: seconds with set-up and clean-up, and the number of tests that were run."""
    seconds: dict[str, float] = {}
    tests: dict[str, set[str]] = {}
    for report in reports:
        tier = tier_of(report)
        seconds[tier] = seconds.get(tier, 0.0) + report.duration
        if report.when == "call":
            tests.setdefault(tier, set()).add(report.nodeid)
    order = [*TIERS.values(), *MARKERS]
    tiers = sorted(seconds, key=lambda tier: (order.index(tier) if tier in order else 99, tier))
    return [
        f"{tier:10}{seconds[tier]:8.1f} s  {len(tests.get(tier, ())):5} tests" for tier in tiers
    ]
