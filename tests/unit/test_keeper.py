"""Conversations on disk: what was shown is there, whatever became of the process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codellama.cli import main
from codellama.cli.journal import AnswerJournal, journal_path, read_saved
from codellama.cli.keeper import Keeper, SessionFolder
from codellama.engine.request import Delta, FinishReason
from codellama.errors import DecodeError, InvalidRequestError
from codellama.session import kv_path
from tests.fake_llm import say
from tests.scripted_llm import Opener, ScriptedLLM
from tests.unit.test_cli_chat import talk


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionFolder:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return SessionFolder()


def texts(folder: SessionFolder, name: str) -> list[str]:
    return [message["content"] for message in folder.find(name).messages()]


def told(folder: SessionFolder, name: str, *lines: str, llm: ScriptedLLM) -> str:
    keeper = Keeper(folder, name)
    try:
        return talk(llm, *lines, keeper=keeper)
    finally:
        keeper.close()


def test_a_conversation_goes_on_under_its_name(folder: SessionFolder) -> None:
    told(folder, "work", "a", "b", llm=ScriptedLLM(say("one"), say("two")))
    assert texts(folder, "work") == ["a", "one", "b", "two"]
    llm = ScriptedLLM(say("three"))
    told(folder, "work", "c", llm=llm)
    assert llm.asked == ["user: a\nassistant: one\nuser: b\nassistant: two\nuser: c\n"]
    assert folder.latest().name == "work"


def test_every_piece_is_on_disk_before_it_is_shown(folder: SessionFolder) -> None:
    """The files as they are when the process is killed at any moment hold what was shown by then."""
    keeper = Keeper(folder, "work")
    shown: list[str] = []
    session = keeper.open_session(ScriptedLLM(say("one"), say("t", "wo", "!")), "s")
    session.ask("a").text()
    keeper.save(session)
    answer = session.ask("b")
    keeper.begin(answer)
    for piece in answer:
        keeper.say(piece)
        shown.append(piece)
        killed = folder.folder.parent / f"copy{len(shown)}"
        shutil.copytree(folder.folder, killed)
        assert texts(SessionFolder(killed), "work") == ["s", "a", "one", "b", "".join(shown)]
    before = folder.folder.parent / "between"
    keeper.save(session)
    shutil.copytree(folder.folder, before)
    shutil.copy(killed / "work.json.now", before / "work.json.now")  # not emptied yet
    assert texts(SessionFolder(before), "work") == ["s", "a", "one", "b", "two!"]
    keeper.close()


def test_a_torn_line_is_left_out_and_a_question_waits(folder: SessionFolder) -> None:
    keeper = Keeper(folder, "work")
    session = keeper.open_session(ScriptedLLM(say("one")), None)
    keeper.begin(session.ask("a"))
    with journal_path(keeper.path).open("ab") as file:
        file.write(b'{"text": "on')
    keeper._journal._file = -1  # killed
    keeper = Keeper(SessionFolder(shutil.copytree(folder.folder, folder.folder / "copy")), "work")
    again = keeper.open_session(ScriptedLLM(say("two")), None)
    assert (again.messages, again.question) == ([], "a")
    again.regen().text()
    keeper.save(again)
    keeper.close()
    assert [m["content"] for m in read_saved(keeper.path)] == ["a", "two"]


def test_two_processes_do_not_write_one_conversation(folder: SessionFolder) -> None:
    keeper = Keeper(folder, "work")
    with pytest.raises(InvalidRequestError, match="work is open in another terminal"):
        Keeper(folder, "work")
    with pytest.raises(InvalidRequestError, match="open in another"):
        told(folder, "work", llm=ScriptedLLM())
    keeper.close()
    Keeper(folder, "work").close()
    assert list(folder.folder.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "x" * 81, "a b"])
def test_names_are_no_paths(folder: SessionFolder, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no name of a conversation"):
        Keeper(folder, name)


def test_what_is_left_behind_stays_on_disk(folder: SessionFolder) -> None:
    first = folder.new_name()
    transcript = told(folder, first, "a", "/reset", "b", llm=ScriptedLLM(say("1"), say("2")))
    assert f"kept: codellama chat --session {first}" in transcript
    assert texts(folder, first) == ["a", "1"]
    assert texts(folder, folder.latest().name) == ["b", "2"]
    told(folder, "work", "a", "/system s", "b", llm=ScriptedLLM(say("1"), say("2")))
    assert texts(folder, "work") == ["s", "b", "2"]
    assert len(folder.all()) == 4


def test_taking_back_and_changing_a_question(folder: SessionFolder) -> None:
    llm = ScriptedLLM(say("1"), say("2"), say("3"))
    told(folder, "work", "a", "b", "/undo", "/edit", "+!", llm=llm)
    assert texts(folder, "work") == ["a!", "3"]
    assert llm.asked[-1] == "user: a!\n"


def test_a_failed_answer_leaves_its_question(folder: SessionFolder) -> None:
    failure = Delta(finish_reason=FinishReason.ERROR, error=DecodeError("broken"))
    told(folder, "work", "a", "b", llm=ScriptedLLM(say("1"), [Delta("x"), failure]))
    assert texts(folder, "work") == ["a", "1", "b"]


def test_only_the_latest_conversation_without_a_name_keeps_its_state(
    folder: SessionFolder,
) -> None:
    for name in ("2026-01-01-000000", "work", "2026-01-02-000000"):
        told(folder, name, "a", llm=ScriptedLLM(say("1")))
        kv_path(folder.path(name)).write_bytes(b"state")
    told(folder, "2026-01-03-000000", "a", llm=ScriptedLLM(say("1")))
    kept = {k.name: k.kv_bytes for k in folder.all()}
    assert kept["2026-01-01-000000"] == kept["2026-01-02-000000"] == 0
    assert kept["work"] == 5


def test_a_full_disk_is_a_line_and_the_conversation_goes_on(
    folder: SessionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    keeper = Keeper(folder, "work")
    monkeypatch.setattr("codellama.cli.keeper.write_document", full)
    transcript = talk(ScriptedLLM(say("one"), say("two")), "a", "b", keeper=keeper)
    assert "Error: the conversation cannot be saved: No space left on device" in transcript
    assert "two" in transcript
    monkeypatch.setattr(AnswerJournal, "say", full)
    assert "three" in talk(ScriptedLLM(say("three")), "c", keeper=keeper)


# -- the commands ---------------------------------------------------------------------------------


def invoke(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_sessions_are_listed_shown_exported_and_deleted(
    folder: SessionFolder, tmp_path: Path
) -> None:
    assert "no conversation is kept" in invoke("sessions").stdout
    told(folder, "work", "a question", "b", llm=ScriptedLLM(say("one"), say("two")))
    listing = invoke("sessions", "list").stdout
    assert listing.startswith("work ")
    assert "2 answers" in listing
    assert "a question" in listing
    assert invoke("sessions", "show", "work").stdout == "> a question\n\none\n\n> b\n\ntwo\n\n"
    entry = json.loads(invoke("sessions", "--json").stdout)[0]
    assert (entry["name"], entry["answers"], entry["first"]) == ("work", 2, "a question")
    shown = json.loads(invoke("sessions", "show", "work", "--json").stdout)
    assert len(shown["messages"]) == 4
    exported = tmp_path / "work.json"
    invoke("sessions", "export", "work", "-o", exported)
    assert json.loads(exported.read_text()) == json.loads(folder.path("work").read_text())
    assert "## user\n\na question\n" in invoke("sessions", "export", "work", "--markdown").stdout
    kv_path(folder.path("work")).write_bytes(b"state")
    invoke("sessions", "delete", "work", "--state-only")
    assert folder.latest().kv_bytes == 0
    assert invoke("sessions", "delete", "work").exit_code == 0
    assert list(folder.folder.iterdir()) == []
    assert "there is no conversation 'work'" in invoke("sessions", "delete", "work").stderr


def test_a_file_that_is_no_conversation_is_listed_with_the_reason(folder: SessionFolder) -> None:
    folder.folder.mkdir(parents=True)
    folder.path("odd").write_text("{}")
    assert "is not a saved conversation" in invoke("sessions").stdout


def test_one_question_can_go_on_with_a_session(
    folder: SessionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ScriptedLLM(say("one")), ScriptedLLM(say("two"))
    monkeypatch.setattr("codellama.cli.chat.open_model", Opener(first))
    assert invoke("chat", "m", "--session", "work", "-p", "a").stdout == "one\n"
    monkeypatch.setattr("codellama.cli.chat.open_model", Opener(second))
    assert invoke("chat", "m", "--continue", "-p", "b").stdout == "two\n"
    assert second.asked == ["user: a\nassistant: one\nuser: b\n"]
    assert texts(folder, "work") == ["a", "one", "b", "two"]


def test_there_must_be_something_to_go_on_with(
    folder: SessionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codellama.cli.chat.open_model", Opener(ScriptedLLM()))
    assert "no conversation is kept" in invoke("chat", "m", "--continue", "-p", "b").stderr
    assert (
        "--session: 'a/b' is no name" in invoke("chat", "m", "--session", "a/b", "-p", "x").stderr
    )
    both = invoke("chat", "m", "--session", "a", "--continue", "-p", "x")
    assert "give either --session or --continue" in both.stderr


def test_ctrl_c_in_one_question_keeps_what_was_shown(
    folder: SessionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(pieces: Iterator[str]) -> None:
        next(pieces)
        raise KeyboardInterrupt

    monkeypatch.setattr("codellama.cli.chat.open_model", Opener(ScriptedLLM(say("half", "!"))))
    monkeypatch.setattr("codellama.cli.chat.stream_text", interrupted)
    assert invoke("chat", "m", "--session", "work", "-p", "a").exit_code == 130
    assert texts(folder, "work") == ["a", "half"]
