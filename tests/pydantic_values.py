"""Values that the models of `tests.pydantic_models` take, and values near them that they may not take.

pydantic and jsonschema judge which is which.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import jsonschema  # type: ignore[import-untyped]
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, ValidationError

from tests import pydantic_models as m

STREET = {"street": "Ä Road 7", "zip": "04103"}
UUID = "8c1f6a3e-0b52-4c7d-9f7e-2d3b4a5c6d7e"
LEAF = {"value": 2, "next": None}
UI = {"type": "button", "label": "OK", "children": [], "attributes": [{"id": "b"}, {}]}
VALUES: dict[type[BaseModel], list[Any]] = {
    m.Person: [
        {"name": "Zoë", "age": 3, "address": STREET, "emails": ["a@b.c", ""]},
        {"name": 'say "hi"\n\t\\', "age": 149, "address": STREET, "emails": []},
        {"name": "", "age": 0, "address": {"street": "😀", "zip": "00000"}},
    ],
    m.Optionals: [
        {"a": 1, "b": "x", "c": STREET}, {"a": None, "b": None, "c": None}, {"b": None}, {"b": "null"},
    ],
    m.Literals: [{"kind": k, "one": "only"} for k in ("a", "b", 3, True, None)],
    m.Enums: [
        {"colour": "red", "level": 1, "both": "grün"}, {"colour": "grün", "level": 2, "both": 2},
    ],
    m.Unions: [
        {"value": 1, "numbers": 1.5}, {"value": "1", "numbers": -7}, {"value": [1, 2], "numbers": True},
        {"value": None, "numbers": 0}, {"value": [], "numbers": 0.25},
    ],
    m.Pets: [
        {"pet": {"kind": "cat", "lives": 9}, "others": []},
        {"pet": {"kind": "wolf", "name": "Isegrim"}, "others": [{"kind": "dog", "name": "Rex"}]},
        {"pet": {"kind": "dog", "name": ""}, "others": [{"kind": "cat", "lives": 1}] * 2},
    ],
    m.Tables: [
        {"counts": {"a": 1, "é\"": 0}, "nested": {"x": {"y": True}, "": {}}, "by_colour": {"x": 0.5}},
        {"counts": {}, "nested": {}, "by_colour": {}}, {"counts": {"counts": -1}},
    ],
    m.Mapped: [{"hours": {}}, {"hours": {"mon": 7.5}}, {"hours": {"mon": 7, "tue": 8}}],
    m.Node: [LEAF, {"value": 1, "next": LEAF}, {"value": 1, "next": {"value": 0, "next": LEAF}}],
    m.Tree: [
        {"name": "a", "children": []},
        {"name": "a", "children": [{"name": "b", "children": [{"name": "c", "children": []}]}] * 2},
    ],
    m.Expression: [
        {"op": "+", "left": 1, "right": 2.5},
        {"op": "*", "left": {"op": "+", "left": -1.5, "right": 0},
         "right": {"op": "*", "left": 1, "right": 1}},
    ],
    m.Ui: [UI, {"type": "div", "label": "", "children": [UI, UI], "attributes": []}],
    m.Datetimes: [
        {"at": "2024-02-29T23:59:59Z", "day": "2024-02-29", "time": "12:00:00Z"},
        {"at": "1999-12-31T00:00:00.123456+05:30", "day": "2000-02-29", "time": "23:59:59.5+00:00"},
    ],
    m.Zones: [
        {"aware": "2024-02-29T12:00:00-08:00", "when": "2024-01-01T00:00:00.1Z"},
        {"aware": "2023-06-30T12:00:00Z", "when": None}, {"aware": "2023-06-30T12:00:00Z"},
    ],
    m.Spans: [
        {"span": "P1DT2H3M4S", "short": "PT5M"}, {"span": "PT0S", "short": None}, {"span": "P3W"},
    ],
    m.Money: [
        {"price": "12.50", "rate": 1.5, "small": "1.5"}, {"price": "-3", "rate": "0.1", "small": "-99"},
    ],
    m.Bounds: [
        {"age": 18, "share": 1, "step": 0, "cents": 0.01, "positive": 1},
        {"age": 129, "share": 0.001, "step": 1000, "cents": 199.99, "positive": 123456},
        {"age": 50, "share": 0.5, "step": 35, "cents": 0, "positive": 7},
    ],
    m.Patterns: [
        {"zip": "12345", "loose": "abc1", "either": "foo-x.", "lengths": "ab"},
        {"zip": "00000", "loose": "..a1..", "either": "bar-a_1Z9b.", "lengths": "cabc"},
    ],
    m.Constrained: [
        {"upper": "a", "strict": -5, "rows": [1]}, {"upper": "äbcd", "strict": 0, "rows": [3, 2, 1]},
    ],
    m.Anything: [
        {"value": v, "thing": t}
        for v, t in ((1, None), ("x", [1, {"a": None}]), ({"b": [True]}, 2.5), (None, {}), ([], "é"))
    ] + [{"value": {"value": {"value": 0}}}],
    m.Sets: [
        {"words": ["a", "b"], "numbers": [1, 2, 3, 4], "colours": ["grün", "red"],
         "pairs": [[1, "a"], [1, "b"]]},
        {"words": [], "numbers": [], "colours": [], "pairs": []}, {"words": ["", " "], "numbers": [0]},
    ],
    m.Tuples: [
        {"pair": [1, True], "many": [1, 2.5, -3], "mixed": ["x", 0, None]},
        {"pair": [-7, False], "many": [], "mixed": ["", 1, None]},
    ],
    m.Ids: [{"id": UUID, "four": UUID}, {"id": UUID, "four": None}, {"id": UUID}],
    m.Urls: [
        {"site": "https://example.org/a?b=c#d", "any": "ftp://example.org/x"},
        {"site": "http://127.0.0.1:8080/", "any": "https://user@example.org"},
    ],
    m.Networks: [
        {"v4": "127.0.0.1", "v6": "::1", "either": "10.0.0.1", "net": "10.0.0.0/8"},
        {"v4": "255.255.255.255", "v6": "2001:db8::8a2e:370:7334", "either": "fe80::1",
         "net": "192.168.1.0/24"},
    ],
    m.Raw: [
        {"data": "bytes", "coded": "aGVsbG8=", "path": "/tmp/x"}, {"data": "", "coded": "", "path": "a b"},
    ],
    m.Quoted: [{'a"b\\': "x", "with blank/é": 1}, {'a"b\\': "", "with blank/é": -1}],
    m.Closed: [{"a": 1, "b": [STREET]}, {"a": 0, "b": []}, {"a": 1}],
    m.Open: [{"a": 1}, {"a": 1, "b": [2]}, {"a": 0, "c": None, "d": "x"}],
    m.Holder: [
        {"record": {"name": "x", "count": 2}, "mixed": [{"name": "y"}, 1, None]},
        {"record": {"name": ""}, "mixed": []},
    ],
    m.Numbers: [[], [1], [1, 2, -3]],
    m.Address: [STREET, {"street": "", "zip": "99999"}],
    m.Reasoning: [
        {"steps": [{"explanation": "x = 1", "output": "2"}], "final_answer": "2"},
        {"steps": [], "final_answer": ""},
    ],
    m.Pages: [
        {"people": {"items": [STREET], "more": True}, "numbers": {"items": [1, 2], "more": False}},
        {"people": {"items": [], "more": False}, "numbers": None}, {"people": {"items": []}},
    ],
    m.Shapes: [
        {"corner": [1.5, 2], "size": {"width": 3, "unit": "in"}, "sizes": {"a": {"width": 1, "unit": "cm"}}},
        {"corner": [0], "size": {"width": 0}},
    ],
    m.Priced: [{"price": 12.5, "plain": 3}, {"price": "12.25", "plain": None}, {"price": 0}],
    m.Totals: [{"parts": [1, 2], "total": 3}, {"parts": [], "total": 0}, {"parts": [5]}],
    m.Bag: [
        {"line": [1, 2], "queue": ["a", "b"], "table": {"1": "x"}}, {"line": [], "queue": [], "table": {}},
        {"line": [0]},
    ],
    m.Singles: [
        {"one": "only", "kind": "x", "secret": "s", "nothing": None},
        {"one": "only", "kind": "x", "secret": ""},
    ],
    m.Signs: [
        {"below": -1, "above": 0, "day": "2001-02-28", "bit": 0},
        {"below": -99, "above": 2.25, "day": "1999-12-31", "bit": -1},
    ],
    m.Camel: [
        {"firstName": "Ä", "lastSeenAt": 5}, {"firstName": "b", "lastSeenAt": None}, {"firstName": "c"},
    ],
    m.Nest: [
        {"inner": {"a": [{"kind": "bird", "pet": {"kind": "dog", "name": "x"}}]}, "deep": [[[True], []]]},
        {"inner": {"a": [{"kind": "cat", "lives": 1}, {"kind": "bird", "pet": None}]}, "deep": []},
        {"inner": {"": [{"kind": "bird", "pet": {"kind": "bird"}}], "b": []}},
    ],
    m.Unicode: [{"word": "Müßig", "code": "DE-7"}, {"word": "ž", "code": "AB-12.5"}],
}  # fmt: skip
FORMATTED = {
    *(m.Datetimes, m.Zones, m.Spans, m.Money, m.Ids, m.Urls, m.Networks, m.Raw, m.Priced, m.Signs),
}
"""Models with texts of a format, of which pydantic takes more than the format's own rules."""
OTHERS: tuple[Any, ...] = (None, True, 7, -1.5, "x", "", [], {}, [7], ["x", "x"], {"a": 7})


def near(value: Any, texts: bool) -> Iterator[Any]:
    """The value with one part left out, doubled, added or replaced by something else; also with its `texts`
    a little changed."""
    yield from (other for other in OTHERS if other != value or type(other) is not type(value))
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {k: v for k, v in value.items() if k != key}
            for other in near(inner, texts):
                yield {**value, key: other}
        yield {**value, "surplus": "x"}
    if isinstance(value, list):
        for at, inner in enumerate(value):
            yield value[:at] + value[at + 1 :]
            yield [*value, copy.deepcopy(inner)]
            for other in near(inner, texts):
                yield [*value[:at], other, *value[at + 1 :]]
    if isinstance(value, str) and value and texts:
        yield from (value + "x", value[:-1], value * 30)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from (value + 1, value - 1, value * 1000, -value)


FORMS = (
    lambda model: model.model_json_schema(),
    lambda model: model.model_json_schema(mode="serialization"),
    to_strict_json_schema,
)
SCHEMAS: dict[str, tuple[type[BaseModel], Any]] = {
    json.dumps(schema): (model, schema)
    for model in (*m.MODELS, *m.MORE)
    for write in FORMS
    for schema in [write(model)]
}
"""What the models write for input, for output and for openai's strict form, each schema once."""


def judged(model: type[BaseModel], schema: Any, most: int) -> Iterator[tuple[Any, bool]]:
    """Values of a model and at most so many near each of them; whether model and schema take them, or the
    schema does not. Those that only pydantic refuses are left out."""
    judge = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    seen: set[str] = set()
    for value in VALUES[model]:
        others = list(near(value, model not in FORMATTED))
        for instance in (value, *Random(1).sample(others, min(most, len(others)))):
            text = json.dumps(instance, sort_keys=True)
            valid = judge.is_valid(instance)
            if text not in seen and (not valid or takes(model, instance)):
                yield instance, valid
            seen.add(text)


def takes(model: type[BaseModel], value: Any) -> bool:
    """Whether pydantic makes a model of the value."""
    try:
        model.model_validate_json(json.dumps(value))
    except ValidationError:
        return False
    return True
