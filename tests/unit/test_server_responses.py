"""OpenAI's Responses over a scripted model and a real socket: responses, events, counts, errors."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from codellama import errors
from codellama.engine.request import Delta, FinishReason
from tests.fake_llm import FakeLLM, ids, say
from tests.live_server import Live

PATH = "/v1/responses"


def asked(llm: FakeLLM) -> str:
    """The prompt of the one request, as text."""
    (call,) = llm.calls
    return llm.tokenizer.decode(call.prompt.tokens)


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream; that each is named as its type says, and numbered, is checked."""
    frames = response.content.split(b"\n\n")
    assert frames.pop() == b""
    found = []
    for number, frame in enumerate(frames):
        name, data = frame.decode().split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        assert found[-1].pop("sequence_number") == number
    return found


@pytest.mark.parametrize("path", [PATH, "/responses"])
def test_a_response(live: Live, llm: FakeLLM, path: str) -> None:
    body = live.post(path, model="any", input="hi", max_output_tokens=9, store=True).json()
    assert body["id"].startswith("resp_")
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", "fake")
    (item,) = body["output"]
    assert item.pop("id").startswith("msg_")
    part = {"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}
    assert item == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    assert body["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 14,
    }
    assert (body["max_output_tokens"], body["store"]) == (9, False)
    assert (body["error"], body["incomplete_details"]) == (None, None)
    assert body["timings"]["predicted_n"] == 5
    assert llm.calls[0].params.max_tokens == 9


def test_a_stream(live: Live, llm: FakeLLM) -> None:
    response = live.post(PATH, input="hi", stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    stream = events(response)
    assert [event["type"].removeprefix("response.") for event in stream] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    created, _, added, _, first, second, text, part, item, completed = stream
    assert created["response"]["status"] == "in_progress"
    assert added["item"]["content"] == []
    assert [first["delta"], second["delta"], text["text"]] == ["hel", "lo", "hello"]
    assert item["item"]["content"] == [part["part"]]
    final = completed["response"]
    assert final["output"] == [item["item"]]
    assert (final["id"], final["status"]) == (created["response"]["id"], "completed")
    assert final["usage"]["output_tokens"] == 5
    assert completed["timings"]["predicted_n"] == 5
    name = added["item"]["id"]
    assert {e["item_id"] for e in stream if "item_id" in e} == {name} == {item["item"]["id"]}


def test_an_answer_that_was_cut(live: Live, llm: FakeLLM) -> None:
    llm.script = say("x", end=FinishReason.LENGTH, stop=None)
    body = live.post(PATH, input="hi").json()
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"
    last = events(live.post(PATH, input="hi", stream=True))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_an_answer_without_text(live: Live, llm: FakeLLM) -> None:
    llm.script = say()
    assert live.post(PATH, input="hi").json()["output"] == []
    stream = events(live.post(PATH, input="hi", stream=True))
    assert [e["type"] for e in stream][2:] == ["response.completed"]


def test_log_probabilities(live: Live, llm: FakeLLM) -> None:
    include = ["message.output_text.logprobs"]
    body = live.post(PATH, input="hi", include=include, top_logprobs=1).json()
    logprobs = body["output"][0]["content"][0]["logprobs"]
    assert "".join(entry["token"] for entry in logprobs) == "hello"
    assert logprobs[0]["logprob"] == -0.5
    assert logprobs[0]["top_logprobs"][0]["token"] == "h"
    stream = events(live.post(PATH, input="hi", top_logprobs=1, stream=True))
    assert [len(e["logprobs"]) for e in stream if e["type"].endswith("text.delta")] == [3, 2]


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({"input": "hi", "instructions": "be short"}, "system: be short\nuser: hi\n"),
        (
            {
                "instructions": "a",
                "input": [
                    {"role": "developer", "content": "b"},
                    {"role": "user", "content": [{"type": "input_text", "text": "c"}]},
                    {"type": "reasoning", "id": "rs_1", "summary": []},
                    {
                        "type": "message",
                        "id": "msg_1",
                        "status": "completed",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": "d", "annotations": []}],
                    },
                    {"role": "user", "content": "e"},
                    {"role": "user", "content": "f"},
                ],
            },
            "system: a\nb\nuser: c\nassistant: d\nuser: e\nf\n",
        ),
    ],
)
def test_what_the_model_reads(live: Live, llm: FakeLLM, body: dict[str, Any], prompt: str) -> None:
    assert live.post(PATH, **body).status_code == 200
    assert asked(llm) == prompt
    for path in (f"{PATH}/input_tokens", "/responses/input_tokens"):
        counted = live.post(path, model="any", **body)
        assert counted.json() == {
            "object": "response.input_tokens",
            "input_tokens": len(ids(prompt)),
        }
    assert len(llm.calls) == 1


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/input_tokens", "/chat/completions/input_tokens"]
)
def test_the_tokens_of_a_chat(live: Live, llm: FakeLLM, path: str) -> None:
    counted = live.post(path, messages=[{"role": "user", "content": "hi"}])
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": 9}
    assert llm.calls == []


def test_fields_reach_the_engine(live: Live, llm: FakeLLM) -> None:
    wanted = {
        "type": "json_schema",
        "name": "n",
        "strict": True,
        "schema": {"type": "integer"},
    }
    body = live.post(
        PATH,
        input="hi",
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        text={"format": wanted, "verbosity": "low"},
        metadata={"a": "b"},
        reasoning={"effort": "low"},
        parallel_tool_calls=False,
        truncation="auto",
    ).json()
    params = llm.calls[0].params
    assert (params.temperature, params.top_p, params.top_k) == (0.5, 0.9, 3)
    assert params.json_schema == {"type": "integer"}
    assert body["text"] == {"format": wanted, "verbosity": "low"}
    assert (body["metadata"], body["parallel_tool_calls"]) == ({"a": "b"}, False)
    assert (body["temperature"], body["truncation"]) == (0.5, "auto")


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,"}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "input", "input is required"),
        ({"input": 5}, "input", "input: must be"),
        ({"input": "hi", "max_output_token": 5}, "max_output_token", "unknown parameter"),
        ({"input": "hi", "max_output_tokens": -5}, "max_output_tokens", "max_output_tokens must"),
        ({"input": "hi", "text": {"format": {"type": "x"}}}, "text", "text.type must be"),
        ({"input": "hi", "text": {"forma": 1}}, "text", "text has an unknown field 'forma'"),
        (
            {"input": "hi", "previous_response_id": "resp_1"},
            "previous_response_id",
            "previous_response_id: no responses are kept here: send the items so far in input",
        ),
        ({"input": "hi", "conversation": "c"}, "conversation", "conversation is not supported"),
        ({"input": "hi", "messages": []}, "messages", "unknown parameter 'messages'"),
        ({"input": ["hi"]}, "input", "input[0] must be an object"),
        ({"input": [{"role": "user"}]}, "input", "input[0].content must be a text or a list"),
        (
            {"input": [{"role": "user", "content": [IMAGE]}]},
            "input",
            "input[0].content[0] must be a part of type input_text",
        ),
        (
            {"input": [{"type": "item_reference", "id": "x"}]},
            "input",
            "input[0]: items of type 'item_reference' are not supported",
        ),
    ],
)
def test_a_clients_mistake(
    live: Live, llm: FakeLLM, body: dict[str, Any], param: str, message: str
) -> None:
    response = live.post(PATH, **body)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error"), error
    assert error["param"] == param, error
    assert error["message"].startswith(message), error
    assert llm.calls == []


def test_a_failure_midway(live: Live, llm: FakeLLM) -> None:
    llm.script = [*say("hel")[:1], Delta(error=errors.DecodeError("decode said 1"))]
    stream = events(live.post(PATH, input="hi", stream=True))
    failed, error = stream[-2:]
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "decode said 1"}
    assert (error["type"], error["message"]) == ("error", "decode said 1")
    whole = live.post(PATH, input="hi")
    assert (whole.status_code, whole.json()["error"]["message"]) == (500, "decode said 1")


def test_openapi_has_the_clients_names(live: Live) -> None:
    described = live.get("/openapi.json").json()
    (body,) = described["paths"][PATH]["post"]["requestBody"]["content"].values()
    schema = described["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
    assert {"input", "instructions", "max_output_tokens"} <= schema["properties"].keys()
    assert schema["required"] == ["input"]


def test_figures_of_a_stream(live: Live, llm: FakeLLM) -> None:
    body = {"input": "hi", "stream": True, "timings_per_token": True, "return_progress": True}
    stream = events(live.post(PATH, **body))  # type: ignore[arg-type]
    deltas = [e for e in stream if e["type"] == "response.output_text.delta"]
    assert all("prompt_per_second" in delta["timings"] for delta in deltas)
    assert "timings" in stream[-1]
