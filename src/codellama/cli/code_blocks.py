"""The code blocks of an answer."""

from __future__ import annotations

from dataclasses import dataclass

from markdown_it import MarkdownIt


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block: its language as the answer calls it, perhaps empty, and its lines."""

    language: str
    text: str


def code_blocks(markdown: str) -> list[CodeBlock]:
    """The fenced blocks in order; one that the answer's end cut off is among them."""
    tokens = MarkdownIt().parse(markdown)
    return [
        CodeBlock(token.info.strip().split(" ")[0], token.content)
        for token in tokens
        if token.type == "fence"
    ]
