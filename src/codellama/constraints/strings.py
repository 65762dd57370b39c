"""Spells constraints on strings and keys as terminals: JSON strings with their quotes."""

from __future__ import annotations

from collections.abc import Iterable

from codellama.constraints.containers import Keys
from codellama.constraints.regex_text import CONTENT, FREE, expression, spelled_text
from codellama.constraints.scalars import StringSlot


def spelled_string(slot: StringSlot, exact: bool) -> str:
    """A terminal's expression for the strings of a slot.

    With `exact` each character has only the spellings of `regex_text`, so that the expression may be negated;
    without it a string that only its length limits may use any escapes.
    """
    if slot.values is not None:
        return f"/{spelled_values(slot.values)}/"
    limited = bool(slot.all_of or slot.none_of or slot.not_values)
    char = CONTENT if exact or limited else FREE
    has_length = slot.least > 0 or slot.most is not None
    parts = [expression(pattern.whole, quoted=True) for pattern in slot.all_of]
    if has_length or not parts:
        most = "" if slot.most is None else slot.most
        parts.insert(0, f'/"{char}{{{slot.least},{most}}}"/' if has_length else f'/"{char}*"/')
    parts += [f"~{expression(pattern.whole, quoted=True)}" for pattern in slot.none_of]
    if slot.not_values:
        parts.append(f"~/{spelled_values(slot.not_values)}/")
    return " & ".join(parts)


def spelled_values(values: Iterable[str]) -> str:
    """A regular expression for fixed strings."""
    options = [spelled_text(text) for text in sorted(values)]
    return f'"(?:{"|".join(options)})"' if len(options) > 1 else f'"{options[0]}"'


def spelled_keys(keys: Keys) -> str:
    """An expression for a set of keys, which may be negated."""
    options = [f"({spelled_string(slot, exact=True)})" for slot in keys.slots]
    if not keys.others:
        return options[0] if len(options) == 1 else f"({' | '.join(options)})"
    every = f'/"{CONTENT}*"/'
    return f"({every} & ~({' | '.join(options)}))" if options else every
