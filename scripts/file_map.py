"""Writes what the documents say about the rooms: ARCHITECTURE.md's table, and FILES.md, the map of all files.

Both follow the list in `rooms.py`; the sentences are the first ones of the modules' docstrings.

scripts/file_map.py            rewrite both
scripts/file_map.py --check    fail if one is out of date (run by scripts/check)
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from rooms import ROOMS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "codellama"
ARCHITECTURE = PACKAGE / "ARCHITECTURE.md"
FILES = PACKAGE / "FILES.md"
BEGIN, END = "<!-- rooms: made by scripts/file_map.py -->\n", "<!-- end of rooms -->\n"
HEAD = """# The files

Made by `scripts/file_map.py`: the first sentence of every module, rooms in the order in which they import.
"""


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, on one line and without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"\.(?= [A-Z`])", paragraph)[0].rstrip(".")


def is_room(name: str) -> bool:
    """Whether this is a room that people read about, and not a module that Python wants."""
    return not name.startswith("__")


def room_table() -> str:
    """ARCHITECTURE.md's table: every room and its sentence."""
    rows = ["| room | in one sentence |\n", "|---|---|\n"]
    for name in filter(is_room, ROOMS):
        folder = PACKAGE / name
        path = folder / "__init__.py" if folder.is_dir() else PACKAGE / f"{name}.py"
        label = f"{name}/" if folder.is_dir() else name
        rows.append(f"| `{label}` | {first_sentence(path)} |\n")
    return "".join(rows)


def file_map() -> str:
    """The text of FILES.md."""
    parts = [HEAD]
    for name in ROOMS:
        folder = PACKAGE / name
        if folder.is_dir():
            entries = "".join(
                f"- `{p.name}`: {first_sentence(p)}\n" for p in sorted(folder.glob("*.py"))
            )
            parts.append(f"\n## {name}/\n\n{entries}")
        elif is_room(name):
            parts.append(
                f"\n## {name}\n\n- `{name}.py`: {first_sentence(PACKAGE / f'{name}.py')}\n"
            )
    scripts = "".join(
        f"- `{p.name}`: {first_sentence(p)}\n" for p in sorted((ROOT / "scripts").glob("*.py"))
    )
    return "".join(parts) + f"\n## scripts/\n\n{scripts}"


def documents() -> dict[Path, str]:
    """Every document and what it ought to be."""
    head, rest = ARCHITECTURE.read_text("utf-8").split(BEGIN)
    _, tail = rest.split(END)
    return {ARCHITECTURE: head + BEGIN + room_table() + END + tail, FILES: file_map()}


def main() -> int:
    """Rewrite or check; the exit code."""
    stale = [
        path
        for path, text in documents().items()
        if not path.exists() or path.read_text("utf-8") != text
    ]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is out of date: run scripts/file_map.py", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        path.write_text(documents()[path], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
