"""Functions and calls in the dialects' own shapes, over a scripted model and a real socket."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from codellama.engine.request import FinishReason
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeLLM, say
from tests.live_server import Live, running

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ANTHROPIC_TOOLS = [{"name": "weather", "description": "Looks.", "input_schema": SCHEMA}]
RESPONSES_TOOLS = [
    {"type": "function", "name": "weather", "description": "Looks.", "parameters": SCHEMA}
]
OLLAMA_TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Looks.", "parameters": SCHEMA},
    }
]
USER = {"role": "user", "content": "hi"}
ASKING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/messages", {"messages": [USER], "tools": ANTHROPIC_TOOLS}),
    ("/v1/responses", {"input": [USER], "tools": RESPONSES_TOOLS}),
    ("/api/chat", {"messages": [USER], "tools": OLLAMA_TOOLS, "stream": False}),
]
CALL = say("I look.\n[CAL", 'L] weather {"ci', 'ty": "Paris"}')
TWO = say('[CALL] weather {"city": "Paris"}\n', '[CALL] weather {"city": "Rome"}')


@pytest.fixture(autouse=True)
def room(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is said of the functions: a token of the script is a byte."""
    monkeypatch.setattr(llm, "n_ctx", 4096)


def asked(llm: FakeLLM) -> str:
    """The prompt of the one request, as text."""
    (call,) = llm.calls
    return llm.tokenizer.decode(call.prompt.tokens)


def events(response: httpx.Response) -> list[Any]:
    frames = response.text.split("\n\n")[:-1]
    return [json.loads(frame.partition("\ndata: ")[2]) for frame in frames]


# -- what is offered --------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body"), ASKING)
def test_the_model_hears_of_the_functions(
    live: Live, llm: FakeLLM, path: str, body: dict[str, Any]
) -> None:
    assert live.post(path, **body).status_code == 200
    tools = llm.calls[0].prompt.tools
    assert tools is not None
    (tool,) = tools.functions
    assert (tool.name, tool.description, tool.parameters) == ("weather", "Looks.", SCHEMA)
    assert (tools.choice, tools.parallel) == ("auto", False)
    assert "weather: Looks." in asked(llm)


CHOICES: list[tuple[str, dict[str, Any], Any, str | None, bool]] = [
    (*ASKING[0], {"type": "auto"}, "auto", False),
    (*ASKING[0], {"type": "any"}, "required", False),
    (*ASKING[0], {"type": "any", "disable_parallel_tool_use": False}, "required", True),
    (*ASKING[0], {"type": "tool", "name": "weather"}, "named", False),
    (*ASKING[0], {"type": "none"}, None, False),
    (*ASKING[1], "required", "required", False),
    (*ASKING[1], "none", None, False),
    (*ASKING[1], {"type": "function", "name": "weather"}, "named", False),
    (
        *ASKING[1],
        {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "weather"}],
        },
        "required",
        False,
    ),
]


@pytest.mark.parametrize(("path", "body", "choice", "expected", "parallel"), CHOICES)
def test_choices(
    live: Live,
    llm: FakeLLM,
    path: str,
    body: dict[str, Any],
    choice: Any,
    expected: str | None,
    parallel: bool,
) -> None:
    response = live.post(path, **body, tool_choice=choice)
    assert response.status_code == 200, response.text
    tools = llm.calls[0].prompt.tools
    assert (tools and tools.choice) == expected
    assert tools is None or tools.parallel == parallel


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/messages", {"tools": [1]}, "tools[0] must"),
        ("/v1/messages", {"tools": [{"name": "a b"}]}, "tools: the name of a function must"),
        ("/v1/messages", {"tools": ANTHROPIC_TOOLS, "tool_choice": {"type": "x"}}, "tool_choice"),
        ("/v1/messages", {"tool_choice": {"type": "any"}}, "tool_choice asks for a call"),
        ("/v1/responses", {"tools": [{"name": "f"}]}, "tools[0] must be an object with a type"),
        (
            "/v1/responses",
            {"tools": [{"type": "web_search"}], "tool_choice": "required"},
            "tool_choice asks for a call",
        ),
        ("/v1/responses", {"tools": RESPONSES_TOOLS, "tool_choice": "x"}, "tool_choice must"),
        ("/api/chat", {"tools": [{"type": "function"}]}, "tools[0].function must"),
    ],
)
def test_what_is_refused(
    live: Live, llm: FakeLLM, path: str, body: dict[str, Any], message: str
) -> None:
    dialog = {"input": "hi"} if path == "/v1/responses" else {"messages": [USER]}
    response = live.post(path, **dialog, **body)
    assert response.status_code == 400
    error = response.json()["error"]
    text = error if isinstance(error, str) else error["message"]
    assert text.startswith(message), text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"messages": [USER], "tools": [{"type": "web_search_20250305"}]}),
        ("/v1/responses", {"input": [USER], "tools": [{"type": "web_search"}]}),
    ],
)
def test_tools_of_other_servers_are_left_out_and_named(
    live: Live, llm: FakeLLM, path: str, body: dict[str, Any]
) -> None:
    response = live.post(path, **body)
    assert response.status_code == 200
    assert response.headers["x-codellama-ignored"] == "tools[0]"
    assert llm.calls[0].prompt.tools is None


# -- calls and results in the dialog -----------------------------------------------------------

ANTHROPIC_DIALOG = [
    USER,
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Well?"},
            {
                "type": "tool_result",
                "tool_use_id": "t1",
                "content": [{"type": "text", "text": "sunny"}],
            },
        ],
    },
]
RESPONSES_DIALOG = [
    USER,
    {"role": "assistant", "content": "I look."},
    {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "t1",
        "name": "weather",
        "arguments": '{"city": "Paris"}',
    },
    {"type": "function_call_output", "call_id": "t1", "output": "sunny"},
    {"role": "user", "content": "Well?"},
]
OLLAMA_CALL = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
OLLAMA_DIALOG = [
    USER,
    {"role": "assistant", "content": "I look.", "tool_calls": [OLLAMA_CALL]},
    {"role": "tool", "tool_name": "weather", "content": "sunny"},
    {"role": "user", "content": "Well?"},
]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"messages": ANTHROPIC_DIALOG}),
        ("/v1/responses", {"input": RESPONSES_DIALOG}),
        ("/api/chat", {"messages": OLLAMA_DIALOG}),
    ],
)
def test_the_model_reads_calls_and_results(
    live: Live, llm: FakeLLM, path: str, body: dict[str, Any]
) -> None:
    response = live.post(path, **body)
    assert response.status_code == 200, response.text
    assert asked(llm) == (
        'user: hi\nassistant: I look.\n[CALL] weather {"city": "Paris"}\n'
        "user: [RESULT] weather\nsunny\n\nWell?\n"
    )


def test_an_error_is_said(live: Live, llm: FakeLLM) -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "t1",
        "is_error": True,
        "content": "no such city",
    }
    dialog = [*ANTHROPIC_DIALOG[:2], {"role": "user", "content": [result]}]
    assert live.post("/v1/messages", messages=dialog).status_code == 200
    assert asked(llm).endswith("[RESULT] weather\nError: no such city\n")


def test_ollamas_results_find_their_calls(live: Live, llm: FakeLLM) -> None:
    """By id, by name, or in turn."""
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": {}}},
        {"function": {"name": "g", "arguments": {}}},
        {"function": {"name": "h", "arguments": {}}},
    ]
    dialog = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_name": "g", "content": "1"},
        {"role": "tool", "tool_call_id": "a", "content": "2"},
        {"role": "tool", "content": "3"},
    ]
    assert live.post("/api/chat", messages=dialog).status_code == 200
    assert asked(llm).endswith("[RESULT] g\n1\n\n[RESULT] f\n2\n\n[RESULT] h\n3\n")
    refused = live.post("/api/chat", messages=[USER, {"role": "tool", "content": "1"}])
    assert refused.json() == {"error": "messages[1] is the result of no call before it"}


# -- calls in answers -------------------------------------------------------------------------


def test_anthropics_call(live: Live, llm: FakeLLM) -> None:
    llm.script = CALL
    body = live.post("/v1/messages", messages=[USER], tools=ANTHROPIC_TOOLS).json()
    assert body["stop_reason"] == "tool_use"
    text, call = body["content"]
    assert text == {"type": "text", "text": "I look."}
    assert call.pop("id")
    assert call == {"type": "tool_use", "name": "weather", "input": {"city": "Paris"}}


def test_anthropics_stream(live: Live, llm: FakeLLM) -> None:
    llm.script = CALL
    stream = events(live.post("/v1/messages", messages=[USER], tools=ANTHROPIC_TOOLS, stream=True))
    kinds = [(e["type"].removeprefix("content_block_"), e.get("index")) for e in stream]
    assert kinds[0] == ("message_start", None)
    assert kinds[-2:] == [("message_delta", None), ("message_stop", None)]
    assert list(dict.fromkeys(kinds[1:-2])) == [
        (kind, index) for index in (0, 1) for kind in ("start", "delta", "stop")
    ]
    opened = [e["content_block"] for e in stream if e["type"] == "content_block_start"]
    assert opened[1].pop("id")
    assert opened == [
        {"type": "text", "text": ""},
        {"type": "tool_use", "name": "weather", "input": {}},
    ]
    deltas = [e["delta"] for e in stream if e["type"] == "content_block_delta"]
    assert "".join(d.get("partial_json", "") for d in deltas) == '{"city": "Paris"}'
    assert "".join(d.get("text", "") for d in deltas) == "I look."
    assert stream[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_response_with_calls(live: Live, llm: FakeLLM) -> None:
    llm.script = CALL
    body = live.post("/v1/responses", input="hi", tools=RESPONSES_TOOLS).json()
    assert body["status"] == "completed"
    assert body["tools"] == RESPONSES_TOOLS
    message, call = body["output"]
    assert message["content"][0]["text"] == "I look."
    name = call.pop("call_id")
    assert call.pop("id") == "fc_" + name.removeprefix("call_")
    assert call == {
        "type": "function_call",
        "status": "completed",
        "name": "weather",
        "arguments": '{"city": "Paris"}',
    }


def test_a_response_stream_with_calls(live: Live, llm: FakeLLM) -> None:
    llm.script = TWO
    stream = events(live.post("/v1/responses", input="hi", tools=RESPONSES_TOOLS, stream=True))
    added = [e for e in stream if e["type"] == "response.output_item.added"]
    done = [e for e in stream if e["type"] == "response.output_item.done"]
    assert [e["output_index"] for e in added] == [e["output_index"] for e in done] == [0, 1]
    for k, city in enumerate(("Paris", "Rome")):
        name = added[k]["item"]["id"]
        deltas = [
            e["delta"]
            for e in stream
            if e["type"] == "response.function_call_arguments.delta" and e["item_id"] == name
        ]
        assert json.loads("".join(deltas)) == {"city": city}
        assert done[k]["item"] == added[k]["item"] | {
            "status": "completed",
            "arguments": "".join(deltas),
        }
    (first, _) = [e for e in stream if e["type"] == "response.function_call_arguments.done"]
    assert (first["name"], json.loads(first["arguments"])) == ("weather", {"city": "Paris"})
    assert stream[-1]["response"]["output"] == [e["item"] for e in done]
    assert [e["sequence_number"] for e in stream] == list(range(len(stream)))


def test_words_and_a_call_in_a_response_stream(live: Live, llm: FakeLLM) -> None:
    llm.script = CALL
    stream = events(live.post("/v1/responses", input="hi", tools=RESPONSES_TOOLS, stream=True))
    items = stream[-1]["response"]["output"]
    assert [item["type"] for item in items] == ["message", "function_call"]
    assert items[0]["content"][0]["text"] == "I look."
    indices = [e["output_index"] for e in stream if "output_index" in e]
    assert indices == sorted(indices)


def test_ollamas_call(live: Live, llm: FakeLLM) -> None:
    llm.script = TWO
    body = live.post("/api/chat", messages=[USER], tools=OLLAMA_TOOLS, stream=False).json()
    calls = body["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"index": i, "name": "weather", "arguments": {"city": city}}
        for i, city in enumerate(("Paris", "Rome"))
    ]
    assert body["done_reason"] == "stop"
    response = live.post("/api/chat", messages=[USER], tools=OLLAMA_TOOLS)
    *_, before, last = [json.loads(line) for line in response.text.splitlines()]
    found = [call["function"]["arguments"] for call in before["message"]["tool_calls"]]
    assert found == [{"city": "Paris"}, {"city": "Rome"}]
    assert before["done"] is False
    assert last["done"] is True
    assert "tool_calls" not in last["message"]


def test_only_the_last_item_of_a_response_was_cut(live: Live, llm: FakeLLM) -> None:
    text = 'I look.\n[CALL] weather {"city": "Paris"}\n[CALL] weather {"ci'
    llm.script = say(text, end=FinishReason.LENGTH, stop=None)
    body: dict[str, Any] = {"input": [USER], "tools": RESPONSES_TOOLS, "parallel_tool_calls": True}
    whole = live.post("/v1/responses", **body).json()
    (*_, last) = events(live.post("/v1/responses", **body, stream=True))
    for response in (whole, last["response"]):
        assert [item["status"] for item in response["output"]] == [
            "completed",
            "completed",
            "incomplete",
        ]


def test_a_call_that_was_cut(live: Live, llm: FakeLLM) -> None:
    llm.script = say('[CALL] weather {"ci', end=FinishReason.LENGTH, stop=None)
    body = live.post("/v1/messages", messages=[USER], tools=ANTHROPIC_TOOLS).json()
    assert body["stop_reason"] == "max_tokens"
    assert body["content"][0]["input"] == {}
    response = live.post("/v1/responses", input="hi", tools=RESPONSES_TOOLS).json()
    assert response["status"] == response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["arguments"] == '{"ci'


# -- a server that was told to call nothing ----------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "insists"),
    [(*ASKING[0], {"type": "any"}), (*ASKING[1], "required"), (*ASKING[2], None)],
)
def test_no_tools(path: str, body: dict[str, Any], insists: Any) -> None:
    llm = FakeLLM()
    with running(lambda: llm, ServerConfig(port=0, tools=False)) as live:
        assert live.post(path, **body).status_code == 200
        assert asked(llm) == "user: hi\n"
        if insists is not None:
            assert live.post(path, **body, tool_choice=insists).status_code == 400
