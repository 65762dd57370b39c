"""Thousands of mutated files of every kind that comes from others: an error of ours, or it is read.

Never another exception, a crash, seconds for one file, or 200 MB. The slow tier tries 100,000 of each.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzing.brought_kinds import BROUGHT
from tests.fuzzing.harness import fuzz
from tests.fuzzing.kinds import KINDS
from tests.fuzzing.weight_kinds import WEIGHT_KINDS

CASES = {"safetensors": 4000, "gguf": 2000, "index": 2000, "tokenizer.model": 2000}
CASES |= {"config.json": 2000, "small": 1000, "lost scores": 150}


@pytest.mark.parametrize("kind", [*KINDS, *BROUGHT, *WEIGHT_KINDS])
def test_mutated_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    fuzz("tests.fuzzing.child", kind, CASES.get(kind, 1500), tmp_path)
