"""Traffic for the engine, drawn by hypothesis: an engine's measures, and what is asked of it in which order.

`Features` says what a kind of traffic may hold. A failing example shrinks to a few operations that can be
read: which prompts came, when the engine took steps, who was cancelled. `tests.traffic_driver` plays it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import strategies as st

from codellama.engine.batch import Scales
from codellama.engine.request import ContextShift, Reuse

ADAPTERS: tuple[Scales, ...] = ((0.0, 0.0), (1.0, 0.0), (0.0, 0.5))
SOONEST_SHIFT = 60  # the largest context of traffic that shifts, so that answers reach its end


@dataclass(frozen=True)
class Features:
    """What may occur; without any, prompts come, share their beginnings and are cancelled."""

    parking: bool = False  # there is host memory for caches
    drafts: bool = False  # a drafter that knows the answers and errs
    model_drafts: bool = False  # a draft model with a cache of its own
    shift: bool = False
    adapters: bool = False
    scoring: bool = False
    states: bool = False  # KV states are saved and loaded
    faults: bool = False  # steps fail


@dataclass(frozen=True)
class World:
    """The scheduler's measures. A drafter's guesses begin with so many right tokens and go on with so
    many wrong ones, in turn; every `lies`-th guess of the draft model is wrong."""

    n_slots: int
    cells: int
    n_batch: int
    chunk: int
    max_outputs: int
    cache_bytes: int
    n_ctx: int
    guesses: tuple[tuple[int, int], ...]
    lies: int


@dataclass(frozen=True)
class Ask:
    """One answer to a prompt, of at most `max_tokens` tokens."""

    max_tokens: int
    scales: Scales = ()
    n_top: int | None = None  # alternatives in the prompt's log probabilities; None: not scored
    shift: ContextShift | None = None
    reuse: Reuse = Reuse.ALL
    id_slot: int = -1


@dataclass(frozen=True)
class Submit:
    """A prompt that counts in steps of `stride` and then says `tail` is sent with all `asks` at once."""

    stride: int
    length: int
    tail: tuple[int, ...]
    asks: tuple[Ask, ...]


@dataclass(frozen=True)
class Steps:
    """The engine takes `n` steps."""

    n: int


@dataclass(frozen=True)
class Cancel:
    """The request `which`, of those that have not ended, is cancelled."""

    which: int


@dataclass(frozen=True)
class Save:
    """The KV state of the request `which`, of all there have been, is saved, and loaded again if `load`."""

    which: int
    load: bool


@dataclass(frozen=True)
class Fail:
    """The engine takes a step, and fails in the next."""


Operation = Submit | Steps | Cancel | Save | Fail


@dataclass(frozen=True)
class Traffic:
    """What is asked, in which order, of an engine with which measures."""

    world: World
    operations: list[Operation]


def traffic(features: Features) -> st.SearchStrategy[Traffic]:
    """Traffic that may hold `features`."""
    # A list of lists becomes longer than a list, and shrinks as well.
    lists = st.lists(st.lists(_operation(features), max_size=14), max_size=8)
    operations = lists.map(lambda parts: list(itertools.chain.from_iterable(parts)))
    return st.builds(Traffic, _worlds(features), operations)


@st.composite
def _worlds(draw: st.DrawFn, features: Features) -> World:
    n_slots, cells = draw(st.integers(1, 5)), draw(st.integers(60, 300))
    guess = st.tuples(st.integers(0, 8), st.integers(0, 8))
    return World(
        n_slots=n_slots,
        cells=cells,
        n_batch=draw(st.integers(8, 64)),
        chunk=draw(st.integers(1, 32)),
        max_outputs=draw(st.integers(n_slots, 40)),
        cache_bytes=draw(st.sampled_from([0, 700, 3000, 3000])) if features.parking else 0,
        n_ctx=draw(st.integers(2, SOONEST_SHIFT)) if features.shift else cells,
        guesses=tuple(draw(st.lists(guess, min_size=1, max_size=4))) if features.drafts else (),
        lies=draw(st.integers(2, 6)) if features.model_drafts else 0,
    )


def _operation(features: Features) -> st.SearchStrategy[Operation]:
    which = st.integers(0, 40)
    kinds: list[st.SearchStrategy[Operation]] = [
        *[_submits(features)] * 3,
        *[st.builds(Steps, st.integers(1, 6))] * 3,
        st.builds(Cancel, which),
    ]
    if features.states:
        kinds.append(st.builds(Save, which, st.booleans()))
    if features.faults:
        kinds.append(st.just(Fail()))
    return st.sampled_from(kinds).flatmap(lambda kind: kind)


def _submits(features: Features) -> st.SearchStrategy[Operation]:
    shift = st.none() | st.builds(ContextShift, st.integers(0, 60), st.integers(0, 9))
    asks = st.builds(
        Ask,
        max_tokens=st.integers(0, 12) | st.integers(1, 100 if features.shift else 30),
        scales=st.sampled_from(ADAPTERS) if features.adapters else st.just(()),
        n_top=st.sampled_from([None, 0, 1, 3]) if features.scoring else st.none(),
        shift=shift if features.shift else st.none(),
        reuse=st.sampled_from(Reuse),
        id_slot=st.integers(-1, 5),
    )
    return st.builds(
        Submit,
        stride=st.integers(0, 2),
        length=st.integers(1, 20) | st.integers(1, 110),
        tail=st.lists(st.integers(0, 8), max_size=4).map(tuple),
        asks=st.lists(asks, min_size=1, max_size=3).map(tuple),
    )
