"""Functions in a dialog: what the system turn says, calls and results as turns, and what is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from codellama.errors import ChatFormatError, InvalidRequestError
from codellama.params import Message, Tool, ToolCall, Tools
from codellama.prompts.chat import check_messages
from codellama.prompts.history import drop_oldest
from codellama.prompts.tools import plain_turns

WEATHER = Tool(
    "get_weather",
    "Weather of a city now.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
NOW = Tool("now")
ASKED: Message = {"role": "user", "content": "Paris and Rome?"}
CALLED: Message = {
    "role": "assistant",
    "content": "I look.",
    "tool_calls": [
        ToolCall("a", "get_weather", '{"city": "Paris"}'),
        ToolCall("b", "get_weather", '{"city": "Rome"}'),
    ],
}
PARIS: Message = {"role": "tool", "content": "18 degrees\n", "tool_call_id": "a"}
ROME: Message = {"role": "tool", "content": "25 degrees", "tool_call_id": "b"}
THANKS: Message = {"role": "user", "content": "In Fahrenheit."}


def turns(messages: list[Message], tools: Tools | None = None) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in check_messages(messages, "literal", tools)]


def test_many_results_are_put_together_in_one_go() -> None:
    """Each result joined to the text so far would copy 15 GB here."""
    calls = tuple(ToolCall(str(i), "f") for i in range(4000))
    said: list[Message] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    for call in calls:
        said.append({"role": "tool", "content": "x" * 2000, "tool_call_id": call.id})
    start = time.thread_time()
    turns = plain_turns(said)
    assert time.thread_time() - start < 1
    assert len(turns) == 3 and turns[2][1]["content"].count("[RESULT] f") == 4000


def test_calls_are_lines_and_all_results_one_user_turn() -> None:
    assert turns([ASKED, CALLED, PARIS, ROME]) == [
        ("user", "Paris and Rome?"),
        (
            "assistant",
            'I look.\n[CALL] get_weather {"city": "Paris"}\n[CALL] get_weather {"city": "Rome"}',
        ),
        ("user", "[RESULT] get_weather\n18 degrees\n\n[RESULT] get_weather\n25 degrees"),
    ]


def test_what_the_user_says_behind_results_is_of_the_same_turn() -> None:
    *_, last = turns([ASKED, CALLED, PARIS, THANKS])
    assert last == ("user", "[RESULT] get_weather\n18 degrees\n\nIn Fahrenheit.")


def test_a_call_without_words_or_arguments() -> None:
    call: Message = {"role": "assistant", "content": "", "tool_calls": [ToolCall("a", "now", " ")]}
    assert turns([ASKED, call, PARIS])[1] == ("assistant", "[CALL] now {}")


def test_the_system_turn_ends_with_the_functions() -> None:
    system: Message = {"role": "system", "content": "Be brief. "}
    (_, said), *_ = turns([system, ASKED], Tools((WEATHER, NOW)))
    assert said == (
        "Be brief.\n\nYou can call these functions.\n\nget_weather: Weather of a city now.\n"
        'Arguments: {"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}\n\n'
        "now\nArguments: {}\n\nIf a function helps, call it. Write a call as one line, its JSON as the "
        "function's schema says:\n[CALL] NAME {...}\nThe next message brings its [RESULT]. "
        "If no function helps, answer in words."
    )


def test_a_dialog_without_a_system_turn_gets_one() -> None:
    assert [role for role, _ in turns([ASKED], Tools((NOW,)))] == ["system", "user"]


@pytest.mark.parametrize(
    ("tools", "end"),
    [
        (Tools((WEATHER, NOW), "required"), "Answer with a call and nothing else"),
        (Tools((WEATHER,), "named"), "[CALL] get_weather {...}"),
        (Tools((WEATHER, NOW), parallel=True), "write several"),
    ],
)
def test_choices_are_said(tools: Tools, end: str) -> None:
    (_, said), *_ = turns([ASKED], tools)
    assert end in said.rsplit("Arguments", 1)[1]
    assert ("several" in said) == tools.parallel


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            [ASKED, CALLED, {**PARIS, "tool_call_id": "c"}],
            r"messages\[2\]: tool_call_id 'c' is none",
        ),
        ([ASKED, PARIS], r"messages\[1\]: tool_call_id 'a' is none"),
        ([ASKED, CALLED, PARIS, THANKS, ROME], r"messages\[4\]: tool_call_id 'b' is none"),
        (
            [ASKED, CALLED, {"role": "tool", "content": "x"}],
            r"messages\[2\]: .* needs a tool_call_id",
        ),
        ([{**ASKED, "tool_call_id": "a"}], r"messages\[0\]: only a message of the role tool"),
        ([{**ASKED, "tool_calls": [ToolCall("a", "f")]}], r"messages\[0\]: only an assistant's"),
        (
            [ASKED, {**CALLED, "tool_calls": "x"}, PARIS],
            r"messages\[1\]\.tool_calls must be a list",
        ),
        ([ASKED, {**CALLED, "tool_calls": [1]}, PARIS], r"messages\[1\]\.tool_calls\[0\] must be"),
        ([ASKED, {**CALLED, "tool_calls": [ToolCall("a", "f\n")]}, PARIS], r"must be one line"),
        (
            [ASKED, CALLED, PARIS, ROME, CALLED],
            r"messages\[4\]: .* calls functions cannot be continued",
        ),
        (
            [ASKED, CALLED, PARIS, ROME, CALLED, CALLED, PARIS],
            r"messages\[5\]: expected the role user",
        ),
    ],
)
def test_bad_dialogs_are_named_by_their_own_index(messages: Any, said: str) -> None:
    with pytest.raises(ChatFormatError, match=said):
        check_messages(messages, "literal", Tools((NOW,)))


def test_special_tags_in_calls_and_results_are_refused_if_that_is_asked() -> None:
    for message in ({**PARIS, "content": "<step>"}, {**PARIS, "content": "[INST]"}):
        with pytest.raises(ChatFormatError, match=r"messages\[2\]: the special tag"):
            check_messages([ASKED, CALLED, message], "reject")  # type: ignore[list-item]
    call = {**CALLED, "tool_calls": [ToolCall("a", "f", '{"x": "<step>"}')]}
    with pytest.raises(ChatFormatError, match=r"messages\[1\]: the special tag <step>"):
        check_messages([ASKED, call, PARIS], "reject")  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "é", "a\n", None])
def test_names_of_functions(name: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"tools: the name of a function must be"):
        Tool(name)
    assert Tool("a-Z_9" + "x" * 59).name


@pytest.mark.parametrize(
    ("functions", "choice", "said"),
    [
        ((), "auto", "tools is empty"),
        ((NOW, NOW), "auto", "two functions called now"),
        ((NOW, WEATHER), "named", "named is for one function"),
        ((NOW,), "any", "must be one of auto, required, named"),
    ],
)
def test_what_can_be_offered(functions: Any, choice: Any, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        Tools(functions, choice)


def test_a_question_goes_with_its_calls_and_results() -> None:
    answer: Message = {"role": "assistant", "content": "Warm."}
    dialog = [ASKED, CALLED, PARIS, ROME, answer, THANKS]
    assert drop_oldest(dialog, lambda kept: len(kept) < 6) == ([THANKS], dialog[:5])
    loop = [ASKED, CALLED, PARIS, ROME]
    assert drop_oldest(loop, lambda kept: False) == (loop, [])
