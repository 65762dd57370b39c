"""Ollama's routes over a scripted model and a real socket: answers, lines, options, models, errors."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from codellama import errors
from codellama.devices.planner import plan_load
from codellama.engine.request import Delta, FinishReason
from codellama.files.loadable import read_model
from codellama.params import ModelConfig
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeChatFormat, FakeLLM, say
from tests.fake_vectors import WithVectors
from tests.live_server import Live, running
from tests.made_up import machine
from tests.tiny_model import write

MESSAGES = [{"role": "user", "content": "hi"}]
GENERATION: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", {"messages": MESSAGES}),
    ("/api/generate", {"prompt": "hi"}),
]
COUNTS = {
    "done_reason": "stop",
    "load_duration": 0,
    "prompt_eval_count": 9,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 5,
    "eval_duration": 1_000_000_000,
}

both_routes = pytest.mark.parametrize(("path", "body"), GENERATION)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WithVectors, Live]]:
    path = write(tmp_path_factory.mktemp("ollama") / "tiny.gguf")
    llm = WithVectors()
    llm.opened_plan = plan_load(read_model(path), ModelConfig(), machine(64, 24))
    llm.metadata = {"general.architecture": "llama", "general.file_type": 15, "a.list": [1, 2]}
    with running(lambda: llm) as live:
        yield llm, live


@pytest.fixture
def llm(served: tuple[WithVectors, Live]) -> Iterator[WithVectors]:
    llm = served[0]
    llm.calls.clear()
    yield llm
    llm.script, llm.error, llm.chat_format = say("hel", "lo"), None, FakeChatFormat()


@pytest.fixture
def live(served: tuple[WithVectors, Live]) -> Live:
    return served[1]


def asked(llm: FakeLLM) -> str:
    """The prompt of the one request, as text."""
    (call,) = llm.calls
    return llm.tokenizer.decode(call.prompt.tokens)


def lines(response: httpx.Response) -> list[Any]:
    """The lines of a stream."""
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.content.endswith(b"\n")
    return [json.loads(line) for line in response.content.splitlines()]


def text_of(line: dict[str, Any]) -> str:
    message = line.get("message")
    if message is None:
        return str(line["response"])
    assert message.keys() == {"role", "content"}
    return str(message["content"])


def checked(line: dict[str, Any]) -> dict[str, Any]:
    """A line without its moment and its text."""
    moment = datetime.datetime.fromisoformat(line.pop("created_at").replace("Z", "+00:00"))
    assert moment.tzinfo is not None
    assert line.pop("model") == "fake"
    line.pop("message" if "message" in line else "response")
    return line


@both_routes
def test_an_answer(live: Live, llm: FakeLLM, path: str, body: dict[str, Any]) -> None:
    answer = live.post(path, model="any", **body, stream=False, keep_alive="5m").json()
    assert text_of(answer) == "hello"
    assert 0 < answer.pop("total_duration") < 60_000_000_000
    assert checked(answer) == {"done": True, **COUNTS}
    assert asked(llm) == "user: hi\n"


@both_routes
def test_a_stream_is_the_default(live: Live, llm: FakeLLM, path: str, body: dict[str, Any]) -> None:
    *pieces, last = lines(live.post(path, **body))
    assert [text_of(line) for line in pieces] == ["hel", "lo"]
    assert [checked(line) for line in pieces] == [{"done": False}] * 2
    assert text_of(last) == ""
    last.pop("total_duration")
    assert checked(last) == {"done": True, **COUNTS}


@both_routes
def test_an_answer_that_was_cut(live: Live, llm: FakeLLM, path: str, body: dict[str, Any]) -> None:
    llm.script = say("x", end=FinishReason.LENGTH, stop=None)
    assert live.post(path, **body, stream=False).json()["done_reason"] == "length"


@both_routes
def test_options(live: Live, llm: FakeLLM, path: str, body: dict[str, Any]) -> None:
    options = {
        "num_predict": 7,
        "num_ctx": 4096,
        "num_keep": 3,
        "num_thread": 8,
        "stop": ["x"],
        "seed": 4,
        "temperature": 0,
        "top_k": 3,
        "repeat_penalty": 1.2,
        "mirostat": 0,
        "tfs_z": 1.0,
        "min_p": None,
    }
    assert live.post(path, **body, options=options).status_code == 200
    params = llm.calls[0].params
    assert (params.max_tokens, params.n_keep, params.stop) == (7, 3, ("x",))
    assert (params.seed, params.temperature, params.top_k) == (4, 0, 3)
    assert params.repeat_penalty == 1.2


@pytest.mark.parametrize("value", [-1, -2])
def test_no_limit(live: Live, llm: FakeLLM, value: int) -> None:
    live.post("/api/chat", messages=MESSAGES, options={"num_predict": value})
    assert llm.calls[0].params.max_tokens is None


@both_routes
def test_formats(live: Live, llm: FakeLLM, path: str, body: dict[str, Any]) -> None:
    schema = {"type": "integer"}
    for wanted in ("", "json", schema):
        assert live.post(path, **body, format=wanted).status_code == 200
    asked_for = [call.params.json_schema for call in llm.calls]
    assert asked_for == [None, {"type": "object"}, schema]


@both_routes
def test_log_probabilities(live: Live, llm: FakeLLM, path: str, body: dict[str, Any]) -> None:
    answer = live.post(path, **body, stream=False, logprobs=True, top_logprobs=1).json()
    assert "".join(entry["token"] for entry in answer["logprobs"]) == "hello"
    assert answer["logprobs"][0]["logprob"] == -0.5
    assert answer["logprobs"][0]["top_logprobs"][0]["token"] == "h"


def test_turns_of_one_role_are_one(live: Live, llm: FakeLLM) -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "1", "images": None},
        {"role": "user", "content": "2"},
        {"role": "assistant", "content": "3", "thinking": "hm"},
        {"role": "user", "content": "4"},
    ]
    live.post("/api/chat", messages=messages)
    assert asked(llm) == "system: s\nuser: 1\n2\nassistant: 3\nuser: 4\n"


def test_what_was_dropped_is_said(live: Live, llm: FakeLLM) -> None:
    messages = [{"role": r, "content": "x"} for r in ["user", "user", "assistant"] * 2 + ["user"]]
    answer = live.post("/api/chat", messages=messages, truncate=True, stream=False).json()
    assert answer["dropped_messages"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({"prompt": "hi", "system": "s", "template": ""}, "system: s\nuser: hi\n"),
        ({"prompt": "hi", "raw": True}, "hi"),
        ({"prompt": "a", "suffix": "b"}, "<a|b>"),
        ({"prompt": "a", "suffix": ""}, "user: a\n"),
    ],
)
def test_what_generate_asks(live: Live, llm: FakeLLM, body: dict[str, Any], prompt: str) -> None:
    assert live.post("/api/generate", **body).status_code == 200
    assert asked(llm) == prompt


def test_a_base_model_goes_on_with_the_text(live: Live, llm: FakeLLM) -> None:
    llm.chat_format = None
    assert live.post("/api/generate", prompt="hi").status_code == 200
    assert asked(llm) == "hi"
    refused = live.post("/api/generate", prompt="hi", system="s")
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("system needs a chat")


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/api/chat", {"messages": []}, {"message": {"role": "assistant", "content": ""}}),
        ("/api/generate", {"keep_alive": 0}, {"response": ""}),
    ],
)
def test_asking_nothing_says_that_the_model_is_there(
    live: Live, llm: FakeLLM, path: str, body: dict[str, Any], text: dict[str, Any]
) -> None:
    answer = live.post(path, model="any", **body).json()
    assert text.items() <= answer.items()
    assert (answer["done"], answer["done_reason"]) == (True, "load")
    assert llm.calls == []


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/chat", {"messages": MESSAGES, "optons": {}}, "unknown parameter 'optons'"),
        ("/api/chat", {"messages": MESSAGES, "options": {"num_predic": 1}}, "unknown parameter"),
        ("/api/chat", {"messages": MESSAGES, "options": {"num_predict": -5}}, "num_predict must"),
        ("/api/chat", {"messages": MESSAGES, "options": {"top_p": 2}}, "top_p must"),
        ("/api/chat", {"messages": MESSAGES, "options": 5}, "options: "),
        ("/api/chat", {"messages": MESSAGES, "format": "xml"}, "format: must be"),
        ("/api/chat", {"messages": MESSAGES, "think": True}, "think is not supported"),
        ("/api/chat", {"messages": ["hi"]}, "messages[0] must be an object"),
        ("/api/chat", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content must"),
        (
            "/api/chat",
            {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]},
            "messages[0].images is not supported: the model only reads text",
        ),
        ("/api/generate", {"prompt": "x", "images": ["aGk="]}, "images is not supported"),
        ("/api/generate", {"prompt": "x", "template": "y"}, "template is not supported"),
        ("/api/generate", {"prompt": "x", "context": [1]}, "context is not supported"),
        ("/api/generate", {"prompt": "x", "raw": True, "system": "y"}, "system needs a chat"),
        ("/api/generate", {"prompt": 5}, "prompt: must be"),
    ],
)
def test_a_clients_mistake(
    live: Live, llm: FakeLLM, path: str, body: dict[str, Any], message: str
) -> None:
    response = live.post(path, **body)
    assert response.status_code == 400
    assert response.json().keys() == {"error"}
    assert response.json()["error"].startswith(message), response.json()
    assert llm.calls == []


@both_routes
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ContextLengthError(99, 64), 400),
        (errors.UnsupportedError("not this model"), 501),
        (errors.QueueFullError("full"), 503),
    ],
)
def test_errors_before_the_answer(
    live: Live, llm: FakeLLM, path: str, body: dict[str, Any], error: Exception, status: int
) -> None:
    llm.error = error
    response = live.post(path, **body)
    assert response.status_code == status
    assert response.json() == {"error": str(error)}


@both_routes
def test_a_failure_midway(live: Live, llm: FakeLLM, path: str, body: dict[str, Any]) -> None:
    llm.script = [*say("hel")[:1], Delta(error=errors.DecodeError("decode said 1"))]
    assert lines(live.post(path, **body))[-1] == {"error": "decode said 1"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/chat", 405), ("POST", "/api/pull", 404), ("GET", "/api", 404)],
)
def test_wrong_paths_and_methods(live: Live, method: str, path: str, status: int) -> None:
    response = httpx.request(method, live.url + path, json={}, timeout=60)
    assert response.status_code == status
    assert response.json().keys() == {"error"}


def test_without_a_content_type_only_where_no_page_asks(live: Live, llm: FakeLLM) -> None:
    content = json.dumps({"messages": MESSAGES, "stream": False}).encode()

    def status(path: str, headers: dict[str, str]) -> int:
        return httpx.post(live.url + path, content=content, headers=headers, timeout=60).status_code

    for path in ("/api/chat", "/v1/chat/completions"):
        assert status(path, {}) == 200
        for origin in ("null", "http://localhost:3000", ""):
            assert status(path, {"origin": origin}) == 415
        assert status(path, {"sec-fetch-site": "cross-site"}) == 415
        assert status(path, {"content-type": ""}) == 415


def test_keys() -> None:
    with running(FakeLLM, ServerConfig(port=0, api_keys=("key",))) as live:
        refused = live.post("/api/chat", messages=MESSAGES)
        assert (refused.status_code, refused.json()) == (401, {"error": "Invalid API Key"})
        headers = {"authorization": "Bearer key"}
        assert live.post("/api/chat", headers, messages=MESSAGES).status_code == 200


# -- the model --------------------------------------------------------------------------------


def test_the_root_is_there(live: Live) -> None:
    assert live.get("/").text == "codellama is running"
    head = httpx.head(live.url, timeout=60)
    assert (head.status_code, head.content) == (200, b"")


def test_version(live: Live) -> None:
    numbers = live.get("/api/version").json()["version"].split(".")
    assert [int(number) for number in numbers] > [0, 6, 4]  # what clients demand at least


DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "0.1M",
    "quantization_level": "Q4_K_M",
}


def test_tags_and_ps(live: Live, llm: FakeLLM) -> None:
    (tag,) = live.get("/api/tags").json()["models"]
    datetime.datetime.fromisoformat(tag.pop("modified_at").replace("Z", "+00:00"))
    assert tag == {
        "name": "fake",
        "model": "fake",
        "size": llm.plan.model.weight_bytes,
        "digest": "",
        "details": DETAILS,
    }
    (loaded,) = live.get("/api/ps").json()["models"]
    assert loaded["details"] == DETAILS
    assert loaded["context_length"] == 64
    assert loaded["size"] >= loaded["size_vram"] + llm.plan.host_bytes


def test_the_digest_is_the_manifests(live: Live, llm: FakeLLM) -> None:
    path = llm.plan.model.path
    manifest = Path(f"{path}.manifest.json")
    row = {"name": path.name, "bytes": 1, "sha256": "ab" * 32}
    manifest.write_text(json.dumps({"codellama manifest": 1, "files": [row]}))
    try:
        assert live.get("/api/tags").json()["models"][0]["digest"] == "ab" * 32
    finally:
        manifest.unlink()


@pytest.mark.parametrize("field", ["model", "name"])
@pytest.mark.parametrize("name", ["fake", "fake:latest"])
def test_show(live: Live, llm: FakeLLM, field: str, name: str) -> None:
    body = live.post("/api/show", **{field: name}).json()  # type: ignore[arg-type]
    assert body["details"] == DETAILS
    assert body["capabilities"] == ["completion", "tools", "insert"]
    assert "tools" in body["template"].lower()  # by which litellm sees that it takes them
    assert ".Suffix" in body["template"]  # by which Continue sees that it can infill
    assert body["model_info"] == {
        "general.architecture": "llama",
        "general.file_type": 15,
        "a.list": None,
    }
    verbose = live.post("/api/show", model=name, verbose=True).json()
    assert verbose["model_info"]["a.list"] == [1, 2]


def test_show_knows_no_other_model(live: Live) -> None:
    response = live.post("/api/show", model="llama3")
    assert response.status_code == 404
    assert response.json()["error"].startswith("model 'llama3' not found")


# -- embeddings -------------------------------------------------------------------------------


def test_embed(live: Live, llm: WithVectors) -> None:
    body = live.post(
        "/api/embed", model="any", input=["a", "bc"], truncate=True, options={"num_ctx": 9}
    ).json()
    assert body["embeddings"] == [[3.0, 2.0], [3.0, 3.0]]
    assert (body["model"], body["prompt_eval_count"]) == ("fake", 5)
    assert body["total_duration"] > 0
    assert llm.normalize == 2
    assert live.post("/api/embed", input="a").json()["embeddings"] == [[3.0, 2.0]]


def test_the_older_embeddings(live: Live, llm: WithVectors) -> None:
    assert live.post("/api/embeddings", model="any", prompt="a").json() == {"embedding": [3.0, 2.0]}
    assert llm.normalize == -1
    assert live.post("/api/embeddings", prompt="").json() == {"embedding": [3.0, 1.0]}


def test_vectors_cannot_be_shortened(live: Live, llm: WithVectors) -> None:
    refused = live.post("/api/embed", input="a", dimensions=2)
    assert refused.json()["error"].startswith("dimensions is not supported")
