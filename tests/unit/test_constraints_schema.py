"""What schemas let through and stop, keyword by keyword; texts are walked token by token."""

from __future__ import annotations

import json
from typing import Any

import pytest

from codellama.constraints import Constraints
from codellama.errors import GrammarError
from tests.walks import Pieces, accepts, accepts_value, slice_vocabulary

VOCABULARY = slice_vocabulary()
CONSTRAINTS = Constraints(VOCABULARY)

STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}

TABLE: list[tuple[Any, list[Any], list[Any]]] = [
    # strings that JSON has to escape
    ({"const": "a\tb"}, ["a\tb"], ["a b"]),
    ({"const": "C:\\dir"}, ["C:\\dir"], ["C:dir"]),
    ({"const": "a\\nb"}, ["a\\nb"], ["a\nb"]),
    ({"const": "😀"}, ["😀"], ["😁"]),
    ({"const": 'a"b'}, ['a"b'], ["ab"]),
    ({"enum": ["\\d+", "\u0001"]}, ["\\d+", "\u0001"], ["1", ""]),
    ({"properties": {'a"\\\u0001😀': INTEGER}, "required": ['a"\\\u0001😀']},
     [{'a"\\\u0001😀': 1}], [{}, {'a"\\\u0001😀': "x"}]),
    # patterns
    ({**STRING, "pattern": "^a.c$"}, ["abc", 'a"c', "a\\c"], ["ac", "abcd", "a\nc"]),
    ({**STRING, "pattern": "^\"[a-z]\"$"}, ['"a"'], ["a"]),
    ({**STRING, "pattern": "^foo|bar$"}, ["foo", "foox", "xbar"], ["xfoo", "barx"]),
    ({**STRING, "pattern": "^a|^b$"}, ["a", "ax", "b"], ["bx", "xa"]),
    ({**STRING, "pattern": "a"}, ["a", "xax"], ["x", ""]),
    ({**STRING, "pattern": r"^\d{5}$"}, ["12345"], ["1234", "1234a", "１２３４５"]),
    ({**STRING, "pattern": r"^[\w.-]+\/\.\s?$"}, ["a-b./.", "x/. "], ["x/,"]),
    ({**STRING, "pattern": r"^(?:ab)+?c*$"}, ["ab", "ababcc"], ["", "a"]),
    ({**STRING, "pattern": r"^(?=.*\d)(?!.*x)[a-z0-9]{3,8}$"}, ["ab1"], ["abc", "ax1", "a1"]),
    ({**STRING, "pattern": "^a+$", "minLength": 2, "maxLength": 3}, ["aa", "aaa"], ["a", "aaaa", "ab"]),
    ({**STRING, "pattern": r"^\p{Lu}\p{L}*$"}, ["Éa"], ["éa"]),
    ({"minLength": 3}, ["abc", 5, None, []], ["ab"]),
    ({**STRING, "minLength": 2.0}, ["ab"], ["a"]),
    ({**STRING, "maxLength": 2}, ["😀😀"], ["abc"]),
    # formats
    ({**STRING, "format": "date"}, ["2024-02-29", "2023-12-31"],
     ["2023-02-30", "2023-02-29", "2100-02-29", "2023-13-01", "0000-01-01"]),
    ({**STRING, "format": "date-time"}, ["2023-01-01T00:00:00Z", "2023-01-01T00:00:00.12345+01:00"],
     ["2023-01-01", "2023-01-01T25:00:00Z"]),
    ({**STRING, "format": "time"}, ["12:00:00Z"], ["12:00"]),
    ({**STRING, "format": "duration"}, ["P1DT2H", "P3W", "PT5M"], ["P", "1D", "PT"]),
    ({**STRING, "format": "email"}, ["ann@example.org"], ["ann", "a..b@c.de", "a@b"]),
    ({**STRING, "format": "ipv4"}, ["127.0.0.1"], ["256.0.0.1", "1.2.3"]),
    ({**STRING, "format": "ipv6"}, ["::1", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4"], ["1::2::3", "12345::"]),
    ({**STRING, "format": "uri"}, ["https://a.b/c?d=e#f"], ["a b", "//a"]),
    ({**STRING, "format": "uuid"}, ["2eb8aa08-aa98-11ea-b4aa-73b441d16380"], ["2eb8aa08"]),
    ({**STRING, "format": "regex"}, [r"^([abc])+\s+$", r"a|(b\.c{2,})?", ""], ["(", "*", "a{2}{", "a**",
     "[b-a]"]),
    ({**STRING, "format": "decimal"}, ["1.50", "-7"], ["", "1e5", "."]),
    ({**STRING, "format": "ipv4network"}, ["10.0.0.0/8", "1.2.3.4"], ["10.0.0.1/8"]),
    ({**STRING, "format": "hostname", "minLength": 5}, ["a.example"], ["a.b", "-abcde"]),
    # numbers
    ({**INTEGER, "minimum": 100}, [100, 101, 1000], [11, 99, -100]),
    ({**INTEGER, "maximum": -100}, [-100, -1000], [-11, 0, 100]),
    ({**INTEGER, "exclusiveMinimum": 0, "exclusiveMaximum": 3}, [1, 2], [0, 3]),
    ({"type": "number", "minimum": 2.5, "maximum": 1e2}, [2.5, 3, 99.75, 100], [2.4, 100.5]),
    ({**INTEGER, "minimum": 2.5}, [3], [2]),
    ({"minimum": 5, "exclusiveMinimum": 5}, [5.5, "a"], [5]),
    ({"minimum": 5, "exclusiveMinimum": True}, [6], [5]),
    ({**INTEGER, "multipleOf": 7}, [0, 49, -14], [48]),
    ({"type": "number", "multipleOf": 0.01}, [0.07, 1.25, 3], [0.005]),
    ({**STRING, "pattern": r"^[a-z]+(?=\.txt$|\.md$)\.[a-z]+$"}, ["a.txt", "b.md"], ["a.doc", "a.txtx"]),
    ({**STRING, "pattern": "^a(?!b).c?$", "maxLength": 9}, ["acc", 'a"'], ["abc", "a"]),
    ({**STRING, "not": {"pattern": "^a(?!b)."}}, ["ab", "a", "x"], ["ac"]),
    ({"type": "number", "multipleOf": 0.25}, [0.25, 0.5, 3, -7.75], [0.3, 1.255]),
    ({"type": "number", "multipleOf": 12.5}, [12.5, 0, 100, 1037.5], [12, 7.5, 110]),
    ({"type": "number", "multipleOf": 0.0001}, [0.0075, 1], [0.00075]),
    ({**INTEGER, "multipleOf": 10000}, [0, 10000, -120000], [1000, 15000]),
    ({**INTEGER, "multipleOf": 400}, [0, 400, 10800], [40, 4, 100]),
    ({**INTEGER, "multipleOf": 1024, "minimum": 5}, [1024, 1048576], [0, 512]),
    ({"type": ["number", "null"], "minimum": 1}, [None, 1], [0, "a"]),
    ({"const": 12345678901234567890}, [12345678901234567890], [12345678901234567168]),
    ({"enum": [1.5, 10**30]}, [1.5, 10**30], [1, 10**30 + 1]),
    ({"type": "number"}, [1e-05, 1e50, 0.1234567890123456, -3], ["1", True]),
    # arrays
    ({"type": "array", "items": {}}, [[], [1, "a", None, {}]], [{}]),
    ({"minItems": 1, "maxItems": 2}, [[1], [1, 2], "a"], [[], [1, 2, 3]]),
    ({"prefixItems": [STRING, INTEGER], "items": False}, [[], ["a"], ["a", 1]], [[1], ["a", 1, 2]]),
    ({"prefixItems": [STRING, INTEGER], "items": {"type": "null"}, "minItems": 2},
     [["a", 1], ["a", 1, None]], [["a"], ["a", 1, 2]]),
    ({"items": [STRING], "additionalItems": INTEGER}, [["a", 1]], [["a", "b"]]),
    ({"contains": INTEGER}, [["a", 1], [1]], [[], ["a"]]),
    ({"contains": INTEGER, "minContains": 2, "maxContains": 3}, [[1, "a", 2], [1, 2, 3]],
     [[1], ["a"], [1, 2, 3, 4]]),
    ({"contains": INTEGER, "maxItems": 2, "items": {"type": ["integer", "string"]}},
     [["a", 1]], [["a", "b"], ["a", "b", 1]]),
    ({"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True}, [["a", "c"], []],
     [["a", "a"], ["a", "b", "a"]]),
    ({"type": "array", "items": {"type": ["boolean", "null"]}, "uniqueItems": True, "minItems": 2},
     [[True, None], [None, False, True]], [[True], [True, True]]),
    ({"uniqueItems": True, "maxItems": 1}, [[], [5]], [[1, 2]]),
    # objects
    ({"required": ["x"]}, [{"x": 1}, 5], [{}, {"y": 1}]),
    ({"required": ["x"], "additionalProperties": INTEGER}, [{"x": 1, "y": 2}], [{"x": "a"}, {"y": 1}]),
    ({"properties": {"a": INTEGER}}, [{"a": 1, "b": "x"}, {}], [{"a": "x"}]),
    ({"type": "object", "properties": {"": {"type": "boolean"}}, "required": [""]}, [{"": True}], [True,
     {}]),
    ({"minProperties": 1, "maxProperties": 2}, [{"a": 1}, {"a": 1, "b": 2}], [{}, {"a": 1, "b": 2,
     "c": 3}]),
    ({"properties": {"a": True, "b": True, "c": True}, "additionalProperties": False, "minProperties": 2},
     [{"a": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}], [{}, {"b": 1}]),
    ({"propertyNames": {"pattern": "^[a-z]+$"}}, [{"ab": 1}, {}], [{"A": 1}, {"ab": 1, "B": 1}]),
    ({"propertyNames": {"enum": ["a", "b"]}}, [{"a": 1, "b": 2}], [{"c": 1}]),
    ({"patternProperties": {"^n": INTEGER}, "additionalProperties": False}, [{"na": 1}, {}],
     [{"na": "x"}, {"b": 1}]),
    ({"patternProperties": {"a": INTEGER, "b": {"minimum": 5}}}, [{"ab": 6, "a": 1, "c": "x"}],
     [{"ab": 1}, {"ab": "x"}]),
    ({"properties": {"name": STRING}, "patternProperties": {"^n": {"minLength": 2}}},
     [{"name": "ab"}], [{"name": "a"}, {"name": 5}]),
    ({"dependentRequired": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 2}], [{"a": 1}]),
    ({"dependentSchemas": {"a": {"properties": {"b": INTEGER}}}}, [{"a": 1, "b": 2}, {"b": "x"}],
     [{"a": 1, "b": "x"}]),
    ({"dependencies": {"a": ["b"], "c": {"required": ["d"]}}}, [{"a": 1, "b": 1}, {"c": 1, "d": 1}],
     [{"a": 1}, {"c": 1}]),
    # schemas put together
    ({"allOf": [INTEGER, {"minimum": 5}]}, [5], [4, "a"]),
    ({"allOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]}, ["b"], ["a", "c"]),
    ({"allOf": [{"$ref": "#/$defs/E"}], "$defs": {"E": {"enum": ["x", "y"]}}}, ["x"], [{}, "z"]),
    ({"properties": {"a": INTEGER}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
     [{"a": 1}, {"b": 1}], [{}, {"a": "x", "b": 1}]),
    ({"type": ["string", "null"], "enum": ["a", None]}, ["a", None], ["b"]),
    ({"type": ["object", "null"], "properties": {"a": INTEGER}}, [None, {"a": 1}], [{"a": "x"}]),
    ({"oneOf": [{"minimum": 2}, INTEGER]}, [1, 2.5, "a"], [3, 1.5]),
    ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, [{"a": 1}, {"b": 1}], [{"a": 1, "b": 1}, {}]),
    ({"oneOf": [{"properties": {"k": {"const": "x"}, "v": STRING}, "required": ["k", "v"]},
                {"properties": {"k": {"const": "y"}, "v": INTEGER}, "required": ["k", "v"]}]},
     [{"k": "x", "v": "s"}, {"k": "y", "v": 1}], [{"k": "x", "v": 1}, {"k": "z", "v": 1}]),
    ({"not": {"const": "a"}}, ["b", "", 1, None], ["a"]),
    ({"not": {"enum": [1, "a", None]}}, [2, "b", True], [1, "a", None]),
    ({"not": {"type": ["string", "object"]}}, [1, []], ["a", {}]),
    ({"not": {"required": ["a"]}}, [{}, {"b": 1}], [{"a": 1}, 3]),
    ({"type": "object", "not": {"properties": {"a": INTEGER}}}, [{"a": "x"}], [{}, {"a": 1}]),
    ({"type": "array", "not": {"items": INTEGER}}, [["a"], [1, "a"]], [[], [1]]),
    ({"type": "object", "not": {"additionalProperties": INTEGER}}, [{"a": 1, "b": "x"}], [{}, {"a": 1}]),
    ({"not": {"not": STRING}}, ["a"], [1]),
    ({"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"],
      "if": {"properties": {"kind": {"const": "a"}}},
      "then": {"required": ["x"]}, "else": {"required": ["y"]}},
     [{"kind": "a", "x": 1}, {"kind": "b", "y": 1}], [{"kind": "a", "y": 1}, {"kind": "b"}]),
    ({"properties": {"a": {"type": "string", "pattern": "^x", "not": {"pattern": "x"}}}}, [{}, {"b": 1}],
     [{"a": "x"}]),
    ({"if": STRING, "then": {"minLength": 2}}, ["ab", 1], ["a"]),
    (True, [1, "a", {}], []),
    ({"title": "anything"}, [1, None, [{}]], []),
    ({"properties": {"a": False, "b": True}}, [{"b": 1}, {}], [{"a": 1}]),
    ({"properties": {"a": {}}, "unevaluatedProperties": False, "allOf": [{"properties": {"b": {}}}]},
     [{"a": 1, "b": 2}], [{"c": 1}]),
    ({"allOf": [{"prefixItems": [INTEGER]}], "unevaluatedItems": False}, [[1], []], [[1, 2], ["a"]]),
    # references
    ({"$ref": "#/$defs/string", "$defs": {"string": INTEGER}}, [1], ["a"]),
    ({"properties": {"next": {"$ref": "#"}}, "additionalProperties": False}, [{"next": {"next": {}}}],
     [{"next": {"x": 1}}]),
    ({"$defs": {"N": {"properties": {"v": INTEGER, "l": {"anyOf": [{"$ref": "#/$defs/N"},
     {"type": "null"}]}},
                      "required": ["v"]}}, "$ref": "#/$defs/N"},
     [{"v": 1, "l": {"v": 2, "l": None}}], [{"v": 1, "l": {}}, {"v": "x"}]),
    ({"$ref": "#/$defs/a~1b%20c", "minimum": 3, "$defs": {"a/b c": INTEGER}}, [3], [2, "a"]),
    ({"$ref": "#pos", "$defs": {"p": {"$anchor": "pos", **INTEGER, "minimum": 1}}}, [1], [0]),
    ({"$ref": "item.json", "$id": "http://x.org/a.json", "$defs": {"i": {"$id": "item.json", **INTEGER}}},
     [1], ["a"]),
    ({"definitions": {"P": INTEGER}, "properties": {"p": {"$ref": "#/definitions/P"}}}, [{"p": 1}],
     [{"p": "x"}]),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/P", "maximum": 1,
      "definitions": {"P": INTEGER}}, [5], ["a"]),
    ({"allOf": [{"$ref": "#/$defs/t1"}, {"$ref": "#/$defs/t2"}],
      "$defs": {"t1": {"type": "object", "properties": {"c": {"$ref": "#/$defs/t1"}}},
                "t2": {"properties": {"c": {"$ref": "#/$defs/t2"}}, "maxProperties": 1}}},
     [{"c": {"c": {}}}], [{"c": {"c": 1}}, {"c": {"a": 1, "b": 2}}]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "allowed", "forbidden"), TABLE, ids=lambda v: json.dumps(v)[:60]
)
def test_a_schema_allows_what_it_says_and_nothing_else(
    schema: Any, allowed: list[Any], forbidden: list[Any]
) -> None:
    grammar = CONSTRAINTS.compile_schema(schema)
    for value in allowed:
        assert accepts_value(grammar, VOCABULARY, value, schema), value
    for value in forbidden:
        assert not accepts_value(grammar, VOCABULARY, value, schema), value
    inner = {"type": "object", "properties": {"v": schema}, "required": ["v"]}
    if '"$ref"' not in json.dumps(schema):
        grammar = CONSTRAINTS.compile_schema(inner)
        assert all(accepts_value(grammar, VOCABULARY, {"v": value}, inner) for value in allowed)
        assert not any(accepts_value(grammar, VOCABULARY, {"v": v}, inner) for v in forbidden)


REFUSED: list[tuple[Any, str, str]] = [
    ({"type": "object", "minProperties": 2, "propertyNames": {"pattern": "^a"}}, "#", "minProperties"),
    ({"type": "string", "allOf": [{"pattern": c} for c in "abcdefg"]}, "#", "so many patterns"),
    ({"not": {"multipleOf": 3}}, "#/not/multipleOf", "multipleOf"),
    ({"not": {"uniqueItems": True}}, "#/not/uniqueItems", "uniqueItems"),
    ({"multipleOf": 1441, "type": "integer"}, "#", "multipleOf"),
    ({"properties": {"a/b": {"pattern": "(?<=a)b"}}}, "#/properties/a~1b/pattern", "lookbehind"),
    ({"pattern": r"(a)\1"}, "#/pattern", "back reference"),
    ({"pattern": r"\bfoo"}, "#/pattern", "word boundary"),
    ({"pattern": "(a(?=b).)*c"}, "#/pattern", "lookahead"),
    ({"pattern": "("}, "#/pattern", "without its )"),
    ({"pattern": "a{3,2}"}, "#/pattern", "wrong order"),
    ({"pattern": "((a{400}){400})"}, "#/pattern", "unroll"),
    ({"format": "emial"}, "#/format", "emial"),
    ({"maxLenght": 5}, "#", "maxLength"),
    ({"min_length": 5}, "#", "minLength"),
    ({"type": "strng"}, "#/type", "strng"),
    ({"type": "object", "nullable": True}, "#", "nullable"),
    ({"properties": {"a": 5}}, "#/properties/a", "object, true or false"),
    ({"properties": {"a": {"type": "string", "required": True}}}, "#/properties/a/required", "list"),
    ({"minLength": -1}, "#/minLength", "0 or more"),
    ({"minLength": "3"}, "#/minLength", "whole number"),
    ({"enum": "a"}, "#/enum", "list"),
    ({"anyOf": []}, "#/anyOf", "empty"),
    ({"$ref": "#/$defs/x"}, "#/$ref", "points to nothing"),
    ({"$ref": "https://example.org/x.json"}, "#/$ref", "outside"),
    ({"$ref": "#"}, "#", "refers to itself"),
    ({"minItems": 3, "maxItems": 2, "type": "array"}, "#", "no value"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "#", "no value"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "#", "no value"),
    ({"type": "integer", "minimum": 2.2, "maximum": 2.8}, "#", "no value"),
    ({"properties": {"a": False}, "required": ["a"], "type": "object"}, "#", "no value"),
    ({"enum": []}, "#", "no value"),
    ({"allOf": [{"pattern": "^a"}, {"pattern": "^b"}], "type": "string"}, "#", "no value"),
    ({"properties": {"a": {"pattern": "^ab", "not": {"pattern": "^a"}, "type": "string"}},
      "required": ["a"], "type": "object"}, "#", "no value"),
    (False, "#", "no value"),
    ({"maxLength": 1_000_001}, "#/maxLength", "1000000"),
    ({"minItems": 100_001}, "#/minItems", "100000"),
    ({"enum": list(range(10_001))}, "#/enum", "10000"),
    ([], "#", "object, true or false"),
    ({"const": float("nan")}, "#", "nan"),
    ({"const": "\ud800"}, "#", "surrogate"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "pointer", "word"), REFUSED, ids=lambda v: str(v)[:60])
def test_what_cannot_be_enforced_is_refused_by_name(schema: Any, pointer: str, word: str) -> None:
    with pytest.raises(GrammarError) as caught:
        CONSTRAINTS.compile_schema(schema, "response_format")
    assert caught.value.param == "response_format"
    assert str(caught.value).startswith(f"response_format: at {pointer}: ")
    assert word in str(caught.value)


def test_a_schema_that_is_too_deep_or_too_large_is_refused() -> None:
    deep: Any = {}
    for _ in range(64):
        deep = {"items": deep}
    with pytest.raises(GrammarError, match="deeper than 64"):
        CONSTRAINTS.compile_schema(deep)
    with pytest.raises(GrammarError, match="larger"):
        CONSTRAINTS.compile_schema({"description": "x" * (1 << 20)})
    wide = {"dependentRequired": {f"a{i}": [f"b{i}"] for i in range(12)}}
    with pytest.raises(GrammarError, match="combines to more"):
        CONSTRAINTS.compile_schema(wide)


def test_a_key_cannot_be_smuggled_in_by_an_escape_or_twice() -> None:
    grammar = CONSTRAINTS.compile_schema({"type": "object", "properties": {"a": INTEGER}})
    assert accepts(grammar, VOCABULARY, '{"a": 1, "b": "x"}')
    for text in (r'{"\u0061": "x"}', '{"a": 1, "a": "x"}', '{"b": 1, "a": "x"}'):
        assert not accepts(grammar, VOCABULARY, text), text


def test_strings_without_limits_may_be_escaped_and_never_hold_raw_controls() -> None:
    grammar = CONSTRAINTS.compile_schema(STRING)
    for text in (r'"\u00e9\ud83d\ude00\/\n"', '"é😀"', '""'):
        assert accepts(grammar, VOCABULARY, text), text
    for text in ('"a\nb"', '"\t"', r'"\ud83d"', r'"\x"', '"\x00"'):
        assert not accepts(grammar, VOCABULARY, text), text


def test_white_space_is_bounded_and_indents_are_not_in_the_way() -> None:
    schema = {"properties": {"a": {"items": {"properties": {"b": INTEGER}}}}}
    grammar = CONSTRAINTS.compile_schema(schema)
    value = {"a": [{"b": 1}, {"b": 2}]}
    for indent in (None, 1, 2, 4, 8, "\t"):
        assert accepts(grammar, VOCABULARY, json.dumps(value, indent=indent))
    for text in ('{  "a": []}', '{\n\n"a": []}', ' {"a": []}', '{"a": []}  '):
        assert not accepts(grammar, VOCABULARY, text), text


def test_an_object_of_any_kind_has_a_bounded_depth() -> None:
    grammar = CONSTRAINTS.compile_schema({"type": "object"})
    assert accepts(grammar, VOCABULARY, '{"a": ' * 20 + "1" + "}" * 20)
    assert not accepts(grammar, VOCABULARY, '{"a": ' * 40 + "1" + "}" * 40)
    assert not accepts(grammar, VOCABULARY, "[]")


def test_properties_come_in_the_schemas_order() -> None:
    grammar = CONSTRAINTS.compile_schema({"properties": {"b": {}, "a": {}}, "required": ["c"]})
    assert accepts(grammar, VOCABULARY, '{"b": 1, "a": 2, "c": 3, "x": 4}')
    assert not accepts(grammar, VOCABULARY, '{"a": 2, "b": 1, "c": 3}')


def test_a_schema_may_be_json_text() -> None:
    grammar = CONSTRAINTS.compile_schema('{"type": "integer"}')
    assert accepts(grammar, VOCABULARY, "12") and not accepts(grammar, VOCABULARY, '"a"')
    with pytest.raises(GrammarError, match="json_schema is not JSON"):
        CONSTRAINTS.compile_schema('{"type":')


def test_the_vocabulary_slice_covers_all_bytes() -> None:
    vocabulary: Pieces = slice_vocabulary()
    text = "Grüße 😀\n".encode()
    assert b"".join(map(vocabulary.piece, vocabulary.encode(text))) == text


@pytest.mark.parametrize("note", ["x-uniqueItems", "_uniqueItems", "$uniqueItems", "title2"])
def test_unknown_keywords_are_notes(note: str) -> None:
    grammar = CONSTRAINTS.compile_schema({"type": "array", note: True})
    assert accepts(grammar, VOCABULARY, "[1, 1]")


@pytest.mark.parametrize("typo", ["uniqueitems", "unique_items", "uniqeItems"])
def test_a_misspelt_keyword_is_an_error(typo: str) -> None:
    with pytest.raises(GrammarError, match=f"unknown keyword '{typo}': write uniqueItems"):
        CONSTRAINTS.compile_schema({"type": "array", typo: True})
