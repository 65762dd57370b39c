"""As tests/unit/test_constraints_pydantic.py, with all values near those that were written by hand."""

from __future__ import annotations

import sys

import pytest

from tests.pydantic_values import SCHEMAS
from tests.unit.test_constraints_pydantic import check_instances


@pytest.mark.slow
def test_instances_in_large_numbers() -> None:
    counts = [check_instances(*entry, most=10_000) for entry in SCHEMAS.values()]
    accepted, refused = map(sum, zip(*counts, strict=True))
    sys.stdout.write(f"{len(SCHEMAS)} schemas, {accepted} instances accepted, {refused} refused\n")
    assert len(SCHEMAS) >= 73
    assert accepted >= 574 and refused >= 574
