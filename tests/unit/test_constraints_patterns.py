"""Regular expressions: the tree against Python's `re`, and patterns that would take another engine ages."""

from __future__ import annotations

import itertools
import random
import re
import time
from pathlib import Path

import pytest

from codellama.constraints import Constraints
from codellama.constraints.patterns import compiled
from codellama.constraints.regex_parser import PatternError
from codellama.constraints.regex_text import spelled_text
from codellama.constraints.regex_tree import lengths
from codellama.errors import GrammarError
from tests.walks import real_vocabulary


def some_expression(rng: random.Random, depth: int = 3) -> str:
    atoms = ["a", "b", "[ab]", "[^a]", ".", r"\d", r"\W", "c"]
    if depth == 0:
        return rng.choice(atoms)
    parts = []
    for _ in range(rng.randint(1, 3)):
        part = rng.choice(atoms) if rng.random() < 0.6 else f"({some_expression(rng, depth - 1)})"
        parts.append(part + rng.choice(["", "", "", "*", "+", "?", "{1,2}", "{2}"]))
    text = "".join(parts)
    return f"{text}|{some_expression(rng, depth - 1)}" if rng.random() < 0.2 else text


@pytest.mark.parametrize("text", ["(?=.*a)" + "xa?" * 1200, "x" * 1500 + "(?=a)" + "ab?" * 400])
def test_a_long_text_beside_a_lookahead(text: str) -> None:
    assert lengths(compiled(text, False, longest=20_000).whole)[0] == (
        1200 if "xa?" in text else 1900
    )


@pytest.mark.parametrize(
    "source", ["(?=.*a)xa?x?", "x(?!a)b?a?(?=b)[ab]", "(x|(?=a))a?(?=.?b)b?a?b", "a(?=b)b(?=c)cx"]
)
def test_lookaheads_among_other_parts(source: str) -> None:
    pattern = compiled(source, False)
    for size in range(5):
        for letters in itertools.product("abcx", repeat=size):
            text = "".join(letters)
            assert pattern.matches(text) == bool(re.fullmatch(source, text)), text


def test_patterns_match_what_re_finds() -> None:
    rng = random.Random(4)
    for _ in range(400):
        inner = some_expression(rng)
        source = rng.choice(["{}", "^{}", "{}$", "^{}$", "^(?:{})$", "(^{}|{}$)"]).format(
            inner, inner
        )
        pattern = compiled(source)
        whole = re.compile(f"(?s:.)*?(?:{source.replace('$', chr(92) + 'Z')})", re.ASCII)
        for _ in range(12):
            text = "".join(rng.choice("aabbcd1") for _ in range(rng.randint(0, 6)))
            assert pattern.matches(text) == (whole.match(text) is not None), (source, text)
            least, most = lengths(pattern.whole)
            if pattern.matches(text):
                assert least <= len(text) and (most is None or len(text) <= most)


def test_lookaheads_anywhere_are_what_re_finds() -> None:
    rng = random.Random(5)
    for _ in range(300):
        parts = [some_expression(rng, 1) for _ in range(4)]
        look = rng.choice(["(?={})", "(?!{})", "(?={}$)", "(?!^{}$)"]).format(parts[0])
        source = rng.choice(
            [
                "^{1}{0}{2}$",
                "^{0}{1}$",
                "{0}{1}",
                "^(?:{1}|{0}{2}){3}$",
                "^({0}{1})?{2}$",
                "^(?:{1}|{0}{2}$)$",
                "^{1}(?={2}){0}{3}",
            ]
        ).format(look, *parts[1:])
        try:
            pattern = compiled(source)
        except PatternError as error:
            assert "middle" in str(error) or "at the beginning" in str(error), source
            continue
        whole = re.compile(f"(?s:.)*?(?:{source.replace('$', chr(92) + 'Z')})", re.ASCII)
        for _ in range(12):
            text = "".join(rng.choice("aabbcd1") for _ in range(rng.randint(0, 6)))
            assert pattern.matches(text) == (whole.match(text) is not None), (source, text)


def test_a_pattern_that_backtracks_elsewhere_is_matched_at_once() -> None:
    pattern = compiled(r"^(a+)+$")
    start = time.monotonic()
    assert not pattern.matches("a" * 200 + "b")
    assert time.monotonic() - start < 5


def test_texts_are_spelled_as_the_inside_of_a_json_string() -> None:
    assert spelled_text('a"\\\n') == r"a\x{5c}" + '"' + r"\x{5c}\x{5c}\x{5c}n"


@pytest.mark.parametrize(
    ("source", "word"),
    [
        (r"(?<!a)b", "lookbehind"),
        (r"(?i)a", "group"),
        (r"\Aabc", r"escape \A"),
        (r"a\Z", r"escape \Z"),
        ("[b-a]", "wrong order"),
        ("a**", "two quantifiers"),
        ("*a", "nothing before"),
        ("a^b", "in the middle"),
        (r"\p{Greek}", "property Greek"),
        ("(" * 41 + ")" * 41, "deeper than 40"),
        ("a{50001}", "more than 50000"),
        (r"(a){3}\u{00e9.", "without its }"),
        (r"\p{L", "without its }"),
        ("x" * 4001, "more than 4000"),
    ],
)  # fmt: skip
def test_what_is_refused_in_a_pattern(source: str, word: str) -> None:
    with pytest.raises(PatternError) as caught:
        compiled(source)
    assert word in str(caught.value)


COMPLEX = ["^.*a.{300}$", "^(?=.*a.{40})(?=.*b.{40}).*$"]


@pytest.mark.parametrize("source", COMPLEX)
def test_patterns_that_come_to_too_many_states_are_refused_at_once(
    source: str, real_vocab: Path
) -> None:
    constraints = Constraints(real_vocabulary(real_vocab))
    inner = {"type": "string", "pattern": source}
    for schema, place in (
        ({"properties": {"x": inner}, "type": "object"}, "#/properties/x"),
        ({"type": "object", "patternProperties": {source: {}}}, "#"),
    ):
        with pytest.raises(GrammarError) as caught:
            constraints.compile_schema(schema)
        assert f"at {place}: the regular expression {source!r}" in str(caught.value)
        assert "too many states" in str(caught.value)
    with pytest.raises(GrammarError, match="regex: its patterns are together too complex"):
        constraints.compile_regex(source)
    with pytest.raises(GrammarError, match="lark: its patterns are together too complex"):
        constraints.compile_lark("start: X\nX: /(?s:.)*a[^x]{300}/", "lark")


def test_patterns_that_people_use_are_not(real_vocab: Path) -> None:
    constraints = Constraints(real_vocabulary(real_vocab))
    for source in (
        r"^(?=.*[A-Z])(?=.*[a-z])(?=.*\d).{8,64}$",
        r"^(?!.*\.\.)[a-z.]{1,100}$",
        r"^[a-z]{3,2000}$",
        r"foo.*bar",
    ):
        constraints.compile_schema({"type": "string", "pattern": source})
