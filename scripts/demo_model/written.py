"""Reads the questions, answers and edits written for the demo model (scripts/demo_data/*.md).

An entry begins with `## name`, then come its wordings as list items, then the answer. A comment
`<!-- check ... -->` at its end holds statements that must hold after the answer's code has run;
they may look at `output`, what the code printed. In edits.md the answer is two code blocks: the
function before and after the edit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "demo_data"

_ENTRY = re.compile(
    r"^## (\w+)\n((?:- [^\n]+\n)+)\n(.*?)(?=^## \w+\n- |\Z)", re.MULTILINE | re.DOTALL
)
_CHECK = re.compile(r"<!-- check\n(.*?)\n-->", re.DOTALL)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Question:
    """A question in several wordings, its answer, and statements that check the answer's code."""

    name: str
    topic: str
    wordings: tuple[str, ...]
    answer: str
    check: str

    @property
    def language(self) -> str:
        """Language of the answer's first code block; empty where it has none."""
        block = _BLOCK.search(self.answer)
        return block[1] if block else ""

    @property
    def code(self) -> str:
        """The answer's first code block; empty where it has none."""
        block = _BLOCK.search(self.answer)
        return block[2] if block else ""


@dataclass(frozen=True)
class Edit:
    """An instruction, a function, and the function after the edit."""

    name: str
    wordings: tuple[str, ...]
    before: str
    after: str
    check: str


def questions() -> list[Question]:
    """All questions, in a fixed order."""
    return [
        Question(name, path.stem, wordings, answer, check)
        for path in sorted(FOLDER.glob("*.md"))
        if path.stem != "edits"
        for name, wordings, answer, check in _entries(path)
    ]


def edits() -> list[Edit]:
    """All written edits, in a fixed order."""
    result = []
    for name, wordings, answer, check in _entries(FOLDER / "edits.md"):
        before, after = (code for _, code in _BLOCK.findall(answer))
        result.append(Edit(name, wordings, before, after, check))
    return result


def _entries(path: Path) -> list[tuple[str, tuple[str, ...], str, str]]:
    result = []
    for name, items, rest in _ENTRY.findall(path.read_text(encoding="utf-8")):
        wordings = tuple(line.removeprefix("- ") for line in items.splitlines())
        check = _CHECK.search(rest)
        answer = _CHECK.sub("", rest).strip()
        result.append((name, wordings, answer, check[1] if check else ""))
    return result
