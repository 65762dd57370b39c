"""A hundred thousand mutated schemas, expressions and grammars; see `tests.fuzzing.test_constraints`."""

from __future__ import annotations

import pytest

from tests.fuzzing.test_constraints import fuzz_constraints


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_mutated_constraints_in_large_numbers(seed: int) -> None:
    fuzz_constraints(seed, count=5000, timeout=1800)
