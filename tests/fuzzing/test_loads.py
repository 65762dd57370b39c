"""Mutated files that pass our checks reach llama.cpp, in a process that must not die of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzing.harness import fuzz
from tests.fuzzing.native_kinds import NATIVE

CASES = {"model": 300, "lora": 100, "recipe": 100}


@pytest.mark.parametrize("kind", NATIVE)
def test_what_passes_our_checks_does_not_crash_llama_cpp(kind: str, tmp_path: Path) -> None:
    fuzz("tests.fuzzing.child", kind, CASES[kind], tmp_path)
