#!/bin/sh
# llguidance's schema compiler takes one spelling of many, and any amount of blanks between.
#
# What follows a schema can be written in many ways. llguidance wants the keys in the schema's order, those that
# the schema does not name behind them, and in strings no escape that is not needed: "\u00e9" and "\/" are
# refused although JSON has them. Blanks are free instead: without whitespace_pattern there may be any number
# between two tokens, so a weak model can go on with spaces until its token limit and never break the schema.
#
# Of our own: constraints/objects.py keeps the schema's order too and says so; constraints/whitespace.py has
# the bound for blanks, one or a line break with its indentation.
#
# Seen with llguidance 1.9.1:
#   two keys, both required     {"a": 1, "b": 2}                    taken
#   two keys, both required     {"b": 2, "a": 1}                    refused
#   one key, others free        {"z": 1, "a": 2}                    refused
#   any string                  "\u00e9"                            refused
#   any string                  "\/"                                refused
#   any string                  "\u001f"                            taken
#   one key, others free        {"a": 1 + 5000 blanks               goes on
#   the same, pattern " ?"      {"a": 1 + 5000 blanks               refused
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


def verdict(schema, text):
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_str(text)
    if matcher.validate_tokens(tokens) < len(tokens):
        return "refused"
    matcher.consume_tokens(tokens)
    return "taken" if matcher.is_accepting() else "goes on"


number = {"type": "integer"}
both = {"type": "object", "properties": {"a": number, "b": number}, "required": ["a", "b"]}
one = {"type": "object", "properties": {"a": number}, "additionalProperties": number}
bounded = one | {"x-guidance": {"whitespace_pattern": " ?"}}
blanks = '{"a": 1' + " " * 5000
wanted = True
for name, schema, text, right in (
    ("two keys, both required", both, '{"a": 1, "b": 2}', "taken"),
    ("two keys, both required", both, '{"b": 2, "a": 1}', "refused"),
    ("one key, others free", one, '{"z": 1, "a": 2}', "refused"),
    ("any string", {"type": "string"}, r'"\u00e9"', "refused"),
    ("any string", {"type": "string"}, r'"\/"', "refused"),
    ("any string", {"type": "string"}, r'"\u001f"', "taken"),
    ("one key, others free", one, blanks, "goes on"),
    ('the same, pattern " ?"', bounded, blanks, "refused"),
):
    seen = verdict(schema, text)
    shown = text if text != blanks else text.rstrip() + " + 5000 blanks"
    print(f"{name:27} {shown:35} {seen}")
    wanted &= seen == right
assert wanted
PY
