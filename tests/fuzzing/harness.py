"""Starts the process that reads mutated files, and says how to repeat a case that failed."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SEED = 1
MOST_MEMORY = 200 * 2**20
_SECONDS_PER_CASE = 0.05


def fuzz(module: str, kind: str, count: int, folder: Path, first: int = 0) -> dict[str, Any]:
    """Run `count` cases of `kind` in a process of its own; returns what it counted.

    Fails if a case raises anything but the errors of its kind, takes too long, too much memory, or
    ends the process.
    """
    arguments = [kind, str(SEED), str(first), str(count), str(folder)]
    command = [sys.executable, "-W", "error", "-m", module, *arguments]
    repeat = f"python -W error -m {module} {kind} {SEED} CASE 1 EMPTY_FOLDER"
    with (folder / "log").open("w+b") as log:
        try:
            process = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=subprocess.PIPE,
                stderr=log,
                timeout=300 + count * _SECONDS_PER_CASE,
                check=False,
            )
            ended = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            ended = "went on for too long"
        log.seek(0)
        last = log.read()[-3000:].decode("utf-8", "replace")
    place = folder / "case"
    number = struct.unpack("<q", place.read_bytes())[0] if place.exists() else None
    assert ended == "ended with 0", (
        f"seed {SEED}, case {number}: the process {ended}; {repeat}\n{last}"
    )
    result: dict[str, Any] = json.loads(process.stdout)
    assert result["failed"] is None, (
        f"seed {SEED}, case {result['failed']}; {repeat}\n{result['reason']}"
    )
    assert result["cases"] == count
    assert 0 < result["accepted"] < count, "one side of what is tested is never reached"
    assert result["memory"] < MOST_MEMORY
    return result
