"""The README's commands do what they say: every block is run, in order, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- not run here: (.*?) -->\n)?```(sh|python)\n(.*?)```", re.DOTALL)
BLOCKS = [match.groups()[1:] for match in BLOCK.finditer((ROOT / "README.md").read_text("utf-8"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo model as demo.gguf, where the Python blocks run."""
    from codellama.weights.convert import convert

    path = tmp_path_factory.mktemp("readme")
    convert(ROOT / "models" / "demo", path / "demo.gguf", "Q4_K_M", threads=2)
    return path


@pytest.mark.parametrize(
    ("reason", "language", "code"), BLOCKS, ids=[f"{i}-{b[1]}" for i, b in enumerate(BLOCKS)]
)
def test_block(folder: Path, reason: str | None, language: str, code: str) -> None:
    if reason:
        pytest.skip(reason)
    script = folder / ("block.py" if language == "python" else "block.sh")
    stop_what_runs = "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n"
    script.write_text(code if language == "python" else f"set -eu\n{stop_what_runs}{code}", "utf-8")
    program = [sys.executable] if language == "python" else ["bash"]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CODELLAMA_THREADS": "1",
    }
    done = subprocess.run(
        [*program, str(script)],
        cwd=folder if language == "python" else ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "a block shows something"


def test_there_are_blocks_to_run() -> None:
    assert sum(1 for reason, _, _ in BLOCKS if not reason) >= 5
