"""The JSON-Schema-Test-Suite, where CODELLAMA_JSON_SCHEMA_TEST_SUITE names its folder; nothing of it is here.

Of its valid instances most are accepted, and none that the schema forbids. Run with -s for the counts.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from codellama.constraints import Constraints
from codellama.errors import GrammarError
from tests.walks import accepts_value, slice_vocabulary

SUITE = os.environ.get("CODELLAMA_JSON_SCHEMA_TEST_SUITE")
ONLY_UNDECLARED = "$ref prevents a sibling $id from changing the base uri"
"""Of draft 7, but it does not say so: without `$schema`, an `$id` beside `$ref` counts, as in 2020-12."""


@pytest.mark.slow
@pytest.mark.skipif(SUITE is None, reason="set CODELLAMA_JSON_SCHEMA_TEST_SUITE to its folder")
@pytest.mark.parametrize(("draft", "least"), [("draft2020-12", 670), ("draft7", 510)])
def test_the_suite(draft: str, least: int) -> None:
    vocabulary = slice_vocabulary()
    constraints = Constraints(vocabulary)
    counts: Counter[str] = Counter()
    for path in sorted((Path(SUITE or "") / "tests" / draft).glob("*.json")):
        for group in json.loads(path.read_text("utf-8")):
            tests = group["tests"]
            counts["valid"] += sum(test["valid"] for test in tests)
            try:
                grammar = constraints.compile_schema(group["schema"])
            except GrammarError:
                counts["refused"] += 1
                continue
            for test in tests:
                found = accepts_value(grammar, vocabulary, test["data"], group["schema"])
                counts["accepted"] += found and test["valid"]
                if found and not test["valid"] and group["description"] != ONLY_UNDECLARED:
                    counts["let through"] += 1
    sys.stdout.write(f"{draft}: {dict(counts)}\n")
    assert counts["let through"] == 0
    assert counts["accepted"] >= least
