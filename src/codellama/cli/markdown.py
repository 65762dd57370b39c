"""Markdown on a terminal while it is being written.

`Splitter` (pure) cuts a stream of text into pieces that can no longer change: blocks of prose and
lines of code. `MarkdownStream` prints those for good, so that they scroll like any other output,
and redraws only the unfinished rest, which is cut to the height of the terminal.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.syntax import Syntax
from rich.text import Text

REDRAW_S = 0.05  # twenty times a second is smooth, and slow terminals keep up
CONTEXT_LINES = 300  # lines above that a line's colours may depend on, such as an open docstring
THEME = "ansi_dark"  # the terminal's own sixteen colours suit light and dark backgrounds

_PART_OF_FENCE = re.compile(r"^[ \t]*(`{1,3}|~{1,3})$")
_HEADING = re.compile(r"^#{1,6} ")
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*$")


@dataclass(frozen=True)
class Prose:
    """A finished block of Markdown without code."""

    text: str


@dataclass(frozen=True)
class CodeLine:
    """A line of a fenced code block; `number` counts from 0 in its block."""

    text: str
    language: str
    number: int


@dataclass(frozen=True)
class Fence:
    """An open code block: the mark that closes it, its language and its indentation."""

    mark: str
    language: str
    indent: str


@dataclass
class Splitter:
    """The unfinished end of a Markdown text: the lines of an open block, and a line without end."""

    lines: list[str] = field(default_factory=list)
    partial: str = ""
    fence: Fence | None = None

    def push(self, text: str) -> list[Prose | CodeLine]:
        """Add text; returns what is finished now, in order."""
        *lines, self.partial = (self.partial + text).split("\n")
        return [piece for line in lines for piece in self._line(line)]

    def finish(self) -> list[Prose | CodeLine]:
        """The rest, as if the text ended here."""
        pieces = self._line(self.partial) if self.partial else []
        self.partial = ""
        return pieces + self._close_block()

    def tail(self) -> Prose | CodeLine:
        """The unfinished rest, without what may become the mark of a fence."""
        partial = "" if _PART_OF_FENCE.match(self.partial) else self.partial
        if self.fence:
            return self._code(partial)
        return Prose("\n".join([*self.lines, partial]))

    def _line(self, line: str) -> list[Prose | CodeLine]:
        if self.fence:
            return self._line_of_code(line)
        opening = _FENCE.match(line)
        if opening:
            pieces = self._close_block()
            indent, mark, language = opening.groups()
            self.fence = Fence(mark, language, indent)
            return pieces
        if _HEADING.match(line):
            return [*self._close_block(), Prose(line)]
        after_blank = bool(self.lines) and not self.lines[-1].strip()
        pieces = self._close_block() if after_blank and line[:1].strip() else []
        self.lines.append(line)
        return pieces

    def _line_of_code(self, line: str) -> list[Prose | CodeLine]:
        assert self.fence is not None
        closing = line.strip()
        if closing.startswith(self.fence.mark) and not closing.strip(self.fence.mark[0]):
            self.fence, self.lines = None, []
            return []
        piece = self._code(line)
        self.lines.append(line)
        return [piece]

    def _code(self, line: str) -> CodeLine:
        assert self.fence is not None
        text = line.removeprefix(self.fence.indent)
        return CodeLine(text, self.fence.language, len(self.lines))

    def _close_block(self) -> list[Prose | CodeLine]:
        text = "\n".join(self.lines).strip("\n")
        self.lines = []
        return [Prose(text)] if text.strip() and not self.fence else []


class MarkdownStream:
    """Prints Markdown to `console` as it comes. Use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._splitter = Splitter()
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._code: list[str] = []
        self._empty = True
        self._drawn_at = 0.0

    def __enter__(self) -> MarkdownStream:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._draw(self._splitter.finish(), None)
        self._live.stop()

    def push(self, text: str) -> None:
        """Add text to the answer."""
        pieces = self._splitter.push(text)
        now = time.monotonic()
        if pieces or now - self._drawn_at >= REDRAW_S:
            self._draw(pieces, self._splitter.tail())
            self._drawn_at = now

    def _draw(self, pieces: Sequence[Prose | CodeLine], tail: Prose | CodeLine | None) -> None:
        with self._console:  # collects the output, so that the terminal gets it in one write
            if pieces:
                self._live.update("", refresh=True)
            for piece in pieces:
                self._print(piece)
            self._live.update(self._unfinished(tail) if tail else "", refresh=True)

    def _print(self, piece: Prose | CodeLine) -> None:
        if self._needs_gap(piece):
            self._console.print()
        self._empty = False
        if isinstance(piece, Prose):
            self._console.print(Block(render(piece.text)))
            return
        if piece.number == 0:
            self._code = []
        self._code.append(piece.text)
        # Long lines of code are left to the terminal to wrap, so that they can be copied whole.
        self._console.print(highlight(self._code, piece.language), soft_wrap=True)

    def _unfinished(self, tail: Prose | CodeLine) -> RenderableType:
        if not tail.text.strip():
            return ""
        if isinstance(tail, Prose):
            content: RenderableType = render(tail.text)
        else:
            above = self._code if tail.number else []
            content = highlight([*above, tail.text], tail.language)
        return Block(content, gap=self._needs_gap(tail), cut=True)

    def _needs_gap(self, piece: Prose | CodeLine) -> bool:
        """Whether an empty line belongs before this piece: between blocks, not within code."""
        return not self._empty and (isinstance(piece, Prose) or piece.number == 0)


@dataclass(frozen=True)
class Block:
    """A renderable without the empty lines around it; `gap` puts one before it.

    With `cut`, only the last lines that fit the terminal are shown.
    """

    content: RenderableType
    gap: bool = False
    cut: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.content, options.update(height=None), pad=False)
        filled = [i for i, line in enumerate(lines) if any(part.text.strip() for part in line)]
        lines = lines[filled[0] : filled[-1] + 1] if filled else []
        if self.gap:
            lines.insert(0, [])
        if self.cut:
            lines = lines[-max(1, options.size.height - 1) :]
        for index, line in enumerate(lines):
            if index:
                yield Segment.line()
            yield from line
        if not self.cut:
            yield Segment.line()


def highlight(lines: Sequence[str], language: str) -> Text:
    """The last of these lines of code, coloured; an unknown language is plain text."""
    recent = lines[-CONTEXT_LINES:]
    syntax = Syntax("", language or "text", theme=THEME, background_color="default")
    return syntax.highlight("\n".join(recent)).split("\n", allow_blank=True)[len(recent) - 1]


def render(text: str) -> Markdown:
    """Markdown as rich draws it, but `vector<int>` in a sentence is text and not an HTML tag."""
    markdown = Markdown(text.strip("\n"), code_theme=THEME)
    parser = MarkdownIt().enable(["strikethrough", "table"]).disable(["html_inline", "html_block"])
    markdown.parsed = parser.parse(markdown.markup)
    return markdown
