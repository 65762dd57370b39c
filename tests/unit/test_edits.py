"""Edits of files: the form of the answer, what becomes of it, and that nothing else is written."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from codellama.cli import main
from codellama.cli.cursor import Cursor
from codellama.edits.files import EditedFile
from codellama.edits.form import MOST_LINES_WHOLE, EditForm
from codellama.engine.request import FinishReason
from codellama.errors import InvalidRequestError
from tests.fake_llm import say
from tests.scripted_llm import Opener, ScriptedLLM

TEXTS = {"a.py": "one\ntwo\nthree\ntwo\n", "b.py": "1\n"}


def block(name: str, search: str, replace: str, width: int = 7) -> str:
    return f"{'<' * width} {name}\n{search}{'=' * width}\n{replace}{'>' * width}\n"


def test_blocks_change_what_they_name() -> None:
    form = EditForm.of(TEXTS)
    answer = (
        block("a.py", "two\n", "2\n2b\n") + block("b.py", "1\n", "") + block("a.py", "two\n", "4\n")
    )
    assert form.changed(answer) == {"a.py": "one\n2\n2b\nthree\n4\n", "b.py": ""}
    back = block("a.py", "three\n", "3\n") + block("a.py", "one\n", "1\n")
    assert form.changed(back)["a.py"] == "1\ntwo\n3\ntwo\n"
    assert form.changed("nothing to do") == TEXTS


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (block("a.py", "nowhere\n", "x\n"), "lines that are not in the file: 'nowhere"),
        (block("a.py", "", "x\n"), "says not where it belongs"),
        ("<<<<<<< a.py\none\n", "breaks off"),
        ("<<<<<<< a.py\none\n=======\nx\n", "breaks off"),
    ],
)
def test_answers_that_are_of_no_use_change_nothing(answer: str, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        EditForm.of(TEXTS).changed(answer)


def test_files_that_are_not_named_are_no_files() -> None:
    assert EditForm.of(TEXTS).changed(block("/etc/passwd", "root\n", "x\n")) == TEXTS


def test_marks_are_longer_than_what_stands_in_the_file() -> None:
    text = "<<<<<<< ours\na\n========\nb\n>>>>>>> theirs\n"
    form = EditForm.of({"x": text}, "blocks")
    assert form.width == 9
    assert "<<<<<<<<< x" in form.grammar()
    answer = block("x", "========\n", "=\n", 9)
    assert form.changed(answer)["x"] == text.replace("========", "=")


def test_short_files_are_written_as_a_whole() -> None:
    assert EditForm.of({"x": "a\n" * MOST_LINES_WHOLE}).whole
    assert not EditForm.of({"x": "a\n" * (MOST_LINES_WHOLE + 1)}).whole
    form = EditForm.of({"x": "a\n"})
    assert form.question("Do it", {"x": "python"}) == "Do it\n\n```python\na\n```"
    assert form.changed("Here:\n\n```python\nb\n``\n```\nmore") == {"x": "b\n``\n"}
    assert EditForm.of({"x": ""}, "blocks").whole
    with pytest.raises(InvalidRequestError, match="breaks off"):
        form.changed("```python\nb\n")
    with pytest.raises(InvalidRequestError, match="form: one file"):
        EditForm.of(TEXTS, "whole")


# -- the files ------------------------------------------------------------------------------------


def test_lines_keep_their_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"one\r\ntwo\nthree\r\nfour\x0c\r\nlast")
    file = EditedFile.read(str(path))
    assert file.text == "one\ntwo\nthree\nfour\x0c\nlast\n"
    assert file.with_text(file.text) == file.data
    assert file.with_text("one\ntwo\n3\nfour\x0c\nlast\nnew\n") == (
        b"one\r\ntwo\n3\r\nfour\x0c\r\nlast\r\nnew"
    )


def test_writing_keeps_a_backup_the_mode_and_the_link(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("one\n")
    path.chmod(0o755)
    link = tmp_path / "link.py"
    link.symlink_to(path)
    assert EditedFile.read(str(link)).write("two\n").name == "x.py.bak"
    assert EditedFile.read(str(link)).write("three\n").name == "x.py.bak2"
    assert link.is_symlink()
    assert path.read_text() == "three\n"
    assert path.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "x.py.bak").read_text() == "one\n"
    assert sorted(os.listdir(tmp_path)) == ["link.py", "x.py", "x.py.bak", "x.py.bak2"]


def test_what_somebody_else_has_changed_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("one\n")
    file = EditedFile.read(str(path))
    path.write_text("other\n")
    with pytest.raises(InvalidRequestError, match="has changed meanwhile"):
        file.write("two\n")
    assert os.listdir(tmp_path) == ["x.py"]


# -- the commands ---------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("x.py").write_text("a = 1\nb = 2\n")
    return tmp_path / "x.py"


def invoke(monkeypatch: pytest.MonkeyPatch, llm: ScriptedLLM, *args: str) -> Result:
    monkeypatch.setattr("codellama.cli.edit.open_model", Opener(llm))
    monkeypatch.setattr("codellama.cli.cursor.open_model", Opener(llm))
    monkeypatch.setattr("codellama.cli.infill.open_model", Opener(llm))
    return CliRunner().invoke(main, list(args))


WHOLE = "```python\na = 1\nb = 3\n```"


def test_a_diff_is_shown_and_nothing_written_unasked(
    monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    diff = "--- x.py\n+++ x.py\n@@ -1,2 +1,2 @@\n a = 1\n-b = 2\n+b = 3\n"
    dry = invoke(monkeypatch, ScriptedLLM(say(WHOLE)), "edit", "x.py", "b is 3", "--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, diff)
    unasked = invoke(monkeypatch, ScriptedLLM(say(WHOLE)), "edit", "x.py", "b is 3")
    assert unasked.exit_code == 1
    assert "--yes writes without asking" in unasked.stderr
    assert place.read_text() == "a = 1\nb = 2\n"
    assert os.listdir(place.parent) == ["x.py"]
    llm = ScriptedLLM(say(WHOLE))
    done = invoke(monkeypatch, llm, "edit", "x.py", "b is 3", "--yes")
    assert done.stdout == diff + "x.py: written; as it was: x.py.bak\n"
    assert place.read_text() == "a = 1\nb = 3\n"
    assert llm.calls[0].params.lark is not None
    assert llm.calls[0].params.temperature == 0


def test_the_terminal_is_asked(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("codellama.cli.changes.sys", terminal)
    for said, text in ((False, "a = 1\nb = 2\n"), (True, "a = 1\nb = 3\n")):
        monkeypatch.setattr("codellama.cli.changes.click.confirm", lambda _, said=said: said)
        invoke(monkeypatch, ScriptedLLM(say(WHOLE)), "edit", "x.py", "b is 3")
        assert place.read_text() == text


@pytest.mark.parametrize(
    ("args", "turn", "words"),
    [
        (["x.py"], say(WHOLE, end=FinishReason.LENGTH), "was cut off, so nothing is changed"),
        (["x.py"], say("```python\na = 1\nb = 2\n```"), "the model changed nothing"),
        (["nowhere.py"], say(WHOLE), "nowhere.py: no such file"),
        (["x.bin"], say(WHOLE), "x.bin is not UTF-8 text"),
    ],
)
def test_what_goes_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, place: Path, args: list[str], turn: list[object], words: str
) -> None:
    Path("x.bin").write_bytes(b"\xff")
    result = invoke(monkeypatch, ScriptedLLM(turn), "edit", *args, "b is 3", "--yes")  # type: ignore[arg-type]
    assert result.exit_code == 1
    assert words in result.stderr
    assert place.read_text() == "a = 1\nb = 2\n"


@pytest.mark.parametrize(
    ("at", "asked", "text"),
    [
        ("x.py:1", "<a = 1\n|b = 2\n>", "a = 1\nNEW\nb = 2\n"),
        ("x.py:0", "<|a = 1\nb = 2\n>", "NEW\na = 1\nb = 2\n"),
        ("x.py:2:1", "<a = 1\n|b = 2\n>", "a = 1\nNEWb = 2\n"),
        ("x.py:2:5", "<a = 1\nb = |2\n>", "a = 1\nb = NEW2\n"),
    ],
)
def test_completing_in_place(
    monkeypatch: pytest.MonkeyPatch, place: Path, at: str, asked: str, text: str
) -> None:
    llm = ScriptedLLM(say("NEW"), say("NEW"))
    done = invoke(monkeypatch, llm, "complete", "m", "--in-place", at, "--yes")
    assert done.exit_code == 0, done.output
    assert place.read_text() == text
    assert llm.asked == [asked]
    place.write_text("a = 1\nb = 2\n")
    assert invoke(monkeypatch, llm, "infill", "m", "--at", at).stdout == "NEW\n"
    assert place.read_text() == "a = 1\nb = 2\n"


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("x.py", "'x.py' is not FILE:LINE or FILE:LINE:COLUMN"),
        ("x.py:3", "x.py has lines 1 to 2; got 3"),
        ("x.py:1:7", "line 1 has columns 1 to 6; got 7"),
    ],
)
def test_places_that_are_none(
    monkeypatch: pytest.MonkeyPatch, place: Path, at: str, words: str
) -> None:
    assert words in invoke(monkeypatch, ScriptedLLM(), "infill", "m", "--at", at).stderr


def test_names_with_colons(tmp_path: Path) -> None:
    (tmp_path / "a:b").write_text("x\n")
    assert Cursor.at(f"{tmp_path}/a:b:1").before == "x\n"
