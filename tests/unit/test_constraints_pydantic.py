"""Instances of pydantic's models: what model and schema take is accepted, what the schema refuses is not.

Models of every kind, each with the schema that it writes for input, for output and for openai's strict
form; values written by hand and some of those near them. The slow tier tries all of these.
"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from codellama.constraints import Constraints
from tests.pydantic_values import SCHEMAS, VALUES, judged
from tests.walks import accepts, accepts_value, slice_vocabulary, writings

VOCABULARY = slice_vocabulary()
CONSTRAINTS = Constraints(VOCABULARY)
NEAR = 12
"""Values near each that was written by hand."""


def check_instances(model: type[BaseModel], schema: Any, most: int) -> tuple[int, int]:
    """How many instances were accepted, and how many refused, all of them rightly."""
    grammar = CONSTRAINTS.compile_schema(schema)
    accepted = refused = 0
    for value, right in judged(model, schema, most):
        if right:
            assert accepts_value(grammar, VOCABULARY, value, schema), value
        else:
            for text in list(writings(value, schema))[:6]:
                assert not accepts(grammar, VOCABULARY, text), text
        accepted += right
        refused += not right
    return accepted, refused


@pytest.mark.parametrize(
    ("model", "schema"), SCHEMAS.values(), ids=lambda v: getattr(v, "__name__", "")
)
def test_what_the_model_takes_is_accepted(model: type[BaseModel], schema: Any) -> None:
    accepted, refused = check_instances(model, schema, NEAR)
    assert accepted >= len(VALUES[model]) // 2 and refused
