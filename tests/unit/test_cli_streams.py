"""Answers as text: line ends, and lines of the log that come meanwhile."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

import click
import pytest

from codellama.cli import log_to_stderr
from codellama.cli.streams import TextStream

log = logging.getLogger("codellama.engine")


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def logging_to(terminal: Terminal) -> Iterator[None]:
    """A command runs whose log comes there."""
    with contextlib.redirect_stderr(terminal), click.Context(click.Command("complete")) as ctx:
        log_to_stderr(ctx, logging.WARNING)
        yield


def test_a_line_of_the_log_does_not_come_in_the_middle_of_an_answers() -> None:
    terminal = Terminal()
    with logging_to(terminal):
        with TextStream(terminal) as stream:
            log.warning("before")
            stream.push("def ")
            log.warning("a worker is gone")
            log.warning("and another")
            stream.push("f():\n")
            log.warning("between lines")
            stream.push("    pass")
        log.warning("after")
    assert terminal.getvalue().splitlines() == [
        "before",
        "def ",
        "a worker is gone",
        "and another",
        "f():",
        "between lines",
        "    pass",
        "after",
    ]


def test_an_answer_in_a_file_is_not_cut() -> None:
    file, terminal = io.StringIO(), Terminal()
    with logging_to(terminal), TextStream(file) as stream:
        stream.push("def ")
        log.warning("a worker is gone")
        stream.push("f()")
    assert file.getvalue() == "def f()\n"
    assert terminal.getvalue() == "a worker is gone\n"


@pytest.mark.parametrize(("text", "shown"), [("a", "a\n"), ("a\n", "a\n"), ("", "\n")])
def test_the_end_of_an_answer_ends_its_line(text: str, shown: str) -> None:
    file = io.StringIO()
    with TextStream(file) as stream:
        stream.push(text)
    assert file.getvalue() == shown


@pytest.mark.parametrize(("text", "shown"), [("a", "a\n"), ("a\n", "a\n"), ("", "")])
def test_an_error_comes_on_a_line_of_its_own(text: str, shown: str) -> None:
    file = io.StringIO()
    with pytest.raises(KeyboardInterrupt), TextStream(file) as stream:
        stream.push(text)
        raise KeyboardInterrupt
    assert file.getvalue() == shown
