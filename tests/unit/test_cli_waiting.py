from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console

from codellama.cli.waiting import reading, texts
from codellama.engine.request import Delta, FinishReason


def deltas() -> Iterator[Delta]:
    yield Delta(processed=1812)
    yield Delta(processed=3020)
    yield Delta("a", (1,))
    yield Delta("", (2,))
    yield Delta("b", finish_reason=FinishReason.STOP)


def test_the_prompt_is_told_of_until_the_first_word() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    assert list(texts(deltas(), 3020, console)) == ["a", "b"]
    assert "reading 0 of 3,020 tokens" in file.getvalue()
    assert file.getvalue().endswith("\x1b[2K"), "it is taken away again"
    assert reading(1812, 3020) == "reading 1,812 of 3,020 tokens"


def test_nothing_is_told_where_it_cannot_be_taken_away() -> None:
    for terminal, term in ((False, "xterm"), (True, "dumb")):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, _environ={"TERM": term})
        assert list(texts(deltas(), 3020, console)) == ["a", "b"]
        assert file.getvalue() == ""


def test_an_answer_without_words_ends() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    assert list(texts(iter([Delta(finish_reason=FinishReason.STOP)]), 3, console)) == []
