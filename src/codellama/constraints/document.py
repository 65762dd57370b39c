"""A JSON schema as a document: its size is checked, and `$ref` finds what it points to.

A `Node` is one subschema with its JSON pointer. References by pointer, by `$anchor` and by `$id` within the
document are resolved; nothing is ever fetched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from codellama.constraints import limits
from codellama.constraints.refusal import refusal
from codellama.errors import GrammarError

_OLD_DRAFTS = ("draft-03", "draft-04", "draft-06", "draft-07")
_IN_PLACE_OF_ONE = (
    *(
        "additionalItems",
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
    ),
    *("not", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
)
_IN_A_LIST = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_IN_A_MAP = (
    *(
        "$defs",
        "definitions",
        "dependentSchemas",
        "dependencies",
        "patternProperties",
        "properties",
    ),
)


@dataclass(frozen=True)
class Node:
    """One subschema; two nodes are equal if their pointers are."""

    pointer: str
    schema: Any = field(compare=False, repr=False)
    base: str = field(default="", compare=False, repr=False)
    """The URI against which references in it are resolved."""
    old: bool = field(default=False, compare=False, repr=False)
    """Whether the document says that it is of draft 7 or older, where `$ref` hides its siblings."""

    def child(self, *steps: str | int) -> Node:
        """The subschema that these keys and indices lead to; GrammarError if it is not a schema."""
        value, pointer, base = self.schema, self.pointer, self.base
        for step in steps:
            value = value[step]
            pointer = f"{pointer}/{escaped(step)}"
        if not isinstance(value, (dict, bool)):
            raise refusal(
                pointer,
                "a schema must be an object, true or false; got {value!r}",
                value=shown(value),
            )
        return Node(pointer, value, base_of(base, value, self.old), self.old)


def escaped(step: str | int) -> str:
    """A step of a JSON pointer."""
    return str(step).replace("~", "~0").replace("/", "~1")


def shown(value: object) -> str:
    """A value, short enough for an error."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def base_of(base: str, schema: Any, old: bool) -> str:
    """The base URI inside a schema that stands where `base` holds."""
    own = schema.get("$id") if isinstance(schema, dict) else None
    if not isinstance(own, str) or own.startswith("#") or (old and "$ref" in schema):
        return base
    return urldefrag(urljoin(base, own))[0]


class Document:
    """A whole schema. Raises GrammarError if it is too large or holds what JSON does not."""

    def __init__(self, schema: Any) -> None:
        self.size = _measured(schema)
        draft = schema.get("$schema") if isinstance(schema, dict) else None
        old = isinstance(draft, str) and any(name in draft for name in _OLD_DRAFTS)
        if not isinstance(schema, (dict, bool)):
            raise refusal(
                "#", "a schema must be an object, true or false; got {value}", value=shown(schema)
            )
        self.root = Node("#", schema, base_of("", schema, old), old)
        self._resources: dict[str, Node] = {"": self.root, self.root.base: self.root}
        self._anchors: dict[tuple[str, str], Node] = {}
        self.dynamic: dict[str, list[Node]] = {}
        self.unevaluated = False
        """Whether any unevaluatedProperties or unevaluatedItems stands in it."""
        for node in _subschemas(self.root):
            self._enter(node)

    def _enter(self, node: Node) -> None:
        schema, base = node.schema, node.base
        if not isinstance(schema, dict):
            return
        if isinstance(schema.get("$id"), str) and not (node.old and "$ref" in schema):
            own = schema["$id"]
            if own.startswith("#"):
                self._anchors.setdefault((base, own[1:]), node)
            else:
                self._resources.setdefault(base, node)
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(schema.get(keyword), str):
                self._anchors.setdefault((base, schema[keyword]), node)
        if isinstance(schema.get("$dynamicAnchor"), str):
            self.dynamic.setdefault(schema["$dynamicAnchor"], []).append(node)
        if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
            self.unevaluated = True

    def resolve(self, node: Node, keyword: str) -> Node:
        """What the `$ref` (or `$dynamicRef`) of a node points to."""
        pointer = f"{node.pointer}/{keyword}"
        reference = node.schema[keyword]
        if not isinstance(reference, str):
            raise refusal(pointer, "{keyword} must be a string", keyword=keyword)
        if reference.startswith("#"):
            uri, fragment = node.base, reference[1:]
        else:
            uri, fragment = urldefrag(urljoin(node.base, reference))
        root = self._resources.get(uri)
        if root is None:
            raise refusal(
                pointer,
                "{reference!r} is outside this schema, and nothing is fetched",
                "put it under $defs and refer to #/$defs/NAME",
                reference=reference,
            )
        fragment = unquote(fragment)
        target = (
            self._anchors.get((uri, fragment))
            if fragment and not fragment.startswith("/")
            else _walk(root, fragment)
        )
        if target is None:
            raise refusal(
                pointer,
                "{reference!r} points to nothing in this schema",
                "definitions belong under $defs",
                reference=reference,
            )
        return target


def _walk(root: Node, fragment: str) -> Node | None:
    value, pointer, base = root.schema, root.pointer, root.base
    for raw in fragment.split("/")[1:]:
        step: str | int = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list):
            if not (raw.isascii() and raw.isdigit() and int(raw) < len(value)):
                return None
            step = int(raw)
        elif not (isinstance(value, dict) and step in value):
            return None
        value = value[step]
        pointer = f"{pointer}/{escaped(step)}"
        base = base_of(base, value, root.old)
    return Node(pointer, value, base, root.old) if isinstance(value, (dict, bool)) else None


def _subschemas(root: Node) -> Iterator[Node]:
    """The root and all subschemas in places where keywords put them."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node.schema, dict):
            continue
        for keyword, value in node.schema.items():
            steps: list[tuple[str | int, ...]] = []
            if keyword in _IN_PLACE_OF_ONE and isinstance(value, (dict, bool)):
                steps = [(keyword,)]
            elif keyword in _IN_A_LIST and isinstance(value, list):
                steps = [(keyword, i) for i in range(len(value))]
            elif keyword in _IN_A_MAP and isinstance(value, dict):
                steps = [(keyword, name) for name in value]
            for path in steps:
                try:
                    waiting.append(node.child(*path))
                except GrammarError:
                    continue  # told when it is reached, if it is


def _measured(schema: Any) -> int:
    """The size as compact JSON in bytes, about; GrammarError where a bound is passed."""
    count = size = 0
    waiting = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > limits.SCHEMA_DEPTH:
            raise refusal(
                "#", "it is nested deeper than {most}", "use $ref", most=limits.SCHEMA_DEPTH
            )
        parts = list(value.values()) if isinstance(value, dict) else []
        if isinstance(value, dict):
            size += sum(_plain_size(name) + 2 for name in value)
        elif isinstance(value, (list, tuple)):
            parts = list(value)
        else:
            size += _plain_size(value)
        waiting += [(part, depth + 1) for part in parts]
        count, size = count + 1, size + 2
        if count > limits.SCHEMA_VALUES or size > limits.SCHEMA_BYTES:
            raise refusal(
                "#",
                "it is larger than {bytes} bytes or {values} values",
                "send a smaller schema",
                bytes=limits.SCHEMA_BYTES,
                values=limits.SCHEMA_VALUES,
            )
    return size


def _plain_size(value: Any) -> int:
    """The size of a key, or of a value without parts; GrammarError if JSON has no such thing."""
    if isinstance(value, str):
        try:
            return len(value.encode()) + 2
        except UnicodeEncodeError:
            raise refusal("#", "it holds half of a surrogate pair, which no text does") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise refusal("#", "{value} is not a JSON number", value=value)
    if value is not None and not isinstance(value, (bool, int, float)):
        raise refusal("#", "a {kind} is not JSON", kind=type(value).__name__)
    if isinstance(value, int) and value.bit_length() > 2000:
        raise refusal("#", "it has a number of more than 600 digits")
    return 4
