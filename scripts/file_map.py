"""Writes README.md's map of the files: the first sentence of every module, in reading order.

scripts/file_map.py            rewrite the map
scripts/file_map.py --check    fail if it is out of date (run by scripts/check)
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- map: made by scripts/file_map.py -->\n", "<!-- end of map -->\n"
ORDER = [
    *(
        "__init__",
        "errors",
        "params",
        "variants",
        "batch",
        "chat",
        "infill",
        "prompts",
        "llm",
        "completion",
    ),
    *(
        "session",
        "history",
        "kv_file",
        "loading",
        "replies",
        "compat",
        "engine",
        "native",
        "weights",
        "devices",
        "protocol",
    ),
    *("server", "integrations", "cli"),
]


def first_sentence(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def rank(path: Path) -> tuple[int, str]:
    """Reading order: values first, then prompts and the facade, then the rooms below and above."""
    room = path.relative_to(ROOT / "src" / "codellama").parts[0].removesuffix(".py")
    return (ORDER.index(room) if room in ORDER else len(ORDER), str(path))


def lines() -> list[str]:
    """The map's lines."""
    modules = sorted((ROOT / "src" / "codellama").rglob("*.py"), key=rank)
    scripts = sorted((ROOT / "scripts").glob("*.py"))
    found = [f"- `{path.relative_to(ROOT)}`: {first_sentence(path)}\n" for path in modules]
    return found + [f"- `{path.relative_to(ROOT)}`: {first_sentence(path)}\n" for path in scripts]


def main() -> int:
    """Rewrite or check; the exit code."""
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    wanted = head + BEGIN + "".join(lines()) + END + tail
    if "--check" in sys.argv[1:]:
        if wanted != text:
            print("README.md's map is out of date: run scripts/file_map.py", file=sys.stderr)
        return int(wanted != text)
    readme.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
