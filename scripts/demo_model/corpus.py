"""The Python standard library as text: what is trained on and what is held out.

The sources are those of the interpreter that runs the script (PSF licence), read from disk; none of
them is kept in this repository.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

HELD_OUT = (
    *("bisect", "calendar", "cmd", "configparser", "csv", "filecmp", "fileinput", "fractions"),
    *("graphlib", "heapq", "pprint", "queue", "sched", "shlex", "string", "textwrap"),
)
"""Top-level modules that are never trained on, nor are their tests."""

# Tables and generated text, which teach nothing about code.
SKIPPED = ("encodings", "pydoc_data", "config-", "__phello__", "lib2to3/tests/data")
TESTS = ("test/", "tests/", "idle_test/")


def standard_library() -> Path:
    """Folder of the standard library's sources."""
    return Path(sysconfig.get_paths()["stdlib"])


def held_out_files() -> list[Path]:
    """The files that quality is measured on."""
    return [standard_library() / f"{name}.py" for name in HELD_OUT]


def training_files() -> tuple[list[Path], list[Path]]:
    """Library files and test files to train on, each in a fixed order."""
    library: list[Path] = []
    tests: list[Path] = []
    root = standard_library()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if "site-packages" in name or name.startswith(SKIPPED) or _held_out(path):
            continue
        (tests if any(part in name for part in TESTS) else library).append(path)
    return library, tests


def read(path: Path) -> str:
    """Text of a source file; bytes that are not UTF-8 are replaced."""
    return path.read_text(encoding="utf-8", errors="replace")


def _held_out(path: Path) -> bool:
    return path.stem.removeprefix("test_") in HELD_OUT
