"""The routes over a scripted model and a real socket: bytes of streams, errors, keys, limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from codellama import errors
from codellama.devices.planner import plan_load
from codellama.engine.request import Delta
from codellama.files.loadable import read_model
from codellama.params import ModelConfig
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeLLM, ids, say
from tests.live_server import Live, running, wait_until
from tests.made_up import machine
from tests.tiny_model import write

MESSAGES = [{"role": "user", "content": "hi"}]
KEYS = ("first-key", "second-key")
GENERATION = [
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/chat/completions", {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": "x"}),
    ("/completions", {"prompt": "x"}),
    ("/completion", {"prompt": "x"}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
]

every_route = pytest.mark.parametrize(("path", "body"), GENERATION)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeLLM, Live]]:
    llm = FakeLLM()
    with running(lambda: llm) as live:
        yield llm, live
    assert llm.closed


@pytest.fixture
def llm(served: tuple[FakeLLM, Live]) -> Iterator[FakeLLM]:
    """The model behind `live`, as new."""
    llm = served[0]
    llm.calls.clear()
    yield llm
    llm.script, llm.error, llm.dead = say("hel", "lo"), None, False


@pytest.fixture
def live(served: tuple[FakeLLM, Live]) -> Live:
    return served[1]


def events(response: httpx.Response) -> list[Any]:
    """The JSON of a stream's events; `[DONE]` as it is. The framing is checked byte by byte."""
    frames = response.content.split(b"\n\n")
    assert frames.pop() == b""
    assert all(frame.startswith(b"data: ") and b"\n" not in frame for frame in frames)
    texts = [frame.removeprefix(b"data: ").decode() for frame in frames]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def test_health_and_models(live: Live, llm: FakeLLM, tmp_path: Any) -> None:
    header = read_model(write(tmp_path / "tiny.gguf"))
    llm.opened_plan = plan_load(header, ModelConfig(), machine(64, 24))
    llm.metadata = {
        "tokenizer.ggml.model": "llama",
        "llama.context_length": 64,
        "llama.embedding_length": 32,
    }
    with live.client() as client:
        for path in ("/health", "/v1/health"):
            assert client.get(path).json() == {"status": "ok"}
        for path in ("/v1/models", "/models"):
            body = client.get(path).json()
            assert body["object"] == "list"
            assert (body["data"][0]["id"], body["data"][0]["object"]) == ("fake", "model")
        assert client.get("/v1/models/fake").json() == body["data"][0]
        missing = client.get("/v1/models/gpt-4")
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "not_found_error"
    meta = body["data"][0]["meta"]
    assert meta.pop("n_params") > 100_000
    assert meta.pop("size") > 400_000
    assert meta.pop("plan") == json.loads(json.dumps(llm.plan.to_json()))
    assert meta == {
        "vocab_type": 1,
        "n_vocab": 259,
        "n_ctx": 64,
        "n_ctx_train": 64,
        "n_embd": 32,
    }


def test_chat_completion(live: Live, llm: FakeLLM) -> None:
    body = live.post("/v1/chat/completions", messages=MESSAGES, model="any").json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "fake"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "hello"}
    assert body["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert body["timings"]["predicted_n"] == 5


def test_chat_stream_bytes(live: Live, llm: FakeLLM) -> None:
    llm.script = say("é")
    response = live.post(
        "/v1/chat/completions",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    first, text, last, usage, done = events(response)
    shared = {k: first[k] for k in ("id", "created", "model", "system_fingerprint")}
    assert all(shared.items() <= event.items() for event in (text, last, usage))
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert text["choices"] == [
        {"index": 0, "delta": {"content": "é"}, "logprobs": None, "finish_reason": None}
    ]
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2
    assert done == "[DONE]"
    assert '"content":"é"'.encode() in response.content


def test_usage_only_if_asked_for(live: Live, llm: FakeLLM) -> None:
    stream = events(live.post("/v1/chat/completions", messages=MESSAGES, stream=True))
    assert all("usage" not in event for event in stream[:-1])


def test_text_stream(live: Live, llm: FakeLLM) -> None:
    stream = events(live.post("/v1/completions", prompt="x", stream=True, logprobs=0))
    assert [event["choices"][0]["text"] for event in stream[:-1]] == ["hel", "lo", ""]
    assert [event["choices"][0]["finish_reason"] for event in stream[:-1]] == [None, None, "stop"]
    assert stream[1]["choices"][0]["logprobs"]["text_offset"] == [4, 5]
    assert stream[-1] == "[DONE]"


@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_native_stream_has_no_done(live: Live, llm: FakeLLM, path: str) -> None:
    stream = events(live.post(path, prompt="x", stream=True))
    assert [event["content"] for event in stream] == ["hel", "lo", ""]
    assert [event["stop"] for event in stream] == [False, False, True]


def test_several_prompts_and_choices(live: Live, llm: FakeLLM) -> None:
    body = live.post("/v1/completions", prompt=["a", "bc"], n=2, echo=True).json()
    texts = [choice["text"] for choice in body["choices"]]
    assert texts == ["ahello", "ahello", "bchello", "bchello"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["prompt_tokens"] == 2 + 3
    assert body["usage"]["completion_tokens"] == 20
    stream = events(live.post("/v1/completions", prompt=["a", "bc"], n=2, stream=True))
    texts = ["", "", "", ""]
    for event in stream[:-1]:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert texts == ["hello"] * 4
    answers = live.post("/completion", prompt=["a", [5, 6]]).json()
    assert [answer["index"] for answer in answers] == [0, 1]


@every_route
def test_parameters_reach_the_engine(
    live: Live, llm: FakeLLM, path: str, body: dict[str, Any]
) -> None:
    more: dict[str, Any] = {"n_predict": 7, "temperature": 0, "stop": "x", "n": 2}
    assert live.post(path, **body, **more).status_code == 200
    call = llm.calls[0]
    assert (call.n, call.params.max_tokens, call.params.temperature) == (2, 7, 0)
    assert call.params.stop == ("x",)


@every_route
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.ContextLengthError(99, 64), 400, "exceed_context_size_error"),
        (errors.GrammarError("bad"), 400, "invalid_request_error"),
        (errors.UnsupportedError("not this model"), 501, "not_supported_error"),
        (errors.QueueFullError("full"), 503, "unavailable_error"),
        (errors.EngineDeadError("dead"), 503, "unavailable_error"),
    ],
)
def test_errors_before_the_answer(
    live: Live,
    llm: FakeLLM,
    path: str,
    body: dict[str, Any],
    error: Exception,
    status: int,
    kind: str,
) -> None:
    llm.error = error
    for stream in (False, True):
        response = live.post(path, **body, stream=stream)
        assert response.status_code == status
        assert response.json()["error"]["type"] == kind
        assert response.json()["error"]["message"] == str(error)
        retry = "1" if isinstance(error, errors.QueueFullError) else None
        assert response.headers.get("retry-after") == retry


@every_route
def test_a_failure_midway(live: Live, llm: FakeLLM, path: str, body: dict[str, Any]) -> None:
    llm.script = [*say("hel")[:1], Delta(error=errors.DecodeError("decode said 1"))]
    whole = live.post(path, **body)
    assert whole.status_code == 500
    assert whole.json()["error"]["message"] == "decode said 1"
    stream = events(live.post(path, **body, stream=True))
    assert stream[-1] == {
        "error": {
            "code": 500,
            "message": "decode said 1",
            "type": "server_error",
            "param": None,
        }
    }


@every_route
def test_what_came_before_a_failure_is_shown(
    live: Live, llm: FakeLLM, path: str, body: dict[str, Any]
) -> None:
    """Although both are there when the stream begins."""
    llm.script = [*say("hel")[:1], Delta(error=errors.DecodeError("decode said 1"))]
    stream = events(live.post(path, **body, stream=True))
    assert any("hel" in str(event) for event in stream[:-1])


@every_route
@pytest.mark.parametrize(
    ("given", "param"),
    [({"tempratur": 1}, "tempratur"), ({"top_p": 2}, "top_p"), ({"tools": [1]}, "tools")],
)
def test_a_clients_mistake_is_a_400(
    live: Live, llm: FakeLLM, path: str, body: dict[str, Any], given: dict[str, Any], param: str
) -> None:
    response = live.post(path, **body, **given)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert llm.calls == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{bad", "not valid JSON"),
        (b"", "JSON object"),
        (b"[]", "JSON object"),
        (b"[" * 100_000, "nested more than"),
        (b'{"prompt": "\xff"}', "body"),
        (b'{"prompt": "\\ud800"}', "prompt holds half of a surrogate pair"),
    ],
)
def test_malformed_bodies(live: Live, llm: FakeLLM, content: bytes, message: str) -> None:
    headers = {"content-type": "application/json"}
    response = httpx.post(live.url + "/completion", content=content, headers=headers, timeout=60)
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
def test_more_answers_than_can_ever_wait_are_no_matter_of_patience(live: Live, path: str) -> None:
    most = ModelConfig().n_seq_max + ModelConfig().max_queue
    reply = live.post(path, prompt=["x"] * (most // 4 + 1), n=4)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == "n"
    assert f"more than the {most} that may run and wait" in reply.json()["error"]["message"]


HALF = "a\ud800"
MESSAGE = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/completion", {"prompt": ["x", HALF]}, "prompt"),
        *(
            ("/completion", {"prompt": "x", name: value}, name)
            for name, value in {
                "grammar": f'root ::= "{HALF}"', "regex": HALF, "lark": HALF, "stop": [HALF],
                "dry_sequence_breakers": ["x", HALF], "logit_bias": [[HALF, 1.5]],
            }.items()
        ),
        ("/v1/completions", {"prompt": HALF}, "prompt"),
        ("/v1/completions", {"prompt": HALF, "suffix": "x"}, "prompt"),
        ("/v1/completions", {"prompt": "x", "suffix": HALF}, "suffix"),
        ("/infill", {"input_prefix": HALF, "input_suffix": ""}, "input_prefix"),
        ("/infill", {"input_prefix": "", "input_suffix": HALF}, "input_suffix"),
        ("/infill", {"input_prefix": "", "input_suffix": "", "prompt": HALF}, "prompt"),
        ("/infill", {"input_prefix": "", "input_suffix": "", "input_extra": [{"text": HALF}]},
         "input_extra"),
        ("/tokenize", {"content": HALF}, "content"),
        ("/v1/embeddings", {"input": ["x", HALF]}, "input"),
        ("/v1/chat/completions", {"messages": [MESSAGE], "guided_regex": HALF}, "guided_regex"),
        ("/v1/chat/completions", {"messages": [MESSAGE], "tools": [
            {"type": "function", "function": {"name": "f", "description": HALF}}]}, "tools"),
    ],
)  # fmt: skip
def test_half_a_character_is_named(live: Live, path: str, body: Any, param: str) -> None:
    headers = {"content-type": "application/json"}
    error = httpx.post(live.url + path, content=json.dumps(body), headers=headers, timeout=60)
    assert error.status_code == 400, error.text
    assert error.json()["error"]["param"] == param
    assert "half of a surrogate pair" in error.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_read(live: Live, kind: str) -> None:
    headers = {"content-type": kind}
    response = httpx.post(
        live.url + "/completion", content=b'{"prompt": "x"}', headers=headers, timeout=60
    )
    assert response.status_code == 415
    assert "Content-Type: application/json" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope", 404), ("GET", "/completion", 405), ("GET", "/docs", 404), ("POST", "/", 405)],
)
def test_wrong_paths_and_methods(live: Live, method: str, path: str, status: int) -> None:
    response = httpx.request(method, live.url + path, timeout=60)
    assert response.status_code == status
    assert response.json()["error"]["code"] == status


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/openapi.json", "/nope"])
def test_head_wherever_there_is_get(live: Live, llm: FakeLLM, path: str, tmp_path: Any) -> None:
    llm.opened_plan = plan_load(
        read_model(write(tmp_path / "tiny.gguf")), ModelConfig(), machine(64, 24)
    )
    got = httpx.get(live.url + path, timeout=60)
    head = httpx.head(live.url + path, timeout=60)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert httpx.head(live.url + "/completion", timeout=60).status_code == 405


def test_text_tools(live: Live, llm: FakeLLM) -> None:
    tokens = live.post("/tokenize", content="hi", add_special=True).json()["tokens"]
    assert tokens == [1, *ids("hi")]
    assert live.post("/detokenize", tokens=tokens[1:]).json()["content"] == "hi"
    assert live.post("/apply-template", messages=MESSAGES).json() == {"prompt": "user: hi\n"}
    assert live.post("/detokenize", tokens=[999]).status_code == 400
    assert live.post("/tokenize", content=5).json()["error"]["param"] == "content"


def test_no_chat_format_is_a_501(live: Live, llm: FakeLLM) -> None:
    chat_format, llm.chat_format = llm.chat_format, None
    response = live.post("/apply-template", messages=MESSAGES)
    llm.chat_format = chat_format
    assert response.status_code == 501


def test_a_dead_engine_is_a_503(live: Live, llm: FakeLLM) -> None:
    llm.dead = True
    for response in (live.get("/health"), live.post("/completion", prompt="x")):
        assert response.status_code == 503
        assert response.json()["error"]["type"] == "unavailable_error"


def test_the_unforeseen_is_a_500_without_details(
    live: Live, llm: FakeLLM, caplog: pytest.LogCaptureFixture
) -> None:
    llm.error = RuntimeError("password is hunter2")
    response = live.post("/completion", prompt="x")
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "internal error"
    wait_until(lambda: "hunter2" in caplog.text)  # the operator sees it


def test_openapi_describes_the_routes(live: Live) -> None:
    paths = live.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/completion", "/infill"} <= paths.keys()


# -- keys, limits, CORS -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked() -> Iterator[Live]:
    config = ServerConfig(
        port=0, api_keys=KEYS, max_body_bytes=1000, cors_origins=("http://page.example",)
    )
    with running(FakeLLM, config) as live:
        yield live


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer first-key"},
        {"authorization": "bearer second-key"},
        {"x-api-key": "second-key"},
    ],
)
def test_a_key_opens(locked: Live, headers: dict[str, str]) -> None:
    assert locked.post("/completion", headers, prompt="x").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic first-key"},
        {"authorization": "first-key"},
        {"x-api-key": "first-key,second-key"},
        {"x-api-key": "schlüssel"},
    ],
)
def test_no_key_no_answer(locked: Live, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    for method, path in [("POST", "/completion"), ("GET", "/v1/models"), ("GET", "/openapi.json"),
                         ("GET", "/nope")]:  # fmt: skip
        response = httpx.request(method, locked.url + path, headers=raw, timeout=60)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["/health", "/v1/health"])
def test_health_needs_no_key(locked: Live, path: str) -> None:
    assert locked.get(path).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8080", 403),
        ("192.168.0.2", 403),
    ],
)
def test_without_a_key_only_loopback_names_are_answered(
    live: Live, locked: Live, host: str, status: int
) -> None:
    response = live.post("/tokenize", {"host": host}, content="x")
    assert response.status_code == status
    if status == 403:
        assert "API key" in response.json()["error"]["message"]
    keyed = {"host": host, "authorization": f"Bearer {KEYS[0]}"}
    assert locked.post("/tokenize", keyed, content="x").status_code == 200


def test_large_bodies_are_refused(locked: Live) -> None:
    headers = {"x-api-key": KEYS[0], "content-type": "application/json"}
    body = json.dumps({"prompt": "x" * 2000}).encode()

    def chunks() -> Iterator[bytes]:
        yield body[:500]
        yield body[500:]

    for content in (body, chunks()):
        response = httpx.post(
            locked.url + "/completion", content=content, headers=headers, timeout=60
        )
        assert response.status_code == 413
        assert "1000 bytes" in response.json()["error"]["message"]


def preflight(live: Live, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return httpx.options(live.url + "/v1/chat/completions", headers=headers, timeout=60)


def test_cors_for_the_named_origin_only(locked: Live, live: Live) -> None:
    allowed = preflight(locked, "http://page.example")
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "http://page.example"
    assert "access-control-allow-origin" not in preflight(locked, "http://evil.example").headers
    assert "access-control-allow-origin" not in preflight(live, "http://page.example").headers


def test_cors_headers_are_on_errors_too(locked: Live) -> None:
    response = locked.post("/completion", {"origin": "http://page.example"}, prompt="x")
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == "http://page.example"


LINE_ENDS = "a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b"  # of str.splitlines, beside those of SSE


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completion", {"prompt": "x"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}),
        ("/api/generate", {"prompt": "x"}),
    ],
)
def test_no_text_breaks_a_line_of_a_stream(
    live: Live, llm: FakeLLM, path: str, body: dict[str, Any]
) -> None:
    """httpx, which ollama's client reads lines with, cuts them wherever Unicode ends a line."""
    llm.script = say(LINE_ENDS)
    with live.client() as client, client.stream("POST", path, json={**body, "stream": True}) as got:
        lines = [line.removeprefix("data: ") for line in got.iter_lines() if "{" in line]
    events = [json.loads(line) for line in lines]
    assert any(LINE_ENDS in _texts(event) for event in events)


def _texts(event: dict[str, Any]) -> list[Any]:
    """The values of an event, and those of what a delta of Anthropic's holds."""
    return [*event.values(), *event.get("delta", {}).values()]
