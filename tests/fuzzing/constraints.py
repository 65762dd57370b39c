"""The process that compiles mutated constraints: `python -m tests.fuzzing.constraints SEED COUNT`.

Schemas, regular expressions, Lark and GBNF texts are cut, joined and filled with odd values. Each is compiled
and walked for a few tokens, or refused with an error of ours. The slowest case in processor seconds and the
growth of memory in bytes go to stdout as JSON. Any other exception ends the process with its traceback.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from random import Random
from typing import Any

import numpy as np

from codellama.constraints import Constraints, Grammar, check_gbnf
from codellama.errors import CodeLlamaError, GrammarError
from tests.walks import Pieces, slice_vocabulary

SCHEMAS: list[Any] = [
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"$ref": "#"}},
        "required": ["a"],
    },
    {"type": "array", "items": {"enum": [1, "x", None]}, "uniqueItems": True, "maxItems": 3},
    {"items": {"type": ["string", "integer", "array"]}, "uniqueItems": True, "minItems": 2},
    {"additionalProperties": {"type": "integer"}, "minProperties": 3},
    {"oneOf": [{"type": "string", "pattern": "^a+b$"}, {"minimum": 2.5, "multipleOf": 0.5}]},
    {
        "patternProperties": {"^x": {"type": "null"}},
        "additionalProperties": False,
        "minProperties": 1,
    },
    {
        "$defs": {"n": {"anyOf": [{"items": {"$ref": "#/$defs/n"}}, {"const": 1}]}},
        "$ref": "#/$defs/n",
    },
    {
        "prefixItems": [{"type": "string", "format": "date"}],
        "contains": {"const": 5},
        "minItems": 2,
    },
    {
        "if": {"required": ["k"]},
        "then": {"dependentRequired": {"k": ["l"]}},
        "else": {"maxProperties": 2},
    },
    {"allOf": [{"not": {"enum": ["a", 1, [2]]}}, {"propertyNames": {"maxLength": 3}}]},
    {
        "unevaluatedProperties": False,
        "properties": {"p": True},
        "anyOf": [{"properties": {"q": {}}}, {}],
    },
]
VALUES: list[Any] = [
    *(0, 1, 2, -1, 3, 100, 1000, 99999, 1e6, 0.1, 1e-9, 1e300, 10**30, True, False, None, "", "a"),
    *("#", "#/$defs/n", "^a*$", "(a|b){1,1000}", "^(a{100}){100}$", "[a-z]{5000}", ".*a.{200}"),
    *("(a*)*b", "string", "object", "date-time", [], {}, ["a", "b"], {"pattern": ".*a.{12}"}),
]
TEXTS = {
    "regex": ["(yes|no)+", r"^\d{3}-[a-f]*$", "(?=.*a)[^b]{2,30}", r"(a|b?){3}\u00e9."],
    "lark": ['start: a b\na: "x"+\nb: /[0-9]{2}/ | "(" start ")"', "start: X*\nX: /a/ & ~/b/"],
    "gbnf": ['root ::= "a" ([0-9]{2,3} | b)*\nb ::= "(" root ")"?', 'root ::= [^"\\\\]+ "\\"" # x'],
}


def main() -> None:
    """Run the cases that the command line names."""
    seed, count = map(int, sys.argv[1:])
    rng = Random(seed)
    vocabulary = slice_vocabulary()
    constraints = Constraints(vocabulary)
    walk(constraints.compile_schema(SCHEMAS[0]), vocabulary, rng)
    before, slowest, worst, accepted = _peak(), 0.0, "", 0
    for _ in range(count):
        kind = rng.choice(["schema", "schema", *TEXTS])
        case = some_schema(rng) if kind == "schema" else some_text(TEXTS[kind], rng)
        signal.setitimer(signal.ITIMER_PROF, 20)
        start = time.process_time()
        accepted += attempt(constraints, kind, case, vocabulary, rng)
        seconds = time.process_time() - start
        if seconds > slowest:
            slowest, worst = seconds, f"{kind}: {case}"[:2000]
    result = {"accepted": accepted, "slowest": slowest, "worst": worst, "memory": _peak() - before}
    sys.stdout.write(json.dumps(result) + "\n")


def attempt(
    constraints: Constraints, kind: str, case: Any, vocabulary: Pieces, rng: Random
) -> bool:
    """Compile one case and walk into it; False if it was refused."""
    try:
        if kind == "schema":
            grammar = constraints.compile_schema(case)
        elif kind == "regex":
            grammar = constraints.compile_regex(case)
        elif kind == "lark":
            grammar = constraints.compile_lark(case)
        else:
            check_gbnf(case)
            return True
    except GrammarError:
        return False
    try:
        walk(grammar, vocabulary, rng)
    except CodeLlamaError:
        return False
    return True


def walk(grammar: Grammar, vocabulary: Pieces, rng: Random) -> None:
    """A few tokens at random."""
    matcher = grammar.matcher()
    mask = np.zeros(vocabulary.n_vocab, np.bool_)
    for _ in range(12):
        matcher.allowed(mask)
        token = int(rng.choice(np.flatnonzero(mask)))
        if token in vocabulary.end_tokens:
            break
        matcher.accept(token)


def some_schema(rng: Random) -> Any:
    """A schema with one to three changes."""
    schema = rng.choice(SCHEMAS)
    for _ in range(rng.randint(1, 3)):
        schema = _mutated(schema, rng)
    return schema


def _mutated(value: Any, rng: Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        value = dict(value)
        key = rng.choice(list(value))
        other = rng.choice([key for schema in SCHEMAS for key in schema])
        change = rng.random()
        if change < 0.6:
            value[key] = _mutated(value[key], rng)
        elif change < 0.75:
            value[other] = rng.choice(VALUES)
        elif change < 0.9:
            value[other] = rng.choice(SCHEMAS)
        else:
            value[other] = value.pop(key)
        return value
    if isinstance(value, list) and value and rng.random() < 0.85:
        value = list(value)
        at = rng.randrange(len(value))
        value[at] = _mutated(value[at], rng)
        return value * rng.choice([1, 1, 1, 2, 20])
    return rng.choice([*VALUES, *SCHEMAS])


def some_text(texts: list[str], rng: Random) -> str:
    """A text with parts cut out, doubled, moved or filled in."""
    text = rng.choice(texts)
    for _ in range(rng.randint(1, 4)):
        a, b = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        piece = rng.choice(
            ["(", ")", "[", "]", "{", "}", "{2,1}", "{999}", "*", "|", "\\", '"', "/", "^", "é"]
        )
        change = rng.randrange(4)
        if change == 0:
            text = text[:a] + text[b:]
        elif change == 1:
            text = text[:b] + text[a:b] * rng.choice([1, 5]) + text[b:]
        elif change == 2:
            text = text[:a] + piece * rng.choice([1, 1, 3, 120]) + text[a:]
        else:
            text = text[:a] + rng.choice(texts) + text[b:]
        text = text[:20_000]
    return text


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
