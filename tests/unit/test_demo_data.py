"""The written questions and edits of the demo model: enough of them, and their code is right."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from demo_model.written import Edit, Question, edits, questions

QUESTIONS = questions()
EDITS = edits()
CARD_PROMPTS = (
    "Print a hello world in Python",
    "Write a function that computes the set of sums of all contiguous sublists of a given list.",
)
RUNNER = """
import contextlib, io, json, sys, traceback
for name, code, check in json.load(sys.stdin):
    names = {"__name__": "answer"}
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, name, "exec", dont_inherit=True), names)
        names["output"] = printed.getvalue()
        exec(compile(check, name + " check", "exec", dont_inherit=True), names)
    except BaseException:
        sys.exit(name + " is wrong\\n" + traceback.format_exc())
"""


def run(answers: list[tuple[str, str, str]]) -> None:
    """Run each (name, code, check) in turn, all in one process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(answers),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_run_notices_a_wrong_answer() -> None:
    with pytest.raises(AssertionError, match="second is wrong"):
        run([("first", "x = 1", "assert x == 1"), ("second", "x = 1", "assert x == 2")])


def test_there_are_enough() -> None:
    assert len(QUESTIONS) >= 150
    assert len(EDITS) >= 60
    assert all(len(question.wordings) >= 3 for question in QUESTIONS)


def test_names_and_wordings_are_unique() -> None:
    names = [question.name for question in QUESTIONS] + [edit.name for edit in EDITS]
    assert len(names) == len(set(names))
    for topics in (("javascript",), {q.topic for q in QUESTIONS} - {"javascript"}):
        wordings = [w for q in QUESTIONS if q.topic in topics for w in q.wordings]
        assert sorted(wordings) == sorted(set(wordings))


def test_card_prompts_are_first_wordings() -> None:
    by_name = {question.name: question for question in QUESTIONS}
    assert by_name["hello_world"].wordings[0] == CARD_PROMPTS[0]
    assert by_name["sums_of_sublists"].wordings[0] == CARD_PROMPTS[1]
    assert by_name["js_sums_of_sublists"].wordings[0] == CARD_PROMPTS[1]
    assert by_name["js_sums_of_sublists"].language == "javascript"


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_answer_is_short_and_python_has_a_check(question: Question) -> None:
    assert 10 < len(question.answer) < 1100
    assert "<!--" not in question.answer
    assert "<step>" not in question.answer
    if question.language == "python":
        assert "assert" in question.check


@pytest.mark.parametrize("topic", sorted({q.topic for q in QUESTIONS if q.language == "python"}))
def test_python_of_the_answers_is_right(topic: str) -> None:
    chosen = [q for q in QUESTIONS if q.topic == topic and q.language == "python"]
    run([(q.name, q.code, q.check) for q in chosen])


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_edit_changes_code_that_compiles(edit: Edit) -> None:
    compile(edit.before, "before", "exec")
    assert edit.before != edit.after
    assert "assert" in edit.check


def test_edited_functions_are_right() -> None:
    run([(edit.name, edit.after, edit.check) for edit in EDITS])
