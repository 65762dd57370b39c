"""How edits of the demo model are counted."""

from __future__ import annotations

import pytest

from demo_model.measure import Edited, edit_requests, expected_edit, lines_right
from demo_model.samples import EDIT_INTRODUCTION

REQUEST = (
    "Rename the function to apply_all\n\n```python\ndef load(f):\n    x = f()\n    return x\n```"
)
RIGHT = f"{EDIT_INTRODUCTION}\n\n```python\ndef apply_all(f):\n    x = f()\n    return x\n```"


def test_expected_edit_renames_the_definition_only() -> None:
    assert expected_edit(REQUEST) == RIGHT
    recursive = REQUEST.replace("f()", "load(f)")
    assert expected_edit(recursive) == RIGHT.replace("f()", "load(f)")


def test_expected_edit_of_something_else_is_an_error() -> None:
    with pytest.raises(ValueError, match="request: not one of the benchmark's"):
        expected_edit("Hello")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (RIGHT, 3),
        (RIGHT.replace("x", "y"), 1),
        (RIGHT.replace("```python\n", "```python\n# Here\n"), 3),
        (RIGHT.partition("    return")[0], 2),
        ("def apply_all(f):\n    x = f()\n", 0),
        ("", 0),
    ],
)
def test_lines_are_counted_in_their_order(text: str, lines: int) -> None:
    edit = Edited(RIGHT, text, ended=True)
    assert edit.lines_right == (lines, 3)
    assert edit.right == (text == RIGHT)


def test_share_is_of_all_lines() -> None:
    edits = [Edited(RIGHT, RIGHT, ended=True), Edited(RIGHT, "", ended=False)]
    assert lines_right(edits) == 0.5


def test_requests_are_different_and_have_answers() -> None:
    requests = edit_requests(60)
    assert len(set(requests)) == 60
    assert all(expected_edit(request) for request in requests)
