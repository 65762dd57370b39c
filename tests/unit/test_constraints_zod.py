"""Schemas that zod 4.6 (`z.toJSONSchema`) and zod-to-json-schema 3.25 made of the same types."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from codellama.constraints import Constraints
from codellama.errors import GrammarError
from tests.walks import drawn, slice_vocabulary

SCHEMAS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "zod_schemas.json").read_text("utf-8")
)
VOCABULARY = slice_vocabulary()
CONSTRAINTS = Constraints(VOCABULARY)


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_under_a_schema_of_zod_are_valid(name: str) -> None:
    schema = SCHEMAS[name]
    grammar = CONSTRAINTS.compile_schema(schema)
    old = "draft-07" in schema["$schema"]
    judge = (jsonschema.Draft7Validator if old else jsonschema.Draft202012Validator)(schema)
    texts = [drawn(grammar, VOCABULARY, random.Random(seed)) for seed in range(6)]
    finished = [text for text in texts if text is not None]
    assert finished or "starts" in name, "a text that is searched for a letter may run on"
    for text in finished:
        assert judge.is_valid(json.loads(text)), text


def test_a_name_of_zods_needs_its_pattern() -> None:
    with pytest.raises(GrammarError, match="the format 'cuid' cannot be enforced"):
        CONSTRAINTS.compile_schema({"type": "string", "format": "cuid"})
