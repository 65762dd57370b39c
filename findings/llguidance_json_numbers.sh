#!/bin/sh
# llguidance's schema compiler reads numbers as doubles, and a bound takes exponents away.
#
# JSON Schema compares numbers by value, at any size. llguidance turns a const or enum beyond 2**53 into the
# nearest double and then wants that one's digits: the very number in the schema cannot be written, its
# neighbour can. A number may have an exponent, until it gets a minimum; then 1e1 is refused and 10 is not.
# A const is written in one spelling only: 1.0 in the schema wants 1.
#
# Of our own: constraints/numbers.py spells numbers out of fractions, exactly. It hands llguidance's compiler
# nothing but multiples whose bounds are the same as doubles.
#
# Seen with llguidance 1.9.1:
#   {"const": 9007199254740993}                  9007199254740993   refused
#   {"const": 9007199254740993}                  9007199254740992   taken
#   {"enum": [12345678901234567890]}             12345678901234567890   refused
#   {"enum": [12345678901234567890]}             12345678901234567000   taken
#   {"type": "number"}                           1e1   taken
#   {"type": "number", "minimum": 0}             1e1   refused
#   {"type": "number", "minimum": 0}             10   taken
#   {"const": 1.0}                               1.0   refused
#   {"const": 1.0}                               1   taken
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check llguidance==1.9.1 >&2 || exit 2

venv/bin/python - <<'PY'
import json

from llguidance import LLMatcher, LLTokenizer

tokenizer = LLTokenizer("byte")


def takes(schema, text):
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_str(text)
    if matcher.validate_tokens(tokens) < len(tokens):
        return False
    matcher.consume_tokens(tokens)
    return matcher.is_accepting()


bounded = {"type": "number", "minimum": 0}
wanted = True
for schema, text, taken in (
    ({"const": 9007199254740993}, "9007199254740993", False),
    ({"const": 9007199254740993}, "9007199254740992", True),
    ({"enum": [12345678901234567890]}, "12345678901234567890", False),
    ({"enum": [12345678901234567890]}, "12345678901234567000", True),
    ({"type": "number"}, "1e1", True),
    (bounded, "1e1", False),
    (bounded, "10", True),
    ({"const": 1.0}, "1.0", False),
    ({"const": 1.0}, "1", True),
):
    seen = takes(schema, text)
    print(f"{json.dumps(schema):44} {text}   {'taken' if seen else 'refused'}")
    wanted &= seen is taken
assert wanted
PY
