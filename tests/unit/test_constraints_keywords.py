"""One keyword at a time, judged by `jsonschema`: enforced, or refused by name; never wrong."""

from __future__ import annotations

import decimal
import json
import random
from decimal import Decimal
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from codellama.constraints import Constraints
from codellama.errors import GrammarError
from tests.schema_keywords import SCHEMAS
from tests.walks import drawn, slice_vocabulary

VOCABULARY = slice_vocabulary()
CONSTRAINTS = Constraints(VOCABULARY)
SEEDS = 8


def judge(schema: Any) -> Any:
    """A validator with exact numbers, which knows the formats of its draft."""
    has_old_items = isinstance(schema, dict) and isinstance(schema.get("items"), list)
    kind = jsonschema.Draft7Validator if has_old_items else jsonschema.Draft202012Validator
    exact = json.loads(json.dumps(schema), parse_float=Decimal)
    return kind(exact, format_checker=kind.FORMAT_CHECKER)


def test_every_keyword_is_enforced_or_refused_by_name() -> None:
    refused = clean = 0
    wrong: list[tuple[str, str]] = []
    with decimal.localcontext() as context:
        context.prec = 400
        for schema in SCHEMAS:
            try:
                grammar = CONSTRAINTS.compile_schema(schema)
            except GrammarError as error:
                assert "at #" in str(error)
                refused += 1
                continue
            validator = judge(schema)
            texts = [drawn(grammar, VOCABULARY, random.Random(s), 250) for s in range(SEEDS)]
            finished = [text for text in texts if text is not None]
            clean += bool(finished)
            for text in finished:
                if not validator.is_valid(json.loads(text, parse_float=Decimal)):
                    wrong.append((json.dumps(schema), text))
    assert not wrong
    assert refused <= 8
    assert clean >= 0.92 * len(SCHEMAS)
