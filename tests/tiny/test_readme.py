"""README.md and PYTHON_API.md work when they are pasted: all blocks, in order, in one bare shell.

The shell has an empty environment but for HOME and the system's PATH. The folder holds what a checkout holds
after `scripts/setup`, and nothing else: what a block needs, a block before it has made.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- not run in the test: (.*?) -->\n)?```(sh|python)\n(.*?)```", re.DOTALL)
PAGES = ("README.md", "src/codellama/PYTHON_API.md")
BLOCKS = [
    match.groups()[1:]
    for page in PAGES
    for match in BLOCK.finditer((ROOT / page).read_text("utf-8"))
]
RUN = [i for i, (reason, _, _) in enumerate(BLOCKS) if not reason]
CHECKOUT = ("models", "pyproject.toml", "scripts", "src")
LONGEST_S = 300


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each block printed, `N.out` and `N.err`, and `N.done` if it succeeded."""
    if sys.prefix == sys.base_prefix:
        pytest.skip("the tests do not run in an environment made by scripts/setup")
    top = tmp_path_factory.mktemp("readme")
    checkout, results = top / "checkout", top / "results"
    checkout.mkdir()
    results.mkdir()
    for name in CHECKOUT:
        (checkout / name).symlink_to(ROOT / name)
    (checkout / ".venv").symlink_to(sys.prefix)
    script = ["set -e", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"]
    for i in RUN:
        _, language, code = BLOCKS[i]
        if language == "python":
            (results / f"{i}.py").write_text(code, "utf-8")
            code = f"python {shlex.quote(str(results / f'{i}.py'))}\n"
        place = shlex.quote(str(results / str(i)))
        script.append(f"{{\n{code}}} > {place}.out 2> {place}.err\ntouch {place}.done")
    subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", "\n".join(script)],
        cwd=checkout,
        env={"HOME": str(top), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        timeout=LONGEST_S,
        check=False,
    )
    return results


@pytest.mark.parametrize("i", RUN, ids=[f"{i}-{BLOCKS[i][1]}" for i in RUN])
def test_block(results: Path, i: int) -> None:
    errors = results / f"{i}.err"
    assert errors.exists(), "a block before this one failed"
    assert (results / f"{i}.done").exists(), errors.read_text("utf-8")
    assert (results / f"{i}.out").read_text("utf-8").strip(), "a block shows something"


def test_there_are_blocks_to_run() -> None:
    assert len(RUN) >= 10
