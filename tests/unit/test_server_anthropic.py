"""Anthropic's routes over a scripted model and a real socket: messages, events, counts, errors."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from codellama import errors
from codellama.engine.request import Delta, FinishReason
from codellama.server.app import create_app
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeLLM, ids, say
from tests.live_server import Live, running

PATH = "/v1/messages"
MESSAGES = [{"role": "user", "content": "hi"}]


def asked(llm: FakeLLM) -> str:
    """The prompt of the one request, as text."""
    (call,) = llm.calls
    return llm.tokenizer.decode(call.prompt.tokens)


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream; that each is named as its type says is checked."""
    frames = response.content.split(b"\n\n")
    assert frames.pop() == b""
    found = []
    for frame in frames:
        name, data = frame.decode().split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_a_message(live: Live, llm: FakeLLM) -> None:
    body = live.post(PATH, model="any", max_tokens=9, messages=MESSAGES).json()
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 1,
            "output_tokens": 5,
        },
    }
    assert llm.calls[0].params.max_tokens == 9


def test_a_stream(live: Live, llm: FakeLLM) -> None:
    response = live.post(PATH, max_tokens=9, messages=MESSAGES, stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    start, opened, *deltas, closed, delta, stop = events(response)
    assert start["message"].pop("id").startswith("msg_")
    assert start["message"] == {
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 9,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    }
    assert opened == {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    assert [event["delta"] for event in deltas] == [
        {"type": "text_delta", "text": "hel"},
        {"type": "text_delta", "text": "lo"},
    ]
    assert closed == {"type": "content_block_stop", "index": 0}
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"]["input_tokens"] == 8
    assert delta["usage"]["output_tokens"] == 5
    assert stop == {"type": "message_stop"}


def test_an_answer_without_text_has_no_block(live: Live, llm: FakeLLM) -> None:
    llm.script = say()
    assert live.post(PATH, messages=MESSAGES).json()["content"] == []
    stream = events(live.post(PATH, messages=MESSAGES, stream=True))
    assert [event["type"] for event in stream] == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        (say("x", stop="END"), "stop_sequence", "END"),
        (say("x", end=FinishReason.LENGTH, stop=None), "max_tokens", None),
    ],
)
def test_why_it_ended(
    live: Live, llm: FakeLLM, last: list[Delta], reason: str, sequence: str | None
) -> None:
    llm.script = last
    whole = live.post(PATH, messages=MESSAGES, stop_sequences=["END"]).json()
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)
    assert llm.calls[0].params.stop == ("END",)
    delta = events(live.post(PATH, messages=MESSAGES, stream=True))[-2]["delta"]
    assert delta == {"stop_reason": reason, "stop_sequence": sequence}


def test_a_full_context(live: Live, llm: FakeLLM) -> None:
    llm.script = say("x", end=FinishReason.LENGTH, stop=None)
    llm.script[-1] = llm.script[-1]._replace(truncated=True)
    body = live.post(PATH, messages=MESSAGES).json()
    assert body["stop_reason"] == "model_context_window_exceeded"


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({"messages": MESSAGES, "system": "be short"}, "system: be short\nuser: hi\n"),
        (
            {
                "messages": MESSAGES,
                "system": [
                    {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                    {"type": "text", "text": "b"},
                ],
            },
            "system: a\nb\nuser: hi\n",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": t} for t in "xy"]}
                ]
            },
            "user: x\ny\n",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "1"},
                    {"role": "user", "content": "2"},
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "thinking", "thinking": "hm", "signature": ""},
                            {"type": "text", "text": "3"},
                        ],
                    },
                    {"role": "user", "content": "4"},
                ]
            },
            "user: 1\n2\nassistant: 3\nuser: 4\n",
        ),
    ],
)
def test_what_the_model_reads(live: Live, llm: FakeLLM, body: dict[str, Any], prompt: str) -> None:
    assert live.post(PATH, **body).status_code == 200
    assert asked(llm) == prompt
    counted = live.post(f"{PATH}/count_tokens", model="any", **body)
    assert counted.json() == {"input_tokens": len(ids(prompt))}
    assert len(llm.calls) == 1


def test_fields_reach_the_engine(live: Live, llm: FakeLLM) -> None:
    fields: dict[str, Any] = {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
        "seed": 4,
        "metadata": {"user_id": "me"},
        "thinking": {"type": "disabled"},
        "service_tier": "auto",
        "tools": [],
    }
    assert live.post(PATH, messages=MESSAGES, **fields).status_code == 200
    params = llm.calls[0].params
    assert (params.max_tokens, params.temperature, params.top_k) == (7, 0.5, 3)
    assert (params.top_p, params.min_p, params.seed) == (0.9, 0.1, 4)


@pytest.mark.parametrize("where", ["output_config", "output_format"])
def test_a_schema(live: Live, llm: FakeLLM, where: str) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "integer"}}
    fields: dict[str, Any] = {
        "output_config": {"format": wanted, "effort": "low"},
        "output_format": wanted,
    }
    assert live.post(PATH, messages=MESSAGES, **{where: fields[where]}).status_code == 200
    assert llm.calls[0].params.json_schema == {"type": "integer"}


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "messages is required"),
        ({"messages": "hi"}, "messages: must be a valid list"),
        ({"messages": MESSAGES, "max_tokens": -5}, "max_tokens must be"),
        ({"messages": MESSAGES, "max_token": 5}, "unknown parameter 'max_token'"),
        ({"messages": MESSAGES, "stop_sequences": "x"}, "stop_sequences"),
        ({"messages": MESSAGES, "top_p": 2}, "top_p"),
        ({"messages": MESSAGES, "n": 2}, "unknown parameter 'n'"),
        ({"messages": MESSAGES, "system": 5}, "system"),
        ({"messages": MESSAGES, "system": [IMAGE]}, "system[0] must be a part of type text"),
        (
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            "messages[0].content[0] must be a part of type text, got 'image': "
            "the model only reads text",
        ),
        ({"messages": ["hi"]}, "messages[0] must be an object"),
        ({"messages": [{"role": "user"}]}, "messages[0].content must be a text or a list"),
        ({"messages": [{**MESSAGES[0], "nam": 1}]}, "messages[0] has an unknown field 'nam'"),
        ({"messages": MESSAGES, "output_config": {"forma": 1}}, "output_config has an unknown"),
        ({"messages": MESSAGES, "output_config": {"format": 1}}, "output_config: a format"),
        (
            {
                "messages": MESSAGES,
                "output_config": {"format": {"type": "json_schema", "schema": 5}},
            },
            "output_config: the schema must be a JSON object",
        ),
    ],
)
def test_a_clients_mistake(live: Live, llm: FakeLLM, body: dict[str, Any], message: str) -> None:
    for path in (PATH, f"{PATH}/count_tokens"):
        response = live.post(path, **body)
        if response.status_code == 200:  # sampling is none of a count's business
            assert path != PATH
            continue
        error = response.json()
        assert (response.status_code, error["type"]) == (400, "error"), error
        assert error["error"]["type"] == "invalid_request_error"
        assert error["error"]["message"].startswith(message), error
    assert llm.calls == []


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.ContextLengthError(99, 64), 400, "invalid_request_error"),
        (errors.UnsupportedError("not this model"), 501, "invalid_request_error"),
        (errors.QueueFullError("full"), 503, "overloaded_error"),
        (errors.DecodeError("decode said 1"), 500, "api_error"),
    ],
)
def test_errors_before_the_answer(
    live: Live, llm: FakeLLM, error: Exception, status: int, kind: str
) -> None:
    llm.error = error
    for stream in (False, True):
        response = live.post(PATH, messages=MESSAGES, stream=stream)
        assert response.status_code == status
        assert response.json()["error"]["type"] == kind
        assert str(error) in response.json()["error"]["message"]


def test_a_prompt_that_is_too_long_is_named_as_clients_know_it(live: Live, llm: FakeLLM) -> None:
    llm.error = errors.ContextLengthError(99, 64)
    message = live.post(PATH, messages=MESSAGES).json()["error"]["message"]
    assert message.startswith("prompt is too long: 99 tokens > 64 maximum")


def test_a_failure_midway(live: Live, llm: FakeLLM) -> None:
    llm.script = [*say("hel")[:1], Delta(error=errors.DecodeError("decode said 1"))]
    stream = events(live.post(PATH, messages=MESSAGES, stream=True))
    assert stream[-1] == {
        "type": "error",
        "error": {"type": "api_error", "message": "decode said 1"},
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", PATH, 405, "invalid_request_error"),
        ("POST", f"{PATH}/batches", 404, "not_found_error"),
    ],
)
def test_wrong_paths_and_methods(
    live: Live, method: str, path: str, status: int, kind: str
) -> None:
    response = httpx.request(method, live.url + path, json={}, timeout=60)
    assert response.status_code == status
    assert response.json()["error"]["type"] == kind


def test_keys() -> None:
    with running(FakeLLM, ServerConfig(port=0, api_keys=("key",))) as live:
        refused = live.post(PATH, messages=MESSAGES)
        assert refused.status_code == 401
        assert refused.json() == {
            "type": "error",
            "error": {"type": "authentication_error", "message": "Invalid API Key"},
        }
        assert live.post(PATH, {"x-api-key": "key"}, messages=MESSAGES).status_code == 200


def test_openapi_has_the_clients_names(live: Live) -> None:
    described = live.get("/openapi.json").json()
    (body,) = described["paths"][PATH]["post"]["requestBody"]["content"].values()
    schema = described["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
    assert {"messages", "system", "max_tokens", "stop_sequences"} <= schema["properties"].keys()
    assert schema["required"] == ["messages"]


def test_a_mounted_app_knows_its_paths() -> None:
    """Errors have their dialect's shape, and health needs no key, wherever the app is mounted."""
    config = ServerConfig(port=0, api_keys=("key",))
    outer = Starlette(routes=[Mount("/llm", create_app(FakeLLM, config))])
    client = TestClient(outer, base_url="http://localhost")
    assert client.post(f"/llm{PATH}", json={}).json()["type"] == "error"
    assert client.get("/llm/api/tags").json() == {"error": "Invalid API Key"}
    assert client.get("/llm/health").status_code == 503  # nothing has loaded the model
