"""Which dialogs are accepted, and what is said about the others."""

from __future__ import annotations

from typing import Any

import pytest

from codellama.errors import ChatFormatError, InvalidRequestError
from codellama.prompts.chat import check_messages, split_tags

USER = {"role": "user", "content": "u"}
ASSISTANT = {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    "messages",
    [[USER], [SYSTEM, USER], [USER, ASSISTANT, USER], [SYSTEM, USER, ASSISTANT, USER]],
)
def test_good_dialogs(messages: Any) -> None:
    assert [m["role"] for m in check_messages(messages, "literal")] == [m["role"] for m in messages]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "messages is empty"),
        ("hi", "must be a list"),
        (USER, "must be a list"),
        ([SYSTEM], r"messages\[0\]: the last message must not be the system's"),
        ([USER, ASSISTANT, ASSISTANT], r"messages\[2\]: expected the role user, got assistant"),
        ([ASSISTANT, USER], r"messages\[0\]: expected the role user, got assistant"),
        ([USER, USER], r"messages\[1\]: expected the role assistant, got user"),
        ([USER, SYSTEM, USER], r"messages\[1\]: expected the role assistant, got system"),
        ([SYSTEM, SYSTEM, USER], r"messages\[1\]: expected the role user, got system"),
        ([{"role": "tool", "content": "x"}], r"messages\[0\]: .* needs a tool_call_id"),
        (
            [{"role": "critic", "content": "x"}],
            r"messages\[0\]: role must be one of .* got 'critic'",
        ),
        ([{"role": None, "content": "x"}], r"messages\[0\]: role must be one of"),
        ([{"role": "user"}], r"messages\[0\]: content must be text, got NoneType"),
        (
            [USER, ASSISTANT, {"role": "user", "content": [1]}],
            r"messages\[2\]: content must be text",
        ),
        ([{"role": "user", "content": "x", "nmae": 1}], r"messages\[0\]: unknown field 'nmae'"),
        (["hi"], r"messages\[0\] must have role and content"),
        ([{**USER, "destination": "a\nb"}], r"messages\[0\]: destination must be one line"),
    ],
)
def test_bad_dialogs(messages: Any, said: str) -> None:
    with pytest.raises(ChatFormatError, match=said) as caught:
        check_messages(messages, "literal")
    assert caught.value.param == "messages"
    assert isinstance(caught.value, InvalidRequestError)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", ["plain"]),
        ("a<step>b", ["a<st", "ep>b"]),
        ("<step><step>", ["<st", "ep><st", "ep>"]),
        ("", [""]),
    ],
)
def test_split_tags(text: str, parts: list[str]) -> None:
    assert split_tags(text, ["<step>"]) == parts
    assert "".join(parts) == text
