"""A request that is to repeat gets the same answer on an idle engine, whatever was there before it.

The cache under the engine is one in which places and numbers of rows matter, as in llama.cpp.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.engine import chunks as pieces
from codellama.engine.chunks import LARGEST, SMALLEST, Chunks
from codellama.engine.request import Reuse
from tests.placed_runner import PlacedRunner
from tests.traffic import Ask, Features, Operation, Steps, Submit, Traffic, World, traffic
from tests.traffic_driver import Asked, Driver

FEATURES = {
    "plain": Features(),
    "parking": Features(parking=True),
    "everything": Features(
        parking=True, drafts=True, shift=True, adapters=True, scoring=True, states=True, faults=True
    ),
}


class PlacedDriver(Driver):
    """Plays traffic for what it leaves in the cache."""

    def make_runner(self, world: World) -> PlacedRunner:
        return PlacedRunner(world.n_slots, world.cells)

    def _save(self, asked: Asked, load: bool) -> None:
        tokens, scales = [*asked.request.prompt, *asked.tokens], asked.request.scales
        state = self.engine.save_state(tokens, scales)
        if state is not None and load:
            self.engine.add_state(state)

    def leave(self, drawn: Traffic) -> None:
        """All of `drawn`, until nothing is left to do."""
        for operation in drawn.operations:
            self._do(operation)
        self.engine.run()
        self.engine.check_integrity()

    def answers(self, new: Submit) -> list[Any]:
        """What `new`, of which all choices are without drafts, is told; and how much was in the cache."""
        count = len(self.asked)
        for ask in new.asks:
            assert ask.reuse is not Reuse.ALL
        self._submit(new)
        group = self.asked[count:]
        for asked in group:
            asked.request.n_draft_max = 0
        self.engine.run()
        self.engine.check_integrity()
        return [(asked.tokens, [d.logprobs for d in asked.deltas[1:]]) for asked in group]

    def cached(self) -> int:
        return sum(asked.request.cached_tokens for asked in self.asked[-1:])


def compare(drawn: Traffic, new: Submit, times: int = 2) -> Counter[str]:
    """Ask `new` of an engine that has served `drawn`, and of a new one."""
    events: Counter[str] = Counter()
    used, fresh = PlacedDriver(drawn.world), PlacedDriver(drawn.world)
    try:
        used.leave(drawn)
        for _ in range(times):
            got = used.answers(new)
            events["cached"] += used.cached()
            want = fresh.answers(new)
            assert got == want
            fresh.engine.close()
            fresh = PlacedDriver(drawn.world)
    finally:
        used.engine.close()
        fresh.engine.close()
    return events


def repeating(features: Features) -> st.SearchStrategy[Submit]:
    """A prompt like those of the traffic, for one to three choices with equal parameters."""
    ask = st.builds(
        Ask,
        max_tokens=st.integers(0, 30),
        scales=st.sampled_from([(0.0, 0.0), (1.0, 0.0)]) if features.adapters else st.just(()),
        n_top=st.sampled_from([None, None, 1]) if features.scoring else st.none(),
        reuse=st.sampled_from([Reuse.EQUAL, Reuse.EQUAL, Reuse.NONE]),
    )
    return st.builds(
        Submit,
        stride=st.integers(0, 2),
        length=st.integers(1, 110),
        tail=st.lists(st.integers(0, 8), max_size=4).map(tuple),
        asks=st.tuples(ask, st.integers(1, 3)).map(lambda pair: (pair[0],) * pair[1]),
    )


@pytest.mark.parametrize("name", FEATURES)
def test_what_was_before_makes_no_difference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, events = FEATURES[name], Counter[str]()
    monkeypatch.setattr(pieces, "LARGEST", 16)  # prompts of traffic are short
    monkeypatch.setattr(pieces, "SMALLEST", 4)

    @settings(max_examples=100, deadline=None, report_multiple_bugs=False)
    @given(traffic(features), repeating(features))
    def played(drawn: Traffic, new: Submit) -> None:
        world = replace(drawn.world, n_batch=16)  # so that other requests are cut alike by chance
        events.update(compare(replace(drawn, world=world), new))

    played()
    assert events["cached"], "what is equal is taken over"


@pytest.mark.parametrize("n_batch", [1, 7, 64, 100, 512, 2048])
def test_the_pieces_of_a_prompt(n_batch: int) -> None:
    chunks = Chunks(n_batch)
    assert chunks.largest <= min(n_batch, LARGEST)
    assert chunks.smallest == min(SMALLEST, chunks.largest)
    for n in (1, 2, 63, 64, 65, 128, 129, 255, 256, 257, 700, 1024):
        ends, at = [], 0
        while at < n:
            size = chunks.following(n - at)
            assert 0 < size <= n_batch
            at += size
            ends.append(at)
        assert ends[-1] == n
        assert n - (ends[-2] if len(ends) > 1 else 0) <= chunks.smallest, "little is decoded again"
        assert chunks.agreeing(ends, n, n) == (ends[-2] if len(ends) > 1 else 0)


def test_pieces_that_are_cut_elsewhere_do_not_agree() -> None:
    chunks = Chunks(512)
    assert chunks.agreeing([256, 512, 576], 700, 600) == 512
    assert chunks.agreeing([256, 512, 576], 580, 600) == 576
    assert chunks.agreeing([512, 700], 700, 600) == 0
    assert chunks.agreeing([256, 512, 576], 700, 500) == 256
    assert chunks.agreeing([], 700, 500) == 0


def world(n_slots: int = 3) -> World:
    return World(n_slots, 300, 16, 16, 8, cache_bytes=0, n_ctx=300, guesses=(), lies=0)


def prompt(length: int, *tail: int, stride: int = 1, reuse: Reuse = Reuse.ALL) -> Submit:
    return Submit(stride, length, tail, (Ask(max_tokens=5, reuse=reuse),))


@pytest.mark.parametrize(
    "before",
    [
        # beside an idle cache, to which a short request need not give way
        [prompt(20, stride=2), Steps(99), prompt(40)],
        # in one step with another
        [prompt(8), prompt(8, stride=2)],
        # from a cache that lies behind another
        [prompt(20, stride=2), Steps(99), prompt(16, 3), Steps(99), prompt(40, 5)],
    ],
)
def test_what_lies_elsewhere_or_was_decoded_otherwise_is_not_taken_over(
    before: list[Operation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "LARGEST", 16)
    monkeypatch.setattr(pieces, "SMALLEST", 4)
    for length in (10, 40):
        compare(Traffic(world(), before), prompt(length, 7, reuse=Reuse.EQUAL))


def test_what_others_left_in_equal_pieces_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LARGEST", 16)
    monkeypatch.setattr(pieces, "SMALLEST", 4)
    for reuse, cached in ((Reuse.EQUAL, 16 + 32), (Reuse.NONE, 0)):
        events = compare(Traffic(world(), [prompt(18)]), prompt(34, 7, reuse=reuse))
        assert events["cached"] == cached
