"""Five hundred mutated requests to a server process: answered or refused, and nothing is left open.

The slow tier sends 10,000.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lora_file import write_adapter

ROOT = Path(__file__).parents[2]
LINUX = sys.platform == "linux"


def fuzz_http(seed: int, count: int, folder: Path, model: Path, timeout: float) -> dict[str, Any]:
    """Run the child process; fails if a case failed, or if the server holds more than it did."""
    adapter = write_adapter(folder / "a.gguf", 1)
    arguments = [str(seed), str(count), str(folder), str(model), str(adapter)]
    child = subprocess.run(
        [sys.executable, "-m", "tests.fuzzing.http_requests", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    result: dict[str, Any] = json.loads(child.stdout)
    assert result["failures"] == [], json.dumps(result["failures"], indent=1)[:6000]
    assert result["cases"] == count
    answered = sum(n for name, n in result["counts"].items() if name.endswith(" 200"))
    assert count // 10 < answered < count
    before, after = result["before"], result["after"]
    assert after["files"] <= before["files"] + 2
    assert after["threads"] <= before["threads"] + 2
    return result


@pytest.mark.skipif(not LINUX, reason="what a process has open is read from /proc")
def test_mutated_requests_are_answered_or_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    fuzz_http(1, 500, tmp_path, tiny_gguf, timeout=600)
