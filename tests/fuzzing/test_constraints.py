"""A thousand mutated schemas, expressions and grammars: compiled or refused, soon and in little memory.

The slow tier tries 100,000.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def fuzz_constraints(seed: int, count: int, timeout: float) -> None:
    """Run the child process; fails if it dies, or if a case took a second or 100 MB."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.fuzzing.constraints", str(seed), str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert child.returncode == 0, (seed, child.returncode, child.stderr[-3000:])
    result = json.loads(child.stdout)
    assert result["accepted"] > count // 20
    assert result["slowest"] < 1, result
    assert result["memory"] < 100 * 2**20, result


def test_mutated_constraints_are_compiled_or_refused() -> None:
    fuzz_constraints(seed=1, count=1000, timeout=120)
