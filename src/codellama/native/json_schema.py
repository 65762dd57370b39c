"""JSON schemas as grammars, by llama-cpp-python's converter.

The converter trusts a schema and raises whatever it trips over. Here that becomes one sentence about the
schema: the converter's own where it has one, else the first part of the schema that has the wrong type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from codellama.errors import GrammarError

_KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("$ref", "pattern", "format"), (str, "text")),
    **dict.fromkeys(("properties", "$defs", "definitions"), (dict, "an object")),
    **dict.fromkeys(
        ("allOf", "anyOf", "oneOf", "enum", "prefixItems", "required"), (list, "a list")
    ),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), (int, "a whole number")),
}
"""What the converter expects behind a word, in Python and in English."""


def schema_to_gbnf(schema: object) -> str:
    """A JSON schema (text or object) as a GBNF grammar. Raises GrammarError naming `json_schema`."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        text = _text(schema)
        return str(json_schema_to_gbnf(text))
    except RecursionError as error:
        raise GrammarError("the JSON schema is nested too deeply", "json_schema") from error
    except GrammarError:
        raise
    except (AssertionError, ValueError) as error:  # raised on purpose, so mostly in words
        raise _unusable(str(error) or _fault(text)) from error
    except Exception as error:  # the converter raises whatever it trips over
        raise _unusable(_fault(text)) from error


def _text(schema: object) -> str:
    """The schema as JSON that can be read."""
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        json.loads(text)
    except (TypeError, ValueError) as error:
        raise _unusable(str(error)) from error
    return text


def _unusable(reason: str) -> GrammarError:
    return GrammarError("the JSON schema cannot be used: {reason}", "json_schema", reason=reason)


def _fault(text: str) -> str:
    """What is wrong with the schema in `text`, as far as types tell."""
    unknown = "llama.cpp's converter does not understand it"
    return next(_faults(json.loads(text), "the schema"), unknown)


def _faults(schema: object, place: str) -> Iterator[str]:
    if not isinstance(schema, dict):
        yield f"{place} must be an object"
        return
    for word, (kind, name) in _KINDS.items():
        if word in schema and not isinstance(schema[word], kind):
            yield f"{word} in {place} must be {name}"
            return
    for word in ("properties", "$defs", "definitions"):
        for key, part in schema.get(word, {}).items():
            yield from _faults(part, f"{word}.{key}")
    for word in ("allOf", "anyOf", "oneOf", "prefixItems"):
        for i, part in enumerate(schema.get(word, [])):
            yield from _faults(part, f"{word}[{i}]")
    items = schema.get("items", [])
    for part in items if isinstance(items, list) else [items]:
        yield from _faults(part, "items")
