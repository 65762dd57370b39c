#!/bin/sh
# pydantic's JSON schemas of Decimal, dict[int, ...] and NaiveDatetime say less than the types take.
#
# A schema that forces a model's answers is no better than what it says. Of these three types it lets through
# what the type then refuses. Decimal is a number or any string. The keys of dict[int, ...] are any strings.
# NaiveDatetime has format date-time, which RFC 3339 defines with an offset, and refuses every time that has
# one: no string that follows the schema is taken, and the one that is taken does not follow it.
#
# Of our own: PYTHON_API.md names the three and what to write instead (a schema of one's own, format "decimal").
#
# Seen with pydantic 2.14.4 and jsonschema 4.25.1 (rfc3339-validator 0.1.4):
#   Decimal              "ten"                    schema: yes   pydantic: decimal_parsing
#   dict[int, int]       {"ten": 1}               schema: yes   pydantic: int_parsing
#   NaiveDatetime        "2026-01-02T03:04:05Z"   schema: yes   pydantic: timezone_naive
#   NaiveDatetime        "2026-01-02T03:04:05"    schema: no    pydantic: taken
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check \
    pydantic==2.14.4 jsonschema==4.25.1 rfc3339-validator==0.1.4 >&2 || exit 2

venv/bin/python - <<'PY'
import json
from decimal import Decimal

from jsonschema import Draft202012Validator
from pydantic import NaiveDatetime, TypeAdapter, ValidationError

rows = (
    ("Decimal", Decimal, "ten", True, "decimal_parsing"),
    ("dict[int, int]", dict[int, int], {"ten": 1}, True, "int_parsing"),
    ("NaiveDatetime", NaiveDatetime, "2026-01-02T03:04:05Z", True, "timezone_naive"),
    ("NaiveDatetime", NaiveDatetime, "2026-01-02T03:04:05", False, "taken"),
)
as_wanted = True
for name, kind, value, follows, verdict in rows:
    adapter = TypeAdapter(kind)
    checker = Draft202012Validator(adapter.json_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)
    valid = checker.is_valid(value)
    try:
        adapter.validate_json(json.dumps(value))
        said = "taken"
    except ValidationError as error:
        said = error.errors()[0]["type"]
    print(f"{name:20} {json.dumps(value):24} schema: {'yes' if valid else 'no':5} pydantic: {said}")
    as_wanted &= (valid, said) == (follows, verdict)
assert as_wanted
PY
