"""Functions over HTTP in OpenAI's shape, with a scripted model: answers, streams, results, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from codellama.compat.tools import offered
from codellama.engine.request import FinishReason
from codellama.prompts.tools import described
from codellama.protocol.tolerance import HEADER
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeLLM, say
from tests.live_server import Live, running
from tests.tool_bodies import LOOPS, QUESTION, WEATHER, function

CHAT = "/v1/chat/completions"
TOOLS = [function("get_weather", WEATHER), function("now", None)]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
CALL = '[CALL] get_weather {"city": "Paris"}'
ROOM = 4096  # a token of the script is a byte
PIECES = ("I look", ".\n[CA", "LL] get_", "weather", ' {"city"', ': "Paris', '"}')


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeLLM, Live]]:
    llm = FakeLLM()
    llm.n_ctx = ROOM
    with running(lambda: llm) as live:
        yield llm, live


@pytest.fixture
def llm(served: tuple[FakeLLM, Live]) -> FakeLLM:
    llm = served[0]
    llm.calls.clear()
    llm.script = say(*PIECES)
    return llm


@pytest.fixture
def live(served: tuple[FakeLLM, Live]) -> Live:
    return served[1]


def ask(live: Live, **body: Any) -> Any:
    reply = live.post(CHAT, messages=[QUESTION], **body)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]


def deltas(live: Live, **body: Any) -> list[Any]:
    """The choices of a stream's chunks, without the first, which brings the role."""
    reply = live.post(CHAT, **{"messages": [QUESTION], "stream": True, **body})
    assert reply.status_code == 200, reply.text
    *frames, done = reply.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames]
    assert chunks[0]["delta"] == {"role": "assistant", "content": None}
    return chunks[1:]


def test_an_answer_with_a_call(live: Live, llm: FakeLLM) -> None:
    choice = ask(live, tools=TOOLS)
    (call,) = choice["message"].pop("tool_calls")
    assert choice["message"] == {"role": "assistant", "content": "I look."}
    assert choice["finish_reason"] == "tool_calls"
    assert call.pop("id").startswith("call_")
    expected = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert call == {"type": "function", "function": expected}


@pytest.mark.parametrize(
    ("choice", "reason"), [("auto", "tool_calls"), ("required", "tool_calls"), (NAMED, "stop")]
)
def test_why_an_answer_with_a_call_ended(
    live: Live, llm: FakeLLM, choice: Any, reason: str
) -> None:
    llm.script = say(CALL)
    answer = ask(live, tools=TOOLS, tool_choice=choice)
    assert answer["finish_reason"] == reason
    assert answer["message"]["content"] is None and len(answer["message"]["tool_calls"]) == 1
    assert deltas(live, tools=TOOLS, tool_choice=choice)[-1]["finish_reason"] == reason
    llm.script = say(CALL[:-3], end=FinishReason.LENGTH)
    answer = ask(live, tools=TOOLS, tool_choice=choice)
    assert answer["finish_reason"] == "length"
    assert answer["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Pari'


def test_a_stream_has_the_text_the_name_and_the_arguments_in_pieces(
    live: Live, llm: FakeLLM
) -> None:
    found = [choice["delta"] for choice in deltas(live, tools=TOOLS)]
    called = found[2]["tool_calls"][0].pop("id")
    assert called.startswith("call_")
    start = {"index": 0, "type": "function"}
    assert found == [
        {"content": "I look"},
        {"content": "."},
        {"tool_calls": [{**start, "function": {"name": "get_weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ': "Paris'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"}'}}]},
        {},
    ]


def test_words_stay_words(live: Live, llm: FakeLLM) -> None:
    llm.script = say("1 < 2 [CA", "SE]\n")
    choice = ask(live, tools=TOOLS)
    assert choice["message"] == {"role": "assistant", "content": "1 < 2 [CASE]\n"}
    assert choice["finish_reason"] == "stop"
    found = deltas(live, tools=TOOLS)
    assert "".join(c["delta"].get("content", "") for c in found) == "1 < 2 [CASE]\n"


def test_log_probabilities_and_several_choices(live: Live, llm: FakeLLM) -> None:
    reply = live.post(CHAT, messages=[QUESTION], tools=TOOLS, n=2, logprobs=True).json()
    ids = {choice["message"]["tool_calls"][0]["id"] for choice in reply["choices"]}
    assert len(ids) == 2
    n_tokens = len("".join(PIECES))
    assert [len(c["logprobs"]["content"]) for c in reply["choices"]] == [n_tokens] * 2
    found = deltas(live, tools=TOOLS, logprobs=True)
    assert sum(len((c["logprobs"] or {"content": []})["content"]) for c in found) == n_tokens
    both = deltas(live, tools=TOOLS, n=2)[1:]
    for index in range(2):
        parts = [c["delta"] for c in both if c["index"] == index]
        calls = [part["tool_calls"][0] for part in parts if "tool_calls" in part]
        assert "".join(c["function"]["arguments"] for c in calls) == '{"city": "Paris"}'


def test_the_older_form_is_answered_in_its_own_shape(live: Live, llm: FakeLLM) -> None:
    functions = [tool["function"] for tool in TOOLS]
    choice = ask(live, functions=functions)
    called = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert choice["message"]["function_call"] == called and "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "function_call"
    parts = [c["delta"]["function_call"] for c in deltas(live, functions=functions)[2:-1]]
    assert parts[0] == {"name": "get_weather", "arguments": ""}
    assert "".join(part["arguments"] for part in parts) == called["arguments"]
    named = ask(live, functions=functions, function_call={"name": "get_weather"})
    assert named["finish_reason"] == "stop"


@pytest.mark.parametrize("client", LOOPS)
def test_results_come_back_as_turns(live: Live, llm: FakeLLM, client: str) -> None:
    llm.script = say("Warm.")
    assert live.post(CHAT, **LOOPS[client]).json()["choices"][0]["message"]["content"] == "Warm."
    text = llm.tokenizer.decode(llm.calls[0].prompt.tokens)
    assert text.startswith("system: You can call these functions.\n\nget_weather")
    assert text.endswith(
        f"user: How warm is it in Paris?\nassistant: {CALL}\n"
        "user: [RESULT] get_weather\n18 degrees\n"
    )


def test_nothing_is_said_of_functions_that_may_not_be_called(live: Live, llm: FakeLLM) -> None:
    none: list[dict[str, Any]] = [{"tools": TOOLS, "tool_choice": "none"}, {"tools": []}, {}]
    for body in none:
        assert ask(live, **body)["message"]["content"] == "".join(PIECES)
        assert llm.tokenizer.decode(llm.calls[-1].prompt.tokens).startswith("user: How warm")


def test_allowed_tools_are_all_that_is_said(live: Live, llm: FakeLLM) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}
    ask(live, tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    offer = llm.calls[0].prompt.tools
    assert offer is not None and offer.choice == "required"
    assert [tool.name for tool in offer.functions] == ["now"]


def test_the_template_route_gives_the_prompt_of_a_chat(live: Live, llm: FakeLLM) -> None:
    body: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": True}
    ask(live, **body)
    text = live.post("/apply-template", messages=[QUESTION], **body).json()["prompt"]
    assert text == llm.tokenizer.decode(llm.calls[0].prompt.tokens)
    assert "write several" in text


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"tools": [1]}, "tools", "tools[0]: the type must be function"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools", "got 'custom'"),
        ({"tools": [{"type": "function"}]}, "tools", "tools[0].function must be an object"),
        ({"tools": [function("a b", None)]}, "tools", "must be 1 to 64 letters"),
        ({"tools": [function("a", None, strict=1)]}, "tools", "strict must be true or false"),
        ({"tools": [function("a", None)] * 2}, "tools", "two functions called a"),
        ({"tools": [function("a", [])]}, "tools", "must be a JSON schema"),  # type: ignore[arg-type]
        ({"tools": [function(f"f{i}", None) for i in range(129)]}, "tools", "more than 128"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "must be none, auto, required"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice", "names 'x', which is not among"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tools": [], "tool_choice": NAMED}, "tool_choice", "which is not among"),
        ({"functions": [{}]}, "functions", "functions: the name of a function"),
        ({"functions": [{"name": "f"}], "tools": TOOLS}, "functions", "exclude each other"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call", "'g'"),
        ({"function_call": {"name": "g"}}, "function_call", "needs functions"),
        ({"tools": TOOLS, "parallel_tool_calls": "no"}, "parallel_tool_calls", "valid boolean"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    live: Live, llm: FakeLLM, body: dict[str, Any], param: str, said: str
) -> None:
    reply = live.post(CHAT, messages=[QUESTION], **body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert said in error["message"]
    assert llm.calls == []


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "assistant", "content": None}, "messages[1].content must be"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "messages[1].tool_calls[0] must have"),
        ({"role": "assistant", "tool_calls": {}}, "messages[1].content must be"),
        ({"role": "tool", "content": "x", "tool_call_id": "a"}, "messages[1]: tool_call_id 'a'"),
        ({"role": "tool", "content": "x", "tool_call_id": 5}, "messages[1].tool_call_id must be"),
        ({"role": "user", "content": "x", "tool_call_id": "a"}, "messages[1]: only a message of"),
    ],
)
def test_messages_that_are_no_dialog(live: Live, llm: FakeLLM, message: Any, said: str) -> None:
    reply = live.post(CHAT, messages=[QUESTION, message], tools=TOOLS)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages")
    assert said in reply.json()["error"]["message"]


def test_a_server_that_answers_in_words_only() -> None:
    llm = FakeLLM(say(CALL))
    llm.n_ctx = ROOM
    with running(lambda: llm, ServerConfig(port=0, tools=False)) as live:
        assert ask(live, tools=TOOLS)["message"]["content"] == CALL
        assert "get_weather" not in llm.tokenizer.decode(llm.calls[0].prompt.tokens)
        text = live.post("/apply-template", messages=[QUESTION], tools=TOOLS).json()["prompt"]
        assert text == "user: How warm is it in Paris?\n"
        forced: list[tuple[dict[str, Any], str]] = [
            ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
            ({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, "function_call"),
        ]
        for body, param in forced:
            reply = live.post(CHAT, messages=[QUESTION], **body)
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
            assert "answers in words only" in reply.json()["error"]["message"]


def test_functions_that_would_fill_half_of_the_context_are_left_out_and_named(
    live: Live, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = offered(TOOLS)
    assert offer is not None
    monkeypatch.setattr(llm, "n_ctx", 2 * len(described(offer)))
    body: dict[str, Any] = {"messages": [QUESTION], "tools": TOOLS}
    reply = live.post(CHAT, **body)
    assert HEADER not in reply.headers
    monkeypatch.setattr(llm, "n_ctx", llm.n_ctx - 1)
    reply = live.post(CHAT, **body)
    assert reply.headers[HEADER] == "tools"
    assert reply.json()["choices"][0]["message"]["content"] == "".join(PIECES)
    assert [call.prompt.tools for call in llm.calls] == [offer, None]
    assert live.post("/apply-template", **body).json()["prompt"] == f"user: {QUESTION['content']}\n"
    assert live.post(CHAT, **body, tool_choice="required").json()["choices"][0]["message"][
        "tool_calls"
    ]


def test_calls_and_results_are_left_out_with_their_question(live: Live, llm: FakeLLM) -> None:
    loop = LOOPS["openai"]
    messages = [*loop["messages"], {"role": "assistant", "content": "18."}, QUESTION]
    body = loop | {"messages": messages, "context_policy": "drop_oldest"}
    assert live.post(CHAT, **body).json()["dropped_messages"] == [0, 1, 2, 3]
    text = llm.tokenizer.decode(llm.calls[0].prompt.tokens)
    assert text.endswith("in words.\nuser: How warm is it in Paris?\n")
