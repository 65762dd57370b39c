"""Small schemas, each with one keyword or one kind of value that it may have: almost three hundred."""

from __future__ import annotations

from typing import Any

INTEGER, STRING, NUMBER = {"type": "integer"}, {"type": "string"}, {"type": "number"}
ARRAY, OBJECT = {"type": "array"}, {"type": "object"}
_AB = {"properties": {"a": INTEGER, "b": STRING}}
_TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]


def _with(base: dict[str, Any], keyword: str, *values: Any) -> list[Any]:
    return [{**base, keyword: value} for value in values]


SCHEMAS: list[Any] = [
    True, {}, {"title": "t"}, {"description": "d", "default": 1}, {"examples": [1]}, {"$comment": "c"},
    {"deprecated": True}, {"readOnly": True}, {"writeOnly": True},
    {**STRING, "contentMediaType": "application/json"}, {**STRING, "contentEncoding": "base64"},
    *({"type": kind} for kind in _TYPES),
    *({"type": [kind, "null"]} for kind in _TYPES[1:]), {"type": ["integer", "string", "array"]},
    *({"const": value} for value in (None, True, 0, -1, 1.5, 1e30, 12345678901234567890, "", "a", 'q"b\\',
                                     "a\tb\n\u0001", "😀é", [], [1, [2]], {}, {"a": {"b": [None]}}, 1.0,
                                      "\x7f")),
    {"enum": [1]}, {"enum": ["a", "b"]}, {"enum": [None, 1, "1", 1.5, [1], {"a": 1}, False]},
     {"enum": ["\\d+"]},
    {"enum": [f"v{i}" for i in range(300)]}, {**STRING, "enum": ["a", 1]},
    # numbers
    *(schema for base in (INTEGER, NUMBER) for schema in (
        *_with(base, "minimum", 0, 5, -7, 2.5, 100), *_with(base, "maximum", 0, 5, -7, 2.5, -100),
        *_with(base, "exclusiveMinimum", 0, 9.5), *_with(base, "exclusiveMaximum", 0, 9.5),
        *_with(base, "multipleOf", 1, 2, 3, 5, 7, 10, 12, 100, 365, 1000, 10000))),
    *_with(NUMBER, "multipleOf", 0.1, 0.01, 0.001, 0.25, 0.5, 1.5, 2.5, 0.0001, 0.125),
    {**INTEGER, "minimum": 3, "maximum": 17}, {**NUMBER, "minimum": 0.1, "maximum": 0.35},
    {**NUMBER, "exclusiveMinimum": 0, "exclusiveMaximum": 1}, {"minimum": 3}, {"multipleOf": 4},
    {"exclusiveMaximum": 2}, {**INTEGER, "minimum": 1, "exclusiveMinimum": 1},
    # strings
    *_with(STRING, "minLength", 0, 1, 5, 40, 2.0), *_with(STRING, "maxLength", 0, 1, 5, 2000),
    {**STRING, "minLength": 2, "maxLength": 2}, {"minLength": 3}, {"maxLength": 3},
    *_with(STRING, "pattern", "^a", "b$", "a", "^foo|bar$", "^a|^b$", r"^\d{5}$", r"^\w+@\w+\.com$",
     "^a.c$",
           '^"[a-z]"$', r"^a\\b$", r"^a\nb$", "^[^a-z]*$", "^(?=.*a)(?=.*b)[a-z]{3,6}$", "^(?!no).{2}$",
           "^a*?b+?$", "^[😀-😎]$", r"^\u00e9$", "^(a|b|)c{2,}$", r"^\S+$", "a(?=b)", r"\bword\b"),
    {"pattern": "^a+$"}, {**STRING, "pattern": "^a*$", "minLength": 2, "maxLength": 3},
    *_with(STRING, "format", "date-time", "date", "time", "duration", "email", "idn-email", "hostname",
           "idn-hostname", "ipv4", "ipv6", "uri", "uri-reference", "iri", "iri-reference", "uri-template",
            "uuid",
           "json-pointer", "relative-json-pointer", "regex", "password", "unknown-thing"),
    {"format": "date"}, {**STRING, "format": "email", "minLength": 12},
    # arrays
    *_with(ARRAY, "items", {}, True, False, INTEGER, {"type": ["string", "null"]}, {"items": INTEGER}),
    *_with(ARRAY, "minItems", 0, 1, 3), *_with(ARRAY, "maxItems", 0, 1, 3),
    {**ARRAY, "minItems": 2, "maxItems": 2, "items": INTEGER}, {"minItems": 2}, {"maxItems": 1},
    *_with(ARRAY, "prefixItems", [INTEGER], [INTEGER, STRING], [{}, False]),
    {**ARRAY, "prefixItems": [INTEGER, STRING], "items": False}, {**ARRAY, "prefixItems": [INTEGER],
     "minItems": 2},
    {**ARRAY, "prefixItems": [INTEGER], "items": STRING}, {**ARRAY, "items": [INTEGER],
     "additionalItems": False},
    *_with(ARRAY, "contains", INTEGER, {"const": "x"}, True, False),
    {**ARRAY, "contains": INTEGER, "minContains": 2}, {**ARRAY, "contains": INTEGER, "maxContains": 1},
    {**ARRAY, "contains": INTEGER, "minContains": 0}, {"contains": STRING},
    *({**ARRAY, "items": items, "uniqueItems": True} for items in ({}, INTEGER, STRING, {"enum": [1, 2,
     3]}, OBJECT)),
    {"uniqueItems": True}, {**ARRAY, "unevaluatedItems": False, "prefixItems": [INTEGER]},
    {**ARRAY, "unevaluatedItems": STRING, "anyOf": [{"prefixItems": [INTEGER]}, {"minItems": 1}]},
    # objects
    *_with(OBJECT, "properties", {}, {"a": INTEGER}, {"": {"type": "boolean"}}, {'q"\\': INTEGER},
     {"é😀": {}},
           {"a": False}, {"a": {"type": "object", "properties": {"b": STRING}}}),
    *_with(OBJECT, "required", [], ["a"], ["a", "b"], ['q"']), {**OBJECT, **_AB, "required": ["b"]},
     {"required": ["x"]},
    *_with(OBJECT, "additionalProperties", True, False, INTEGER, {}), {**OBJECT, **_AB,
     "additionalProperties": False},
    {**OBJECT, **_AB, "additionalProperties": {"type": "null"}},
    *_with(OBJECT, "patternProperties", {"^x": INTEGER}, {"a": INTEGER, "b": {"minimum": 3}}, {"": STRING}),
    {**OBJECT, "patternProperties": {"^x": INTEGER}, "additionalProperties": False},
    *_with(OBJECT, "minProperties", 0, 1, 2), *_with(OBJECT, "maxProperties", 0, 1, 2),
    {**OBJECT, **_AB, "minProperties": 2, "additionalProperties": False},
    *_with(OBJECT, "propertyNames", {"pattern": "^[a-z]+$"}, {"enum": ["a", "b"]}, {"maxLength": 2}, False),
    *_with(OBJECT, "dependentRequired", {"a": ["b"]}, {"a": []}),
    *_with(OBJECT, "dependentSchemas", {"a": {"required": ["b"]}}, {"a": False}),
    {**OBJECT, "dependencies": {"a": ["b"]}}, {**OBJECT, **_AB, "unevaluatedProperties": False},
    {**OBJECT, "allOf": [_AB], "unevaluatedProperties": INTEGER},
    # put together
    {"allOf": [INTEGER, {"minimum": 3}]}, {"allOf": [{"enum": ["a", "b"]}, {"enum": ["b"]}]},
     {"allOf": [True]},
    {"anyOf": [INTEGER, STRING]}, {"anyOf": [_AB, {"required": ["c"]}], **OBJECT}, {"anyOf": [False,
     INTEGER]},
    {"oneOf": [INTEGER, STRING]}, {"oneOf": [INTEGER, {"minimum": 3}]}, {"oneOf": [{"required": ["a"]},
     {"required": ["b"]}]},
    {"not": STRING}, {"not": {"const": 1}}, {"not": {"required": ["a"]}}, {"not": {"minimum": 3}},
    {"not": {"pattern": "a"}, **STRING}, {"not": {"multipleOf": 3}},
    {"if": STRING, "then": {"minLength": 2}}, {"if": {"required": ["a"]}, "then": {"required": ["b"]},
     "else": {"maxProperties": 1}},
    {"$ref": "#/$defs/x", "$defs": {"x": INTEGER}}, {"$ref": "#p", "$defs": {"x": {"$anchor": "p",
     **STRING}}},
    {"properties": {"n": {"$ref": "#"}}, **OBJECT}, {"$ref": "https://example.org/s.json"},
    {"$dynamicRef": "#d", "$defs": {"x": {"$dynamicAnchor": "d", **INTEGER}}},
    {"$ref": "#/$defs/x", "minimum": 2, "$defs": {"x": INTEGER}},
]  # fmt: skip
