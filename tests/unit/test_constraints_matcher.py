"""Matchers: what fits, drafts, the end of an answer, going back; expressions, Lark grammars, the cache."""

from __future__ import annotations

import gc
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama.constraints import Constraints, limits
from codellama.errors import DecodeError, GrammarError
from codellama.params import Tool, Tools
from tests.walks import accepts, drawn, real_vocabulary, slice_vocabulary

VOCABULARY = slice_vocabulary()
CONSTRAINTS = Constraints(VOCABULARY)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"const": "abc"}},
    "required": ["name"],
    "additionalProperties": False,
}
STOP, STEP = VOCABULARY.end_tokens


def encode(text: str) -> list[int]:
    return VOCABULARY.encode(text.encode())


def test_the_mask_and_fits_agree_on_every_token() -> None:
    matcher = CONSTRAINTS.compile_schema(SCHEMA).matcher()
    mask = np.zeros(VOCABULARY.n_vocab + 3, np.bool_)
    mask[:] = True
    for token in encode('{"name": "a'):
        matcher.allowed(mask)
        assert [matcher.fits(t) for t in range(VOCABULARY.n_vocab)] == list(mask[:-3])
        assert not mask[-3:].any()
        matcher.accept(token)


def test_an_answer_ends_where_the_value_is_complete_and_nowhere_else() -> None:
    matcher = CONSTRAINTS.compile_schema(SCHEMA).matcher()
    for token in encode('{"name": "abc"}'):
        assert not matcher.may_end() and not matcher.must_end()
        assert not matcher.fits(STOP) and not matcher.fits(STEP)
        matcher.accept(token)
    assert matcher.may_end() and matcher.must_end()
    assert matcher.fits(STOP) and matcher.fits(STEP)
    number = CONSTRAINTS.compile_schema({"type": "integer"}).matcher()
    number.accept(encode("1")[0])
    assert number.may_end() and not number.must_end() and number.fits(encode("2")[0])


def test_control_tokens_never_fit() -> None:
    matcher = CONSTRAINTS.compile_schema({"type": "string"}).matcher()
    matcher.accept(encode('"')[0])
    assert not any(matcher.fits(token) for token in (0, 1, STOP, STEP))


def test_a_draft_is_checked_in_one_go_without_a_change_of_state() -> None:
    matcher = CONSTRAINTS.compile_schema(SCHEMA).matcher()
    good = encode('{"name": "abc"}')
    assert matcher.fits_all(good) == len(good)
    assert matcher.fits_all([*good, STEP]) == len(good) + 1
    assert matcher.fits_all([*good, STEP, STEP]) == len(good) + 1
    assert matcher.fits_all([*good[:3], STEP]) == 3
    wrong = encode('{"name": "abd"}')
    assert 0 < matcher.fits_all(wrong) < len(wrong)
    assert matcher.fits_all([]) == 0
    assert matcher.fits(good[0])


def test_what_is_forced_is_told_as_text() -> None:
    matcher = CONSTRAINTS.compile_schema(SCHEMA).matcher()
    for token in encode('{"'):
        matcher.accept(token)
    assert matcher.forced_text().startswith(b'name"')
    assert matcher.forced_text().startswith(b'name"'), "asking changes nothing"
    assert matcher.fits_all(encode('name"')) == len(encode('name"'))
    assert CONSTRAINTS.compile_regex("(a|b)").matcher().forced_text() == b""


def test_a_matcher_goes_back() -> None:
    matcher = CONSTRAINTS.compile_schema(SCHEMA).matcher()
    tokens = encode('{"name": "abc"}')
    for token in tokens:
        matcher.accept(token)
    matcher.rollback(len(tokens) - 1)
    assert matcher.fits(tokens[1]) and not matcher.may_end()
    for token in tokens[1:]:
        matcher.accept(token)
    assert matcher.may_end()


def test_matchers_of_one_grammar_do_not_touch_each_other() -> None:
    grammar = CONSTRAINTS.compile_schema(SCHEMA)
    first, second = grammar.matcher(), grammar.matcher()
    first.accept(encode("{")[0])
    assert second.fits(encode("{")[0]) and not first.fits(encode("{")[0])
    third = first.copy()
    third.accept(encode('"')[0])
    assert first.fits(encode('"')[0])


def test_a_token_that_does_not_fit_is_an_error() -> None:
    matcher = CONSTRAINTS.compile_schema(SCHEMA).matcher()
    with pytest.raises(DecodeError, match="does not fit the answer's grammar"):
        matcher.accept(encode("x")[0])


def test_pieces_of_characters_come_through_byte_tokens() -> None:
    grammar = CONSTRAINTS.compile_schema({"const": "日本😀"})
    assert accepts(grammar, VOCABULARY, '"日本😀"')
    matcher = grammar.matcher()
    matcher.accept(encode('"')[0])
    first, second = ("日".encode()[i] + 3 for i in (0, 1))
    assert matcher.fits_all([first, second]) == 2 and not matcher.fits(second)


def test_a_compiled_schema_is_kept_and_the_cache_is_bounded() -> None:
    constraints = Constraints(VOCABULARY)
    first = constraints.compile_schema(SCHEMA)
    assert constraints.compile_schema(dict(SCHEMA)) is first
    assert constraints.compile_schema({"const": 0}) is not first
    for number in range(limits.CACHE_ENTRIES):
        constraints.compile_schema({"const": number})
    assert constraints.compile_schema(SCHEMA) is not first
    assert len(constraints._kept) <= limits.CACHE_ENTRIES


def test_threads_compile_and_walk_at_the_same_time() -> None:
    constraints = Constraints(VOCABULARY)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for turn in range(10):
                grammar = constraints.compile_schema({"enum": ["abc", turn]})
                assert drawn(grammar, VOCABULARY, random.Random(seed)) in ('"abc"', str(turn))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


REGEXES = [
    r"(yes|no)", r"\d{3}-\d{4}", r"^[A-Z][a-z]+$", r"a*b?c+", r"(?:x|yy){2,3}", r"[^\W\d]{2}", r"\x41\u0042",
    r"(?!no)[a-z]{2}", "", r"[é☺]+", r"\/\*.{0,9}\*\/",
]  # fmt: skip


@pytest.mark.parametrize("regex", REGEXES)
def test_texts_under_a_regular_expression_match_it(regex: str) -> None:
    grammar = CONSTRAINTS.compile_regex(regex)
    rng = random.Random(1)
    texts = {drawn(grammar, VOCABULARY, rng) for _ in range(20)} - {None}
    assert texts
    for text in texts:
        assert text is not None and re.fullmatch(regex, text, re.ASCII), text


def test_what_a_regular_expression_cannot_have_is_refused() -> None:
    for regex, word in (
        ("(?<=a)b", "lookbehind"),
        ("(", "without"),
        ("a{9,2}", "order"),
        ("[", "end"),
    ):
        with pytest.raises(GrammarError, match=word) as caught:
            CONSTRAINTS.compile_regex(regex, "guided_regex")
        assert caught.value.param == "guided_regex"
    with pytest.raises(GrammarError, match="no text satisfies"):
        CONSTRAINTS.compile_regex("(?!a)a")
    with pytest.raises(GrammarError, match="more than 20000 characters"):
        CONSTRAINTS.compile_regex("a" * 20_001)
    with pytest.raises(GrammarError, match="must be a string"):
        CONSTRAINTS.compile_regex(5)  # type: ignore[arg-type]


def test_a_lark_grammar() -> None:
    grammar = CONSTRAINTS.compile_lark('start: "a" B+\nB: /[0-9]/')
    assert accepts(grammar, VOCABULARY, "a12") and not accepts(grammar, VOCABULARY, "12")
    for text, word in (
        ("start: (", "cannot be compiled"),
        ("start: " + "(" * 101 + '"a"' + ")" * 101, "deeper than 100"),
        ('start: "a"{10001}', "more than 10000"),
        ("#" * (limits.LARK_BYTES + 1), "larger"),
        ('start: %json {"multipleOf": 3}', "multipleOf"),
    ):
        with pytest.raises(GrammarError, match=word) as caught:
            CONSTRAINTS.compile_lark(text)
        assert caught.value.param == "grammar"


def test_errors_in_a_lark_grammar_name_its_own_lines() -> None:
    for text, place in (
        ('start: a\n\na: "x" b', "at 3(4)"),
        ("start: (", "1(9)"),
        ('start: "a"\nb: %%', "2(5)"),
    ):
        with pytest.raises(GrammarError) as caught:
            CONSTRAINTS.compile_lark(text)
        assert place in str(caught.value) and "no_forcing" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("start: X\nX: /a/ & /b/", "no text satisfies it"),
        ('start: "a" X\nX: /a/ & /b/', "no text satisfies it"),
        ('start: "aaa" X\nX: /a/ & ~/a/', "no text satisfies it"),
        ('start: a\na: a "x"', "no text satisfies it"),
        ("start: /[01]/ X\nX: /[^\\s\\S]/", r"no text that begins with '[01]' satisfies it"),
    ],
)
def test_a_lark_grammar_that_nothing_satisfies_says_so(text: str, said: str) -> None:
    with pytest.raises(GrammarError, match="lark: " + said):
        CONSTRAINTS.compile_lark(text, "lark")


def test_the_real_vocabulary(real_vocab: Path) -> None:
    vocabulary = real_vocabulary(real_vocab)
    grammar = Constraints(vocabulary).compile_schema(SCHEMA)
    assert accepts(grammar, vocabulary, '{"name": "abc"}')
    assert not grammar.matcher().fits(vocabulary.encode(b" ")[0])
    matcher = grammar.matcher()
    assert matcher.forced_text() == b"{", "blanks may follow"
    for token in vocabulary.encode(b'{"'):
        matcher.accept(token)
    assert matcher.forced_text() == b'name"'
    rng = random.Random(0)
    texts = [drawn(grammar, vocabulary, rng) for _ in range(5)]
    assert all(text is not None and '"abc"' in text for text in texts)


def test_patterns_of_many_states_are_ready_when_they_are_compiled(real_vocab: Path) -> None:
    """Three lookaheads: what has been seen so far makes each state another one, and each takes a while."""
    vocabulary = real_vocabulary(real_vocab)
    constraints = Constraints(vocabulary)
    mask = np.zeros(vocabulary.n_vocab, np.bool_)
    slow = 0
    for size in (63, 64, 65):
        pattern = r"^(?=.*\d)(?=.*[a-z])(?=.*[A-Z]).{8," + f"{size}}}$"
        grammar = constraints.compile_schema({"type": "string", "pattern": pattern})
        for seed in range(6):
            rng, matcher = random.Random(seed), grammar.matcher()
            for _ in range(40):
                start = time.thread_time()
                matcher.candidates(mask)
                slow += time.thread_time() - start > 0.001
                inner = [t for t in np.flatnonzero(mask) if t not in vocabulary.end_tokens]
                if not inner:
                    break
                matcher.accept(int(rng.choice(inner)))
    assert slow <= 6, slow


def test_a_schema_that_unfolds_to_too_many_rules_is_refused_soon() -> None:
    """What is not one long array of objects differs from it at some place in one of them."""
    part = {"a": {"b": [1, {"c": "d"}]}, "e": [{"f": 1}]}
    schema = {"not": {"const": [part] * 300}}
    start = time.process_time()
    with pytest.raises(GrammarError, match="at #: the schema unfolds to more than 10000 rules"):
        CONSTRAINTS.compile_schema(schema)
    assert time.process_time() - start < 2
    CONSTRAINTS.compile_schema({"not": {"const": [part] * 20}})


def test_compiling_leaves_nothing_that_only_a_search_for_garbage_frees() -> None:
    """Such a search holds up all threads, and the more it finds the longer."""
    node: dict[str, Any] = {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "next": {"oneOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            "some": {"not": {"enum": [1, "a"]}},
        },
        "minProperties": 1,
        "additionalProperties": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 70},
    }
    many = {"properties": {f"n{i}": node for i in range(20)}, "$defs": {"node": node}}
    CONSTRAINTS.compile_schema({**many, "title": "first"})
    gc.collect()
    gc.disable()
    try:
        CONSTRAINTS.compile_schema({**many, "title": "second"})
        CONSTRAINTS.compile_calls(Tools((Tool("f", "", many),)))
        assert gc.collect() < 100
    finally:
        gc.enable()
