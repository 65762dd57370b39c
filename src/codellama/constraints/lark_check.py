"""Looks at a Lark grammar before llguidance parses it: its size, its nesting, its repetitions."""

from __future__ import annotations

import re

from codellama.constraints import limits
from codellama.errors import GrammarError

_COUNTS = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}|~\s*(\d+)(?:\s*\.\.\s*(\d+))?")


def check_lark(text: str) -> str:
    """The grammar itself, if it is within the bounds. Raises GrammarError otherwise."""
    if len(text.encode("utf-8", "surrogatepass")) > limits.LARK_BYTES:
        raise GrammarError("{param} is larger than {most} bytes", most=limits.LARK_BYTES)
    depth = deepest = 0
    for char in text:
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth = max(0, depth - 1)
    if deepest > limits.GBNF_DEPTH:
        raise GrammarError("{param} is nested deeper than {most}", most=limits.GBNF_DEPTH)
    for match in _COUNTS.finditer(text):
        for number in filter(None, match.groups()):
            if len(number) > 6 or int(number) > limits.LARK_REPEATS:
                raise GrammarError(
                    "{param} has a repetition of more than {most}", most=limits.LARK_REPEATS
                )
    if "multipleOf" in text:
        raise GrammarError(
            "{param} has a multipleOf", "grammar", "send the schema as {json_schema}"
        )
    return text
