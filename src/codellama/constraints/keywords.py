"""The keywords of JSON Schema: which ones there are, and each assertion as a constraint on one type.

Keywords that put schemas together (`allOf`, `not`, `$ref`, ...) are `unfold`'s. Here every other assertion of
a subschema becomes a slot; its shape is checked on the way.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from codellama.constraints import limits
from codellama.constraints.cases import Slot
from codellama.constraints.containers import (
    ALL_ITEMS,
    ANY,
    ArraySlot,
    Contains,
    Goal,
    Keys,
    ObjectSlot,
    key,
)
from codellama.constraints.document import Node, shown
from codellama.constraints.formats import NUMERIC, PATTERN_NAMES, format_pattern
from codellama.constraints.patterns import pattern
from codellama.constraints.refusal import refusal
from codellama.constraints.scalars import NumberSlot, StringSlot

ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "$anchor", "$dynamicAnchor", "$comment", "$defs", "$vocabulary", "id"),
        *("definitions", "title", "description", "default", "examples", "example", "deprecated"),
        *("readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema"),
        *("discriminator", "externalDocs", "xml", "$recursiveAnchor"),
    }
)
APPLICATORS = frozenset(
    {
        *("allOf", "anyOf", "oneOf", "not", "if", "$ref", "$dynamicRef", "const", "enum", "type"),
        *("dependentRequired", "dependentSchemas", "dependencies", "propertyNames"),
        *("unevaluatedProperties", "unevaluatedItems"),
    }
)
HELPERS = frozenset({"then", "else", "minContains", "maxContains", "additionalItems"})
"""Keywords that mean something only beside another one, which looks at them."""

HTTP_URL_LENGTH = 2083
"""pydantic's HttpUrl is a `uri` of this length; nothing else tells that only http and https are meant."""

Maker = Callable[[Node], Slot]


def check_unknown(node: Node) -> None:
    """Unknown keywords are annotations, says the specification; a misspelt one is an error here."""
    for keyword in node.schema:
        if keyword in ASSERTIONS or keyword in APPLICATORS or keyword in ANNOTATIONS | HELPERS:
            continue
        if keyword == "nullable" and node.schema[keyword]:
            raise refusal(
                node.pointer,
                "nullable is OpenAPI's and not JSON Schema's",
                'write "type": [..., "null"] or an anyOf with {"type": "null"}'.replace(
                    "{", "{{"
                ).replace("}", "}}"),
            )
        if keyword == "$recursiveRef":
            raise refusal(node.pointer, "$recursiveRef cannot be enforced", "use $ref")
        if keyword.startswith(
            ("x-", "_", "$")
        ):  # a note, or a keyword that its author switched off
            continue
        close = _meant(keyword)
        if close:
            raise refusal(
                node.pointer,
                "unknown keyword {keyword!r}",
                f"write {close}, or begin the keyword with x- or _ if it is a note",
                keyword=keyword,
            )


def _meant(keyword: str) -> str | None:
    known = [*ASSERTIONS, *APPLICATORS, *HELPERS]
    plain = {name.lower(): name for name in known}
    squeezed = keyword.lower().replace("_", "").replace("-", "")
    if squeezed in plain:
        return plain[squeezed]
    close = difflib.get_close_matches(keyword, known, n=1, cutoff=0.86)
    return close[0] if close else None


def count(node: Node, keyword: str, most: int) -> int:
    """The value of a keyword that counts something."""
    value = node.schema[keyword]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _misshapen(node, keyword, "a whole number of 0 or more")
    if value > most:
        raise refusal(
            f"{node.pointer}/{keyword}",
            "{keyword} {value} is more than can be enforced",
            f"use {most} or less",
            keyword=keyword,
            value=shown(value),
        )
    return value


def _misshapen(node: Node, keyword: str, kind: str) -> Exception:
    return refusal(
        f"{node.pointer}/{keyword}",
        "{keyword} must be " + kind + "; got {value}",
        keyword=keyword,
        value=shown(node.schema[keyword]),
    )


def shaped(node: Node, keyword: str, kind: type, words: str) -> Any:
    """The value of a keyword, which has to be of a kind."""
    value = node.schema[keyword]
    if not isinstance(value, kind):
        raise _misshapen(node, keyword, words)
    return value


def names(node: Node, keyword: str) -> list[str]:
    """The value of a keyword that lists names."""
    value = shaped(node, keyword, list, "a list of strings")
    if not all(isinstance(name, str) for name in value):
        raise _misshapen(node, keyword, "a list of strings")
    return list(dict.fromkeys(value))


def exact(value: float | int) -> Fraction:
    """A JSON number as it is written."""
    return Fraction(value) if isinstance(value, int) else Fraction(Decimal(repr(value)))


def number(node: Node, keyword: str) -> Fraction:
    """The value of a keyword that is a number."""
    value = node.schema[keyword]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise _misshapen(node, keyword, "a number")
    if value and not 1e-30 < abs(value) < 1e60:
        raise refusal(f"{node.pointer}/{keyword}", "{value} is too large or too small", value=value)
    return exact(value)


def goal(node: Node, *steps: str | int) -> Goal:
    """The goal of a value that the subschema at these steps describes."""
    child = node.child(*steps)
    return ANY if child.schema is True or child.schema == {} else ((child, True),)


def _minimum(node: Node) -> Slot:
    is_open = node.schema.get("exclusiveMinimum") is True  # as in draft 4
    return NumberSlot(low=number(node, "minimum"), low_open=is_open)


def _maximum(node: Node) -> Slot:
    is_open = node.schema.get("exclusiveMaximum") is True
    return NumberSlot(high=number(node, "maximum"), high_open=is_open)


def _above(node: Node) -> Slot:
    if isinstance(node.schema["exclusiveMinimum"], bool):
        return NumberSlot()
    return NumberSlot(low=number(node, "exclusiveMinimum"), low_open=True)


def _below(node: Node) -> Slot:
    if isinstance(node.schema["exclusiveMaximum"], bool):
        return NumberSlot()
    return NumberSlot(high=number(node, "exclusiveMaximum"), high_open=True)


def _multiple(node: Node) -> Slot:
    value = number(node, "multipleOf")
    if value <= 0:
        raise _misshapen(node, "multipleOf", "a number above 0")
    return NumberSlot(multiples=frozenset([value]))


def _most_length(node: Node) -> Slot:
    return StringSlot(most=count(node, "maxLength", limits.LENGTH))


def _least_length(node: Node) -> Slot:
    return StringSlot(least=count(node, "minLength", limits.LENGTH))


def _pattern(node: Node) -> Slot:
    text = shaped(node, "pattern", str, "a regular expression in a string")
    return StringSlot(all_of=(pattern(text, f"{node.pointer}/pattern"),))


def _format(node: Node) -> Slot:
    name = shaped(node, "format", str, "a string")
    kinds = node.schema.get("type")
    if isinstance(kinds, str) and kinds != "string" and name in {*NUMERIC, "decimal"}:
        return StringSlot()
    if name in PATTERN_NAMES and _has_pattern(node.schema):
        return StringSlot()
    if name == "uri" and node.schema.get("maxLength") == HTTP_URL_LENGTH:
        name = "http-url"
    wanted = format_pattern(name, f"{node.pointer}/format")
    return StringSlot() if wanted is None else StringSlot(all_of=(wanted,))


def _has_pattern(schema: dict[str, Any]) -> bool:
    parts = schema.get("allOf")
    listed = parts if isinstance(parts, list) else []
    return any(isinstance(part, dict) and "pattern" in part for part in (schema, *listed))


def _prefix(node: Node) -> Slot:
    keyword = "prefixItems" if "prefixItems" in node.schema else "items"
    items = shaped(node, keyword, list, "a list of schemas")
    goals = tuple(goal(node, keyword, i) for i in range(len(items)))
    return ArraySlot(goals, evaluated=len(goals))


def _items(node: Node) -> Slot:
    if isinstance(node.schema["items"], list):  # as in draft 7
        slot = _prefix(node)
        assert isinstance(slot, ArraySlot)
        if "additionalItems" not in node.schema:
            return slot
        return ArraySlot(slot.prefix, goal(node, "additionalItems"), evaluated=ALL_ITEMS)
    first = node.schema.get("prefixItems")
    free = (ANY,) * (len(first) if isinstance(first, list) else 0)
    return ArraySlot(free, goal(node, "items"), evaluated=ALL_ITEMS)


def _contains(node: Node) -> Slot:
    schema = node.schema
    least = count(node, "minContains", limits.ITEMS) if "minContains" in schema else 1
    most = count(node, "maxContains", limits.ITEMS) if "maxContains" in schema else None
    return ArraySlot(contains=(Contains(goal(node, "contains"), least, most),))


def _least_items(node: Node) -> Slot:
    return ArraySlot(least=count(node, "minItems", limits.ITEMS))


def _most_items(node: Node) -> Slot:
    return ArraySlot(most=count(node, "maxItems", limits.ITEMS))


def _unique(node: Node) -> Slot:
    wanted = shaped(node, "uniqueItems", bool, "true or false")
    return ArraySlot(unique=f"{node.pointer}/uniqueItems" if wanted else "")


def _properties(node: Node) -> Slot:
    found = shaped(node, "properties", dict, "an object of schemas")
    clauses = tuple((key(name), goal(node, "properties", name)) for name in found)
    return ObjectSlot(clauses, evaluated=(StringSlot(values=frozenset(found)),) if found else ())


def _patterns(node: Node) -> tuple[StringSlot, ...]:
    if "patternProperties" not in node.schema:
        return ()
    found = shaped(node, "patternProperties", dict, "an object of schemas")
    place = f"{node.pointer}/patternProperties"
    return tuple(StringSlot(all_of=(pattern(text, place),)) for text in found)


def _pattern_properties(node: Node) -> Slot:
    slots = _patterns(node)
    goals = [goal(node, "patternProperties", text) for text in node.schema["patternProperties"]]
    clauses = tuple((Keys((slot,)), wanted) for slot, wanted in zip(slots, goals, strict=True))
    return ObjectSlot(clauses, evaluated=slots)


def _additional(node: Node) -> Slot:
    known = node.schema.get("properties", {})
    slots = (StringSlot(values=frozenset(known)),) if isinstance(known, dict) and known else ()
    keys = Keys((*slots, *_patterns(node)), others=True)
    return ObjectSlot(((keys, goal(node, "additionalProperties")),), evaluated=(StringSlot(),))


def _required(node: Node) -> Slot:
    if isinstance(node.schema["required"], bool):
        raise refusal(
            f"{node.pointer}/required",
            "required must be a list of strings",
            "list the property in the object that has it",
        )
    return ObjectSlot(required=tuple(names(node, "required")))


def _least_properties(node: Node) -> Slot:
    return ObjectSlot(least=count(node, "minProperties", limits.PROPERTY_COUNT))


def _most_properties(node: Node) -> Slot:
    return ObjectSlot(most=count(node, "maxProperties", limits.PROPERTY_COUNT))


ASSERTIONS: dict[str, tuple[str, Maker]] = {
    "minimum": ("number", _minimum),
    "maximum": ("number", _maximum),
    "exclusiveMinimum": ("number", _above),
    "exclusiveMaximum": ("number", _below),
    "multipleOf": ("number", _multiple),
    "minLength": ("string", _least_length),
    "maxLength": ("string", _most_length),
    "pattern": ("string", _pattern),
    "format": ("string", _format),
    "prefixItems": ("array", _prefix),
    "items": ("array", _items),
    "contains": ("array", _contains),
    "minItems": ("array", _least_items),
    "maxItems": ("array", _most_items),
    "uniqueItems": ("array", _unique),
    "properties": ("object", _properties),
    "patternProperties": ("object", _pattern_properties),
    "additionalProperties": ("object", _additional),
    "required": ("object", _required),
    "minProperties": ("object", _least_properties),
    "maxProperties": ("object", _most_properties),
}
"""Each assertion, the type of values that it is about, and what makes its slot."""
