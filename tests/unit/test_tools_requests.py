"""OpenAI's functions and calls in requests: any JSON is read, or refused with a parameter's name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.compat.openai import text_messages
from codellama.compat.tools import offered
from codellama.errors import InvalidRequestError
from codellama.params import ToolCall
from codellama.prompts.chat import check_messages

FUNCTION = {"type": "function", "function": {"name": "f"}}
WORDS = (
    *("type", "function", "name", "arguments", "id", "description", "parameters", "strict", "mode"),
    *("allowed_tools", "tools", "auto", "none", "required", "tool", "assistant", "user", "role"),
    *("content", "tool_calls", "tool_call_id", "function_call", "f", "text", "object"),
)
PLAIN = st.none() | st.booleans() | st.integers(-1, 2) | st.floats() | st.sampled_from(WORDS)
JSON = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)


def mutated(whole: Any) -> st.SearchStrategy[Any]:
    """The value itself, or with one part of it replaced by any JSON."""
    options = [st.just(whole), JSON]
    if isinstance(whole, dict):
        for key, value in whole.items():
            options.append(st.builds(_with, st.just(whole), st.just(key), mutated(value)))
    if isinstance(whole, list) and whole:
        options.append(mutated(whole[0]).map(lambda new: [new, *whole[1:]]))
    return st.one_of(options)


def _with(whole: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    return {**whole, key: value}


ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [FUNCTION]}}
DESCRIBED = {"name": "f", "description": "x", "parameters": {"type": "object"}, "strict": True}


TOOLS = [{"type": "function", "function": DESCRIBED}]
OFFERS = {
    "tools": st.tuples(mutated(TOOLS)),
    "tool_choice": st.tuples(st.just(TOOLS), mutated(FUNCTION) | mutated(ALLOWED)),
    "parallel_tool_calls": st.tuples(st.just(TOOLS), st.none(), JSON),
    "functions": st.tuples(st.none(), st.none(), st.none(), mutated([DESCRIBED])),
    "function_call": st.tuples(
        st.none(), st.none(), st.none(), st.just([DESCRIBED]), mutated({"name": "f"})
    ),
}


@pytest.mark.parametrize("name", OFFERS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_offers_are_read_or_refused(name: str, data: st.DataObject) -> None:
    try:
        offer = offered(*data.draw(OFFERS[name]))
    except InvalidRequestError as error:
        assert error.param == name and str(error).startswith(name)
    else:
        assert offer is None or offer.functions[0].name


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
DIALOG = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "a", "content": "x"},
]


@settings(max_examples=200, deadline=None)
@given(mutated(DIALOG))
def test_dialogs_are_read_or_refused(messages: Any) -> None:
    if not isinstance(messages, list):
        return
    try:
        turns = check_messages(
            text_messages([{"role": "user", "content": "hi"}, *messages]), "literal"
        )
    except InvalidRequestError as error:
        assert error.param == "messages"
    else:
        assert [turn["role"] for turn in turns][:1] == ["user"]


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (CALL, "{}"),
        ({**CALL, "type": None}, "{}"),
        ({**CALL, "function": {"name": "f", "arguments": {"a": "é"}}}, '{"a": "é"}'),
    ],
)
def test_calls_as_clients_write_them(call: Any, arguments: str) -> None:
    (message,) = text_messages([{"role": "assistant", "tool_calls": [call]}])
    assert message == {
        "role": "assistant",
        "content": "",
        "tool_calls": (ToolCall("a", "f", arguments),),
    }


def test_parallel_calls_are_asked_for() -> None:
    for parallel, most in ((None, 1), (False, 1), (True, None)):
        offer = offered([FUNCTION], "auto", parallel)
        assert offer is not None and offer.most_calls == most
    named = offered([FUNCTION], FUNCTION, True)
    assert named is not None and (named.choice, named.most_calls) == ("named", 1)
