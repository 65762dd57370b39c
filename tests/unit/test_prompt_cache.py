"""What is kept in host memory: bounded, least recently used first out, nothing twice."""

from __future__ import annotations

from codellama.engine.batch import KVState
from codellama.engine.prompt_cache import WORTH_KEEPING, PromptCache

LONG = 2 * WORTH_KEEPING


def state(start: int, n: int = LONG) -> KVState:
    return KVState(list(range(start, start + n)), bytearray(n))


def test_the_bound_holds_and_the_oldest_goes_first() -> None:
    cache = PromptCache(3 * LONG, 1)
    for start in (0, 1000, 2000):
        cache.add(state(start))
    assert cache.best(list(range(LONG)), (), 10_000, 0)[1] == LONG
    cache.add(state(3000))
    assert cache.n_bytes == 3 * LONG
    assert cache.best(list(range(1000, 1000 + LONG)), (), 10_000, 0) == (None, 0)
    assert cache.best(list(range(LONG)), (), 10_000, 0)[1] == LONG


def test_a_state_takes_the_place_of_its_beginnings() -> None:
    cache = PromptCache(10 * LONG, 1)
    cache.add(state(0, LONG))
    cache.add(state(0, LONG + 9))
    assert len(cache) == 1
    assert cache.keep(list(range(LONG))) is None, "it is there already"


def test_small_and_huge_ones_are_not_kept() -> None:
    cache = PromptCache(1000, 1)
    assert cache.keep(list(range(WORTH_KEEPING - 1))) is None
    assert cache.keep(list(range(1001))) is None
    assert cache.keep(list(range(900))) is not None


def test_a_small_gain_is_not_worth_it() -> None:
    cache = PromptCache(1000, 1)
    cache.add(state(0))
    tokens = list(range(LONG))
    assert cache.best(tokens, (), 10_000, LONG - WORTH_KEEPING)[1] == LONG
    assert cache.best(tokens, (), 10_000, LONG - WORTH_KEEPING + 1) == (None, 0)
    assert cache.best(tokens, (), LONG - 1, 0) == (None, 0)


def test_what_could_not_be_written_is_dropped() -> None:
    cache = PromptCache(1000, 1)
    assert cache.keep(list(range(LONG))) is not None
    assert cache.best(list(range(LONG)), (), 10_000, 0) == (None, 0)
    cache.tidy()
    assert len(cache) == 0


def test_a_state_larger_than_the_estimate_shrinks_the_rest() -> None:
    cache = PromptCache(3 * LONG, 1)
    cache.add(state(0))
    new = cache.keep(list(range(1000, 1000 + LONG)))
    assert new is not None
    new.data = bytearray(3 * LONG)
    cache.tidy()
    assert len(cache) == 1


def test_without_a_limit_a_state_serves_once() -> None:
    cache = PromptCache(0, 1)
    cache.add(state(0))
    assert cache.best(list(range(LONG)), (), 10_000, 0)[1] == LONG
    assert cache.best(list(range(LONG)), (), 10_000, 0) == (None, 0)
