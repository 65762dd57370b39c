"""N-gram drafts: the index against a plain search, and what is guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.engine.drafter import FormDrafter, NgramDrafter, Wish
from codellama.engine.ngrams import ORDERS, REACH, NgramIndex, Past, after_change, continuation
from codellama.engine.request import Request
from tests.fake_runner import FakeSampler, request


def search(tokens: list[int]) -> tuple[int, int] | None:
    """The index's answer by looking everywhere."""
    for n in ORDERS:
        for end in range(len(tokens) - 1, n - 1, -1):
            if tokens[end - n : end] == tokens[-n:]:
                return n, end
    return None


@given(st.lists(st.integers(0, 2), max_size=80), st.lists(st.integers(1, 20), max_size=20))
def test_the_index_finds_what_a_search_finds(tokens: list[int], steps: list[int]) -> None:
    index = NgramIndex()
    known = 0
    for step in [*steps, 80]:
        known = min(len(tokens), known + step)
        assert index.find(tokens[:known]) == search(tokens[:known])


def assert_guess(drafter: NgramDrafter, new: Request, kind: str, guess: list[int]) -> None:
    outlook = drafter.outlook(new)
    assert outlook is not None
    assert outlook.kind == kind
    assert drafter.draft([Wish(new, len(guess))]) == [guess]


def test_the_longest_match_wins_over_the_latest() -> None:
    tokens = [9, 8, 7, 1, 2, 3, 50, 51, 0, 1, 2, 3, 60, 61, 9, 8, 7, 1, 2, 3]
    new = request(tokens, 10)
    assert_guess(NgramDrafter(), new, "ngram-6", [50, 51, 0])


def test_nothing_to_go_by() -> None:
    drafter = NgramDrafter()
    assert drafter.outlook(request(range(50), 10)) is None
    assert drafter.outlook(request([1], 10)) is None


def test_a_guess_repeats_what_repeats_itself() -> None:
    assert continuation([1, 2, 3, 1, 2, 3], 3, 7) == [1, 2, 3, 1, 2, 3, 1]
    assert continuation([5, 6, 7, 8], 1, 2) == [6, 7]


def test_what_has_ended_is_forgotten() -> None:
    drafter = NgramDrafter()
    new = request([1, 2, 3, 4, 1, 2, 3], 5)
    drafter.outlook(new)
    drafter.forget(new)
    assert drafter._indices == {}
    assert drafter._source == {}
    assert drafter._copied == {}
    drafter.forget(new)


SOURCE = list(range(100, 140))


def guess_after(*answer: int) -> list[int]:
    """What is drafted when a copy of `SOURCE` has begun and gone on with `answer`."""
    new = request(SOURCE, 100)
    drafter = NgramDrafter()
    drafter.outlook(new)
    new.tokens += SOURCE[:6]
    assert drafter.outlook(new) is not None
    for token in answer:
        new.tokens.append(token)
        outlook = drafter.outlook(new)
    if outlook is None:
        return []
    assert outlook.kind == "ngram-near"
    return drafter.draft([Wish(new, 3)])[0]


def test_a_copy_goes_on_behind_a_replaced_token() -> None:
    assert guess_after(7) == [107, 108, 109]
    assert guess_after(7, 8) == [108, 109, 110]


def test_a_copy_goes_on_behind_an_inserted_token() -> None:
    assert guess_after(7, 106) == [107, 108, 109]


def test_a_copy_goes_on_behind_a_token_left_out() -> None:
    assert guess_after(107) == [108, 109, 110]


def test_after_a_long_change_there_is_no_guess() -> None:
    assert guess_after(*range(REACH)) != []
    assert guess_after(*range(REACH + 1)) == []


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(0, 59), st.integers(1, 60))
def test_a_guess_is_always_of_something_there(
    tokens: list[int], position: int, length: int
) -> None:
    length = min(length, len(tokens))
    position = min(position, length - 1)
    found = after_change(tokens, position, length)
    assert found is None or 0 <= found < len(tokens)


def ended(prompt: list[int], answer: list[int], drafter: NgramDrafter) -> None:
    """A request with this answer has come and gone."""
    old = request(prompt, 100)
    drafter.outlook(old)
    for token in answer:
        old.tokens.append(token)
        drafter.outlook(old)
    drafter.forget(old)


TEMPLATE = list(range(300, 312))


def test_answers_begin_as_others_did() -> None:
    drafter = NgramDrafter()
    ended([*range(50), *TEMPLATE], [20, 21, 22, 23], drafter)
    new = request([*range(100, 150), *TEMPLATE], 100)
    assert_guess(drafter, new, "ngram-past-12", [20, 21, 22])


def test_what_the_text_itself_says_comes_first() -> None:
    drafter = NgramDrafter()
    ended([*range(50), *TEMPLATE], [20, 21, 22, 23], drafter)
    new = request([*TEMPLATE, 60, *TEMPLATE], 100)
    assert drafter.outlook(new) is not None
    assert drafter.draft([Wish(new, 1)]) == [[60]]


def test_prompts_of_others_are_not_repeated() -> None:
    drafter = NgramDrafter()
    ended([*TEMPLATE, *range(50, 80)], [20, 21], drafter)
    assert drafter.outlook(request(TEMPLATE, 100)) is None


def test_the_past_is_bounded() -> None:
    past = Past(n_tokens=400)
    for start in range(0, 4000, 100):
        past.add(list(range(start, start + 100)))
    keys = [hash(tuple(range(3920 - n, 3920))) for n in ORDERS]
    assert past.find(keys) is not None
    old = [hash(tuple(range(50 - n, 50))) for n in ORDERS]
    assert past.find(old) is None
    past.add(list(range(10_000)))
    assert sum(len(half.tokens) for half in (past._newer, past._older)) <= 400
    assert past.find([]) is None


def test_a_text_shorter_than_an_ngram_is_no_past() -> None:
    past = Past()
    for n in range(ORDERS[0] + 1):
        past.add(list(range(n)))
    assert past.find([hash(tuple(range(ORDERS[0])))]) is None


def test_what_a_form_forces_is_drafted(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter, new = FormDrafter(), request([1, 2, 3], 4)
    assert drafter.outlook(new) is None
    monkeypatch.setattr(FakeSampler, "forced", lambda self: [7, 8, 9])
    outlook = drafter.outlook(new)
    assert outlook is not None
    assert drafter.draft([Wish(new, 2)]) == [[7, 8]]
    drafter.forget(new)
    drafter.forget(new)
