"""Arrays whose items differ, over values that no grammar can list: never a repeat, never a dead end."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest

from codellama.constraints import Constraints, Grammar
from codellama.constraints.unique import Unique
from codellama.errors import DecodeError, GrammarError
from codellama.params import Tool, Tools
from codellama.prompts.tools import CALL
from tests.walks import Pieces, accepts, accepts_value, drawn, real_vocabulary, slice_vocabulary

VOCABULARY = slice_vocabulary()
CONSTRAINTS = Constraints(VOCABULARY)
STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def unique(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "uniqueItems": True, **more}


PAIR = {
    "type": "object",
    "properties": {"a": INTEGER, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TABLE: list[tuple[Any, list[str], list[str]]] = [
    (unique(STRING), ['["a", "b"]', "[]", '["", "a"]', '["a","A"]', r'["é", "\n", "\""]'],
     ['["a", "a"]', '["a", "b", "a"]', '["", ""]', r'["a", "\u0061"]', r'["\n","b","\n"]']),
    (unique(INTEGER), ["[1, 11, 111]", "[0,1]", "[-1,1]"], ["[1, 1]", "[1,2,1]", "[0, -0]", "[1\n,1]"]),
    (unique({"type": "number"}), ["[1, 1.5]", "[0.1,0.01]"],
     ["[1, 1.0]", "[1.0, 1]", "[10, 1e1]", "[0.5,0.50]"]),
    (unique({"type": ["string", "integer", "null"]}), ['[1, "1", null]'], ["[null, null]", '["1","1"]']),
    (unique({}), ["[1, true]", "[0, false]", '[{"a": 1}, {"a": 2}]', "[[1], [2]]", '[null, "null"]'],
     ["[true, true]", '[{"a": 1}, {"a": 1}]', "[[1], [1]]", "[[], []]", '[{"a":1}, {"a" : 1}]']),
    ({"uniqueItems": True}, ["[1, 2]", '"a"', '{"a": [1, 1]}'], ["[1, 1]"]),
    (unique(PAIR),
     ['[{"a": 1, "b": true}, {"a": 1, "b": false}]', '[{"a": 1, "b": true}, {"a": 2, "b": true}]'],
     ['[{"a": 1, "b": true}, {"a": 1,"b":true}]']),
    (unique({"type": "array", "prefixItems": [INTEGER, STRING], "minItems": 2, "maxItems": 2}),
     ['[[1, "a"], [1, "b"]]', '[[1,"a"],[2,"a"]]'], ['[[1, "a"], [1, "a"]]',
      '[[1,"a"],[2,"b"],[1,\n"a"]]']),
    (unique({"type": "string", "format": "date"}), ['["2024-01-01", "2024-01-02"]'],
     ['["2024-01-01", "2024-01-01"]']),
    ({"type": "array", "prefixItems": [INTEGER, INTEGER], "items": STRING, "uniqueItems": True},
     ['[1, 2, "a"]', "[1]"], ["[1, 1]", '[1, 2, "a", "a"]']),
    (unique(INTEGER, contains={"minimum": 5}), ["[1, 5]", "[6, 7]"], ["[1]", "[5, 5]", "[1,5,1]"]),
    (unique({"type": "integer", "minimum": 0, "maximum": 99}), ["[1, 11, 0]"], ["[1,1]", "[99, 9, 99]"]),
    (unique(INTEGER, minItems=3), ["[1,2,3]"], ["[1,2]", "[1,2,1]"]),
    ({"type": "object", "properties": {"tags": unique(STRING), "more": {"type": "array", "items": STRING}}},
     ['{"tags": ["a", "b"], "more": ["a", "a"]}', '{"tags": ["a"], "more": ["a"]}', '{"more": ["a", "a"]}'],
     ['{"tags": ["a", "a"]}']),
    ({"type": "array", "items": unique(INTEGER)},
     ["[[1], [1]]", "[[1, 2], [2, 1], []]"], ["[[1, 1]]", "[[1],[2,2]]"]),
    ({"anyOf": [unique(INTEGER), {"type": "array", "items": STRING}]},
     ["[1, 2]", '["a", "a", "a"]'], ["[1, 1]"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "allowed", "forbidden"), TABLE, ids=lambda v: json.dumps(v)[:70]
)
def test_items_differ(schema: Any, allowed: list[str], forbidden: list[str]) -> None:
    grammar = CONSTRAINTS.compile_schema(schema)
    for text in allowed:
        assert jsonschema.Draft202012Validator(schema).is_valid(json.loads(text)), text
        assert accepts(grammar, VOCABULARY, text), text
    for text in forbidden:
        assert not accepts(grammar, VOCABULARY, text), text


def test_objects_whose_keys_may_come_in_two_orders_are_not_taken_for_different() -> None:
    two = {
        "anyOf": [
            {"properties": {"a": INTEGER, "b": INTEGER}, "required": ["a", "b"]},
            {"properties": {"b": INTEGER, "a": INTEGER}, "required": ["b", "a"]},
        ],
        "type": "object",
    }
    grammar = CONSTRAINTS.compile_schema(unique(two))
    assert not accepts(grammar, VOCABULARY, '[{"a": 1, "b": 2}, {"b": 2, "a": 1}]')
    assert accepts_value(grammar, VOCABULARY, [{"a": 1, "b": 2}, {"a": 1, "b": 3}])


DOMAINS: list[tuple[Any, int]] = [
    ({"type": "string", "pattern": "^[ab]{0,2}$"}, 7),
    ({"type": "string", "maxLength": 1, "pattern": r'^["\\\n\t]*$'}, 5),
    ({"type": "string", "pattern": "^(aaa|aab|b)$"}, 3),
    ({"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 2}, 9),
    ({"type": "object", "properties": {"long name": {"enum": ["x", "y"]}, "b": {"type": "boolean"}},
      "required": ["long name"], "additionalProperties": False}, 6),
    ({"type": "array", "items": {"type": "boolean"}, "maxItems": 2}, 7),
    ({"type": "object", "properties": {"a": {"enum": [1, 12, 123]}}, "required": ["a"],
      "additionalProperties": False}, 3),
    ({"anyOf": [{"type": "string", "pattern": "^a{1,2}$"}, {"type": "boolean"}, {"const": [1]}]}, 5),
    ({"type": "object", "additionalProperties": False, "patternProperties": {"^[ab]$": {"const": 1}}}, 3),
]  # fmt: skip


@pytest.mark.parametrize(("items", "count"), DOMAINS, ids=lambda v: json.dumps(v)[:70])
def test_a_domain_is_used_up_without_a_dead_end(items: Any, count: int) -> None:
    """`count` is the number of values; of keys that are not spelled out an object has at most one here."""
    schema = unique(items)
    grammar = CONSTRAINTS.compile_schema(schema)
    rng = random.Random(7)
    lengths = set()
    for turn in range(20):
        value = json.loads(longest_text(grammar, rng, check_all=turn < 2))
        jsonschema.validate(value, schema)
        lengths.add(len(value))
    assert max(lengths) == count


def longest_text(grammar: Grammar, rng: random.Random, check_all: bool) -> str:
    """A text that goes on as long as it may, drawn from the masks; fails at a dead end."""
    matcher = grammar.matcher()
    mask = np.zeros(VOCABULARY.n_vocab, np.bool_)
    comma = VOCABULARY.encode(b",")[0]
    data = b""
    for _ in range(2000):
        matcher.allowed(mask)
        fitting = np.flatnonzero(mask).tolist()
        if check_all:
            assert fitting == [t for t in range(VOCABULARY.n_vocab) if matcher.fits(t)], data
        if matcher.must_end():
            break
        inner = [t for t in fitting if VOCABULARY.piece(t).strip() not in (b"", b"]")]
        token = comma if mask[comma] and rng.random() < 0.7 else rng.choice(inner or fitting)
        if token in VOCABULARY.end_tokens:
            break
        matcher.accept(token)
        data += VOCABULARY.piece(token)
    return data.decode()


@pytest.mark.parametrize(
    "schema", [unique(STRING, minItems=2), unique({}, minItems=2), unique(INTEGER)]
)
def test_drawn_arrays_are_valid(schema: Any) -> None:
    grammar = CONSTRAINTS.compile_schema(schema)
    rng = random.Random(2)
    texts = [drawn(grammar, VOCABULARY, rng) for _ in range(60)]
    finished = [text for text in texts if text is not None]
    assert len(finished) > 30
    for text in finished:
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    "items", [STRING, INTEGER, PAIR, {"type": "string", "pattern": "^[ab]{1,3}$"}, {}]
)
def test_what_falls_with_a_token_that_does_not_fit_does_not_fit_either(items: Any) -> None:
    matcher = CONSTRAINTS.compile_schema(unique(items)).matcher()
    rng = random.Random(5)
    could, may = (np.zeros(VOCABULARY.n_vocab, np.bool_) for _ in range(2))
    fallen = 0
    for _ in range(150):
        matcher.candidates(could)
        matcher.allowed(may)
        assert not (may & ~could).any()
        for token in np.flatnonzero(could & ~may).tolist()[:40]:
            left = could.copy()
            matcher.exclude(token, left)
            fallen += int((could & ~left).sum())
            assert not matcher.fits(token) and not left[token] and left[may].all()
        fitting = np.flatnonzero(may).tolist()
        inner = [t for t in fitting if b"]" not in VOCABULARY.piece(t)] or fitting
        separators = [t for t in inner if b"," in VOCABULARY.piece(t)]
        matcher.accept(rng.choice(separators if separators and rng.random() < 0.5 else inner))
    assert fallen


@pytest.fixture(scope="module")
def real_constraints(real_vocab: Path) -> tuple[Constraints, Pieces]:
    vocabulary = real_vocabulary(real_vocab)
    return Constraints(vocabulary), vocabulary


LONG: list[Any] = [
    *(STRING, INTEGER, PAIR, {"type": "integer", "minimum": 0, "maximum": 5000}),
    *({"type": "string", "pattern": "^[a-z]{3,8}$"}, {"type": "string", "maxLength": 20}),
    {"enum": [f"choice number {i} of many" for i in range(1000)]},
]


@pytest.mark.parametrize("items", LONG, ids=lambda v: json.dumps(v)[:50])
def test_drawing_another_token_after_many_items_takes_no_time(
    items: Any, real_constraints: tuple[Constraints, Pieces]
) -> None:
    """A model that repeats what it wrote: at each token the engine does the following, and waits for it."""
    constraints, vocabulary = real_constraints
    matcher = constraints.compile_schema(unique(items)).matcher()
    mask = np.zeros(vocabulary.n_vocab, np.bool_)
    inner = np.array([b"]" not in vocabulary.piece(t) for t in range(vocabulary.n_vocab)])
    marks = [vocabulary.encode(text)[0] for text in (b",", b'"', b'","', b'",')]
    rng = random.Random(6)
    costs = [0.0]

    def timed(call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.thread_time()
        result = call(*arguments)
        costs[-1] += time.thread_time() - start
        return result

    written, count = marks[:1], 0
    while count < 200:
        token = rng.choice(marks if rng.random() < 0.3 else written[-60:])
        if not timed(matcher.fits, token):
            timed(matcher.candidates, mask)
            while True:
                near = [t for t in (*marks, *written[-30:]) if mask[t]]
                if not near or rng.random() < 0.2:
                    near = np.flatnonzero(mask & inner)[:300].tolist()
                token = rng.choice(near)
                if timed(matcher.fits, token):
                    break
                timed(matcher.exclude, token, mask)
        timed(matcher.accept, token)
        costs.append(0.0)
        written.append(token)
        count += b"," in vocabulary.piece(token)
    costs.sort()
    assert costs[len(costs) // 2] < 0.001
    assert costs[-len(costs) // 100] < 0.003, "one of a hundred tokens"


SMALL: list[tuple[Any, int]] = [
    (unique({"type": "string", "pattern": "^[abc]{0,4}$"}), 121),
    (unique({**INTEGER, "minimum": 0, "maximum": 99}), 100),
    (unique({"enum": [f"choice number {i} of many" for i in range(80)]}), 80),
    (
        unique(
            {"type": "string", "pattern": "^[abc]{0,3}$"},
            prefixItems=[INTEGER, {"type": "boolean"}],
        ),
        40,
    ),
]


@pytest.mark.parametrize(("schema", "least"), SMALL, ids=lambda v: json.dumps(v)[:80])
def test_a_domain_is_not_looked_through_at_one_token(
    schema: Any, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at what may come next takes some microseconds, and the engine waits for it."""
    matcher = CONSTRAINTS.compile_schema(schema).matcher()
    looks = [0]
    look = Unique._next_bytes

    def counted(*arguments: Any) -> list[int]:
        looks[-1] += 1
        return look(*arguments)

    monkeypatch.setattr(Unique, "_next_bytes", counted)
    mask = np.zeros(VOCABULARY.n_vocab, np.bool_)
    comma = VOCABULARY.encode(b",")[0]
    rng = random.Random(4)
    data = b""
    while not matcher.must_end():
        matcher.candidates(mask)
        while True:
            fitting = np.flatnonzero(mask).tolist()
            inner = [t for t in fitting if VOCABULARY.piece(t).strip() not in (b"", b"]")]
            token = comma if mask[comma] else rng.choice(inner or fitting)
            looks.append(0)
            if matcher.fits(token):
                break
            matcher.exclude(token, mask)
        if token in VOCABULARY.end_tokens:
            break
        matcher.accept(token)
        data += VOCABULARY.piece(token)
    assert len(json.loads(data)) >= least, "every value has been used"
    assert max(looks) <= 30


def test_a_vocabulary_without_tokens_for_bytes() -> None:
    vocabulary = Pieces([b"", b"", b"", b"[", b"]", b",", b"12", b"3"], [2], {0, 1, 2})
    grammar = Constraints(vocabulary).compile_schema(unique(INTEGER))
    assert accepts(grammar, vocabulary, "[12,3,123]")
    assert not accepts(grammar, vocabulary, "[12,3,12]")


def test_tokens_that_hold_several_items() -> None:
    texts = [
        b"[",
        b"]",
        b",",
        b"1",
        b"2",
        b"1,1",
        b"1,2",
        b"[1,1",
        b"[1,2,",
        b'"',
        b'","',
        b'["a',
        b"a",
    ]
    pieces = [b"", b"", b"", *(bytes([i]) for i in range(256)), *texts]
    vocabulary = Pieces(pieces, [2], {0, 1, 2})
    constraints = Constraints(vocabulary)
    of = {text: 259 + i for i, text in enumerate(texts)}
    matcher = constraints.compile_schema(unique(INTEGER)).matcher()
    assert matcher.fits(of[b"[1,1"]), "it may go on to 11"
    assert matcher.fits_all([of[b"[1,1"], of[b"]"]]) == 1
    matcher.accept(of[b"[1,2,"])
    mask = np.zeros(vocabulary.n_vocab, np.bool_)
    for text in (b"1,1", b"1,2", b"1", b"2"):
        matcher.allowed(mask)
        assert matcher.fits(of[text]) == mask[of[text]] == (len(text) == 1), text
    words = constraints.compile_schema(unique(STRING)).matcher()
    words.accept(of[b'["a'])
    words.accept(of[b'","'])
    assert words.fits_all([of[b"a"], of[b"a"], of[b'"']]) == 3
    assert words.fits_all([of[b"a"], of[b'"']]) == 1


def test_drafts_copies_and_going_back() -> None:
    matcher = CONSTRAINTS.compile_schema(unique(STRING)).matcher()
    for token in encode_each('["a", "b", "'):
        matcher.accept(token)
    draft = encode_each('a"]')
    assert matcher.fits_all(draft) == 1
    good = [*encode_each('c"]'), VOCABULARY.end_tokens[0]]
    assert matcher.fits_all(good) == len(good) and not matcher.may_end()
    other = matcher.copy()
    for token in encode_each('c", "'):
        other.accept(token)
    assert other.fits_all(encode_each('c"')) == 1 and matcher.fits_all(encode_each('c"')) == 2
    other.rollback(len(encode_each('c", "')))
    assert other.fits_all(encode_each('c"')) == 2
    other.rollback(len(encode_each(', "b", "')))
    assert other.fits_all(encode_each(', "b"]')) == len(encode_each(', "b"]'))
    with pytest.raises(DecodeError, match="cannot go back 65 tokens"):
        other.rollback(65)


def encode_each(text: str) -> list[int]:
    return [VOCABULARY.encode(text[i : i + 1].encode())[0] for i in range(len(text))]


REFUSED = [
    (unique({"type": "string", "pattern": "^[ab]$"}, minItems=3), "#/uniqueItems", "3 items can differ"),
    ({"prefixItems": [{"const": 1}, {"const": 1}], "minItems": 2, "uniqueItems": True, "type": "array"},
     "#/uniqueItems", "2 items"),
    ({"type": "array", "prefixItems": [{"type": "null"}] * 2, "contains": {"type": "boolean"},
     "uniqueItems": True},
     "#/uniqueItems", "2 items"),
    (unique(unique(STRING)), "#/items/uniqueItems", "inside of items"),
    (unique(INTEGER, allOf=[{"contains": {"minimum": 1}}, {"contains": {"minimum": 5}}]), "#/uniqueItems",
     "more than one contains"),
    (unique({"multipleOf": 7}), "#/items", "multipleOf"),
    (unique(INTEGER, contains={"const": 5}, minContains=2), "#/uniqueItems", "2 items"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "pointer", "word"), REFUSED, ids=lambda v: str(v)[:60])
def test_what_may_lead_into_a_dead_end_is_refused(schema: Any, pointer: str, word: str) -> None:
    with pytest.raises(GrammarError) as caught:
        CONSTRAINTS.compile_schema(schema)
    assert f"at {pointer}: " in str(caught.value) and word in str(caught.value)


KEYS: list[tuple[Any, list[str], list[str]]] = [
    ({"type": "object", "minProperties": 2}, ['{"a": 1, "b": 2}', '{"a": 1, "ab": {"a": 1}, "": []}'],
     ["{}", '{"a": 1}', '{"a": 1, "a": 2}', r'{"a": 1, "\u0061": 2}', '{"a": {"b": 1, "c": 1}}']),
    ({"type": "object", "properties": {"n": INTEGER}, "minProperties": 3}, ['{"n": 1, "a": 1, "b": 2}'],
     ['{"n": 1, "a": 2}', '{"n": 1, "a": 2, "a": 3}']),
    ({"type": "object", "additionalProperties": unique(STRING), "minProperties": 2},
     ['{"a": ["x"], "b": ["x", "y"]}'], ['{"a": [], "a": []}', '{"a": ["x", "x"], "b": []}']),
    ({"type": "object", "additionalProperties": {"type": "object", "minProperties": 2}, "minProperties": 2},
     ['{"a": {"a": 1, "b": 2}, "b": {"a": 1, "b": 2}}'],
     ['{"a": {"a": 1, "a": 2}, "b": {"a": 1, "b": 2}}', '{"a": {"a": 1, "b": 2}, "a": {"a": 1, "b": 2}}']),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "allowed", "forbidden"), KEYS, ids=lambda v: json.dumps(v)[:70])
def test_counted_keys_differ(schema: Any, allowed: list[str], forbidden: list[str]) -> None:
    test_items_differ(schema, allowed, forbidden)
    rng = random.Random(3)
    texts = [drawn(CONSTRAINTS.compile_schema(schema), VOCABULARY, rng, 600) for _ in range(30)]
    finished = [text for text in texts if text is not None]
    assert finished
    for text in finished:
        jsonschema.validate(json.loads(text), schema)


def test_keys_of_items_that_differ_have_one_spelling() -> None:
    grammar = CONSTRAINTS.compile_schema(
        unique({"type": "object", "additionalProperties": INTEGER})
    )
    assert accepts(grammar, VOCABULARY, '[{"a": 1}, {"b": 1}, {}]')
    for text in ('[{"a": 1}, {"a":1}]', r'[{"a": 1}, {"\u0061": 1}]'):
        assert not accepts(grammar, VOCABULARY, text)


def test_no_answer_holds_a_mark() -> None:
    matcher = CONSTRAINTS.compile_schema(unique(STRING)).matcher()
    matcher.accept(VOCABULARY.encode(b"[")[0])
    mask = np.zeros(VOCABULARY.n_vocab, np.bool_)
    matcher.allowed(mask)
    marks = [t for t in range(VOCABULARY.n_vocab) if set(VOCABULARY.piece(t)) & {1, 2, 3, 4}]
    assert marks and not mask[marks].any() and not any(map(matcher.fits, marks))


def test_all_short_arrays_against_jsonschema() -> None:
    items = {"type": ["integer", "string", "boolean", "null"]}
    grammar = CONSTRAINTS.compile_schema(unique(items))
    values = [0, 1, 10, "", "0", "1", "a", True, False, None]
    judge = jsonschema.Draft202012Validator(unique(items))
    for count in range(4):
        for array in itertools.product(values, repeat=count):
            text = json.dumps(list(array))
            assert accepts(grammar, VOCABULARY, text) == judge.is_valid(list(array)), text


def test_arguments_of_functions_beside_free_words() -> None:
    tool = Tool("put", "", {"type": "object", "properties": {"tags": unique(STRING)}})
    grammar = CONSTRAINTS.compile_calls(Tools((tool,)))
    call = CALL + 'put{"tags": ["a", "b"]}'
    for text in ('words with [1, 1] and {"a": "', 'a "quote [', call, 'So "[: ' + call):
        assert accepts(grammar, VOCABULARY, text), text
    for start in ("", 'So "[{: '):
        assert not accepts(grammar, VOCABULARY, start + CALL + 'put{"tags": ["a", "a"]}')
