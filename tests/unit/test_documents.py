"""The documents that people read: short sentences, links that lead somewhere, pages that stay short."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "src/codellama/ARCHITECTURE.md",
    ROOT / "src/codellama/PYTHON_API.md",
    ROOT / "src/codellama/server/README.md",
    ROOT / "src/codellama/server/SERVICE.md",
    ROOT / "src/codellama/server/page/README.md",
    ROOT / "src/codellama/quality/README.md",
    ROOT / "scripts/bench/README.md",
    ROOT / ".github/CONTRIBUTING.md",
]
ROOMS = sorted(p for p in (ROOT / "src/codellama").glob("*/__init__.py"))
MOST_WORDS = 30
MOST_LINES = {"README.md": 180, "src/codellama/ARCHITECTURE.md": 115}


def sentences(text: str) -> list[str]:
    """The sentences of a page's prose: no code, tables, headings or comments."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", text, flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "#"))]
    blocks = re.split(r"\n\s*\n|\n\s*(?=(?:[-*]|\d+\.) )", "\n".join(lines))
    return [
        sentence
        for block in blocks
        for sentence in re.split(r"(?<=[.?!])\s+", " ".join(block.split()))
        if sentence
    ]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def too_long(text: str) -> list[str]:
    return [sentence for sentence in sentences(text) if len(sentence.split()) > MOST_WORDS]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_sentence_is_too_long(page: Path) -> None:
    assert too_long(page.read_text("utf-8")) == []


@pytest.mark.parametrize("page", ROOMS, ids=name)
def test_no_sentence_of_a_rooms_docstring_is_too_long(page: Path) -> None:
    assert too_long(ast.get_docstring(ast.parse(page.read_text("utf-8"))) or "") == []


def test_sentences_are_found_in_prose_only() -> None:
    prose = "One two. Three\nfour.\n\n| a | b |\n\n- Item one.\n- Item two."
    text = f"# Head\n\n{prose}\n\n```sh\ncode. here\n```\n"
    assert sentences(text) == ["One two.", "Three four.", "- Item one.", "- Item two."]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", MOST_LINES)
def test_pages_stay_short(page: str) -> None:
    assert len((ROOT / page).read_text("utf-8").splitlines()) <= MOST_LINES[page]
