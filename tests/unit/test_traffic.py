"""Whatever comes and goes, whatever is on at once: a request ends once and is told what a lone one would be.

After every step the engine's invariants hold, and what stays in the cache at the end is exact.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings

from tests.traffic import Features, Traffic, traffic
from tests.traffic_driver import play

TABLE = {
    "plain": Features(),
    "parking and drafts": Features(parking=True, drafts=True),
    "context shift": Features(parking=True, drafts=True, shift=True, adapters=True),
    "adapters": Features(parking=True, drafts=True, adapters=True),
    "scoring": Features(scoring=True),
    "draft model": Features(model_drafts=True),
    "saved states": Features(parking=True, states=True, shift=True, adapters=True),
    "failing steps": Features(parking=True, model_drafts=True, scoring=True, faults=True),
    "shift, adapters, drafts and scoring": Features(
        drafts=True, shift=True, adapters=True, scoring=True
    ),
    "everything": Features(*[True] * 8),
}
N_EXAMPLES = 60
OCCURS = {
    "parking": ("Save",),
    "drafts": ("accepted", "rejected"),
    "model_drafts": ("accepted", "rejected"),
    "shift": ("Shift",),
    "adapters": ("adapters (0.0, 0.0)", "adapters (1.0, 0.0)", "adapters (0.0, 0.5)"),
    "scoring": ("scored",),
    "states": ("saved",),
    "faults": ("FinishReason.ERROR",),
}


@pytest.mark.parametrize("name", TABLE)
def test_answers_are_those_of_lone_requests(name: str) -> None:
    features, events = TABLE[name], Counter[str]()

    @settings(max_examples=N_EXAMPLES, deadline=None, report_multiple_bugs=False)
    @given(traffic(features))
    def played(drawn: Traffic) -> None:
        events.update(play(drawn))

    played()
    occurs = [event for feature, on in vars(features).items() if on for event in OCCURS[feature]]
    for event in (
        "Fork",
        "Trim",
        "cached",
        "FinishReason.LENGTH",
        "FinishReason.CANCELLED",
        *occurs,
    ):
        assert events[event] > 0, f"no {event}: this traffic shows nothing of it"
