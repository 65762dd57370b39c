from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest

from codellama.engine.request import Delta, FinishReason
from codellama.errors import ContextLengthError, DecodeError, InvalidRequestError
from codellama.session import Session
from tests.fake_llm import say
from tests.scripted_llm import ScriptedLLM, Turn


def session(*turns: Turn, hold: bool = False, system: str | None = None) -> Session:
    return Session(ScriptedLLM(*turns, hold=hold), system)


def asked(talk: Session) -> list[str]:
    return cast(ScriptedLLM, talk.llm).asked


def texts(talk: Session) -> list[str]:
    return [message["content"] for message in talk.messages]


def test_every_question_is_asked_with_what_was_said_before() -> None:
    talk = session(say("one"), say("t", "wo"), system="be brief")
    assert talk.ask("first").text() == "one"
    assert "".join(talk.ask("second", temperature=0.5)) == "two"
    assert asked(talk)[1] == "system: be brief\nuser: first\nassistant: one\nuser: second\n"
    assert texts(talk) == ["be brief", "first", "one", "second", "two"]
    assert cast(ScriptedLLM, talk.llm).calls[1].params.temperature == 0.5


def test_figures_are_known_at_the_end() -> None:
    answer = session(say("hello")).ask("hi")
    assert answer.finish_reason is None
    answer.text()
    assert answer.finish_reason is FinishReason.STOP
    assert answer.usage.completion_tokens == 5
    assert answer.timings.decode_s == 1.0


def test_leaving_the_loop_early_cancels_and_keeps_what_was_read() -> None:
    talk = session(say("half", " an answer"))
    for piece in talk.ask("hi"):
        assert piece == "half"
        break
    assert texts(talk) == ["hi", "half"]
    assert len(cast(ScriptedLLM, talk.llm).cancelled) == 1


def test_an_answer_is_kept_once_however_often_it_is_read() -> None:
    talk = session(say("half", " an answer"))
    answer = talk.ask("hi")
    for _ in answer:
        break
    answer.text()
    answer.text()
    assert texts(talk) == ["hi", "half"]


def test_a_cancelled_answer_is_kept_as_far_as_it_came() -> None:
    talk = session(say("half"), hold=True)
    answer = talk.ask("hi")
    pieces = iter(answer)
    assert next(pieces) == "half"
    answer.cancel()
    assert list(pieces) == []
    assert answer.finish_reason is FinishReason.CANCELLED
    assert texts(talk) == ["hi", "half"]


def test_an_answer_without_text_is_not_kept() -> None:
    talk = session(say())
    assert talk.ask("hi").text() == ""
    assert talk.messages == []


def test_a_failed_answer_is_not_kept() -> None:
    failure = Delta(finish_reason=FinishReason.ERROR, error=DecodeError("broken"))
    talk = session([Delta("some"), failure], say("fine"))
    with pytest.raises(DecodeError, match="broken"):
        talk.ask("hi").text()
    assert talk.messages == []
    assert talk.regen().text() == "fine"
    assert texts(talk) == ["hi", "fine"]


def test_a_refused_question_changes_nothing() -> None:
    talk = session(say("one"), ContextLengthError(70, 64), say("again"))
    talk.ask("hi").text()
    with pytest.raises(ContextLengthError):
        talk.ask("much too long")
    assert texts(talk) == ["hi", "one"]
    assert talk.regen().text() == "again"
    assert texts(talk) == ["hi", "again"]


def test_regen_replaces_the_last_answer_only() -> None:
    talk = session(say("one"), say("two"), say("three"))
    talk.ask("same").text()
    talk.ask("same").text()
    talk.regen().text()
    assert texts(talk) == ["same", "one", "same", "three"]


def test_regen_after_an_empty_answer_keeps_the_turn_before() -> None:
    talk = session(say("one"), say(), say("three"))
    talk.ask("same").text()
    talk.ask("same").text()
    talk.regen().text()
    assert texts(talk) == ["same", "one", "same", "three"]


def test_regen_needs_a_question() -> None:
    with pytest.raises(InvalidRequestError, match="no question"):
        session().regen()


def test_reset_keeps_the_system_text_and_forgets_a_running_answer() -> None:
    talk = session(say("one"), hold=True, system="s")
    answer = talk.ask("hi")
    talk.reset()
    assert answer.text() == "one"  # still readable, but no longer part of the conversation
    assert texts(talk) == ["s"]
    with pytest.raises(InvalidRequestError):
        talk.regen()


def test_setting_the_system_text_starts_afresh() -> None:
    talk = session(say("one"), system="old")
    talk.ask("hi").text()
    talk.system = "new"
    assert texts(talk) == ["new"]


def test_the_next_question_cancels_an_unread_answer() -> None:
    talk = session(say("one"), say("two"), hold=True)
    first = talk.ask("a")
    second = talk.ask("b")
    second.cancel()
    assert (first.text(), second.text()) == ("one", "two")
    assert texts(talk) == ["b", "two"]


def test_saved_conversations_go_on(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    talk = session(say("één"), system="s")
    talk.ask("hi").text()
    talk.save(path)
    assert json.loads(path.read_text("utf-8"))["model"] == "fake"
    assert list(tmp_path.iterdir()) == [path]
    loaded = Session.load(path, ScriptedLLM(say("two")))
    assert loaded.messages == talk.messages
    loaded.regen().text()
    assert texts(loaded) == ["s", "hi", "two"]


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        pytest.param('{"messages": ' + "[" * 100_000, id="too deep"),
        '{"messages": 3}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}',
        '{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}',
    ],
)
def test_what_is_no_conversation_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "talk.json"
    path.write_text(text)
    with pytest.raises(InvalidRequestError, match=r"talk\.json"):
        Session.load(path, ScriptedLLM())


def test_undo_takes_back_a_question_with_its_answer() -> None:
    talk = session(say("one"), say("two"), say("again"))
    talk.ask("a").text()
    talk.ask("b").text()
    assert talk.undo() == "b"
    assert texts(talk) == ["a", "one"]
    assert talk.question == "a"
    talk.regen().text()
    assert texts(talk) == ["a", "again"]
    talk.undo()
    assert texts(talk) == []
    assert talk.question is None
    with pytest.raises(InvalidRequestError, match="no question"):
        talk.undo()


def test_another_question_takes_the_place_of_the_last() -> None:
    talk = session(say("one"), say("two"), ContextLengthError(70, 64))
    talk.ask("a").text()
    answer = talk.replace("b")
    assert [m["content"] for m in answer.asked] == ["b"]
    answer.text()
    assert texts(talk) == ["b", "two"]
    with pytest.raises(ContextLengthError):
        talk.replace("too long")
    assert texts(talk) == ["b", "two"], "refused: nothing has changed"


def test_a_question_without_an_answer_is_saved_and_can_be_asked_again(tmp_path: Path) -> None:
    talk = session(say("one"), say(), system="s")
    talk.ask("a").text()
    talk.ask("b").text()
    talk.save(tmp_path / "talk.json")
    loaded = Session.load(tmp_path / "talk.json", ScriptedLLM(say("two")))
    assert loaded.messages == talk.messages
    assert loaded.question == "b"
    loaded.regen().text()
    assert texts(loaded) == ["s", "a", "one", "b", "two"]
