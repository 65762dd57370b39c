from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from codellama.cli.prompt import PromptReader, in_open_block, message_of, open_history
from codellama.cli.slash import COMMANDS

PASTE, END = "\x1b[200~", "\x1b[201~"
ENTER, ALT_ENTER, CTRL_C, CTRL_D, UP = "\r", "\x1b\r", "\x03", "\x04", "\x1b[A"


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe:
        yield pipe


def reader(keys: PipeInput) -> PromptReader:
    return PromptReader(InMemoryHistory(), COMMANDS, input=keys, output=DummyOutput())


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("hello" + ENTER, "hello"),
        ("one" + ALT_ENTER + "two" + ENTER, "one\ntwo"),
        ("one\\" + ENTER + "two" + ENTER, "one\ntwo"),
        ('"""' + ENTER + "one" + ENTER + "  two" + ENTER + '"""' + ENTER, "one\n  two"),
        ("\x1b[200~a = 1\nb = \\\n  2\x1b[201~" + ENTER, "a = 1\nb = \\\n  2"),
        ("drop" + CTRL_C + "keep" + ENTER, "keep"),
        ("/res\t" + ENTER, "/reset"),
        ("/set temp\t 0.5" + ENTER, "/set temperature 0.5"),
        (PASTE + '"""Docs.' + END + ENTER, '"""Docs.'),
        (PASTE + '"""Docs."""\r\nx = 1' + END + ENTER, '"""Docs."""\nx = 1'),
        ('"""Docs."""' + ALT_ENTER + "x = 1" + ENTER, '"""Docs."""\nx = 1'),
    ],
    ids=[
        *("line", "alt-enter", "backslash", "block", "paste", "ctrl-c", "tab", "tab-setting"),
        *("paste-quotes", "paste-docstring", "docstring"),
    ],
)
def test_keys(keys: PipeInput, typed: str, message: str) -> None:
    keys.send_text(typed)
    assert reader(keys)() == message


def test_a_message_can_begin_with_what_was_asked_before(keys: PipeInput) -> None:
    keys.send_text("!" + ENTER)
    assert reader(keys)("one\ntwo") == "one\ntwo!"


def test_files_are_completed(keys: PipeInput, tmp_path: Path) -> None:
    (tmp_path / "somewhere.py").touch()
    keys.send_text(f"/file {tmp_path}/some\t" + ENTER)
    assert reader(keys)() == f"/file {tmp_path}/somewhere.py"


@pytest.mark.parametrize("typed", [CTRL_D, CTRL_C + CTRL_C, CTRL_C + CTRL_D])
def test_leaving(keys: PipeInput, typed: str) -> None:
    keys.send_text(typed)
    with pytest.raises(EOFError):
        reader(keys)()


def test_ctrl_c_counts_only_when_it_is_repeated_at_once(keys: PipeInput) -> None:
    read = reader(keys)
    keys.send_text(CTRL_C + "a" + ENTER + CTRL_C + "b" + ENTER)
    assert [read(), read()] == ["a", "b"]


def test_up_brings_back_the_last_message(keys: PipeInput) -> None:
    read = reader(keys)
    keys.send_text("one" + ENTER)
    read()
    keys.send_text(UP + ENTER)
    assert read() == "one"


def test_what_ctrl_c_drops_is_in_the_history(keys: PipeInput) -> None:
    read = reader(keys)
    keys.send_text("lost" + CTRL_C + "one" + ENTER)
    read()
    keys.send_text(UP + UP + ENTER)
    assert read() == "lost"


@pytest.mark.parametrize(
    ("text", "still_open"),
    [
        *(("", False), ('"""', True), ('"""a', True), ('"""a"""', False), ('a """', False)),
        ('"""a"""\nb', False),
    ],
)
def test_blocks(text: str, still_open: bool) -> None:
    assert in_open_block(text) is still_open


def test_quotes_that_are_part_of_the_message_stay() -> None:
    assert message_of('what is """doc""" in Python?') == 'what is """doc""" in Python?'


def test_history_is_kept_in_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    history = open_history()
    assert isinstance(history, FileHistory)
    history.append_string("one\ntwo")
    assert list(open_history().load_history_strings()) == ["one\ntwo"]
    assert (tmp_path / "state" / "codellama" / "chat_history").is_file()


def test_history_is_in_memory_where_the_folder_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert isinstance(open_history(), InMemoryHistory)
