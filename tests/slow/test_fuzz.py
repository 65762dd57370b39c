"""As tests/fuzzing/test_files.py and tests/fuzzing/test_loads.py, with many more files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzing.brought_kinds import BROUGHT
from tests.fuzzing.harness import fuzz
from tests.fuzzing.kinds import KINDS
from tests.fuzzing.native_kinds import NATIVE
from tests.fuzzing.weight_kinds import WEIGHT_KINDS

pytestmark = pytest.mark.slow

CASES = 100_000
FEWER = {"lost scores": 5000}
"""Of files with 32,000 tokens."""
LOADS = 5000


@pytest.mark.parametrize("kind", [*KINDS, *BROUGHT, *WEIGHT_KINDS])
def test_a_hundred_thousand_mutated_files(kind: str, tmp_path: Path) -> None:
    count = FEWER.get(kind, CASES)
    result = fuzz("tests.fuzzing.child", kind, count, tmp_path)
    assert result["cases"] >= count


@pytest.mark.parametrize("kind", NATIVE)
def test_thousands_of_mutated_files_that_reach_llama_cpp(kind: str, tmp_path: Path) -> None:
    fuzz("tests.fuzzing.child", kind, LOADS, tmp_path)


def test_the_largest_files_that_are_read_fit_the_memory(tmp_path: Path) -> None:
    fuzz("tests.fuzzing.child", "largest", 30, tmp_path)
