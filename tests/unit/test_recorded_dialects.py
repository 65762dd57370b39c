"""What real clients send in the dialects, recorded and shortened: each body is answered.

`tests/data/dialect_bodies.json` has the client and its version, the path, the Content-Type (null if it sent
none) and the body; those of open-webui were made by its own functions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from codellama.devices.planner import plan_load
from codellama.files.loadable import read_model
from codellama.params import ModelConfig
from tests.fake_vectors import WithVectors
from tests.live_server import Live, running
from tests.made_up import machine
from tests.tiny_model import write

USER = [{"role": "user", "content": "hi"}]
RECORDED = json.loads((Path(__file__).parents[1] / "data/dialect_bodies.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    path = write(tmp_path_factory.mktemp("recorded") / "tiny.gguf")
    llm = WithVectors()
    llm.opened_plan = plan_load(read_model(path), ModelConfig(), machine(64, 24))
    with running(lambda: llm) as live:
        yield live


@pytest.mark.parametrize(
    ("path", "body", "ignored"),
    [
        ("/v1/messages", {"messages": USER, "thinking": {"type": "disabled"}}, None),
        ("/v1/messages", {"messages": USER, "thinking": {"type": "adaptive"}}, "thinking"),
        (
            "/v1/messages",
            {"messages": USER, "output_config": {"effort": "low"}},
            "output_config.effort",
        ),
        (
            "/v1/messages",
            {
                "messages": [
                    *USER,
                    {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]},
                    *USER,
                ]
            },
            "messages[1].content[0]",
        ),
        ("/v1/responses", {"input": "hi", "reasoning": {"effort": "low"}}, "reasoning"),
        ("/v1/responses", {"input": "hi", "text": {"verbosity": "low"}}, "text.verbosity"),
        ("/api/chat", {"messages": USER, "options": {"num_ctx": 9}}, "options.num_ctx"),
        ("/api/chat", {"messages": USER, "keep_alive": -1}, None),
        ("/v1/fim/completions", {"prompt": "a", "metadata": {"a": 1}}, None),
    ],
)
def test_what_is_not_honoured_is_named(
    live: Live, path: str, body: dict[str, Any], ignored: str | None
) -> None:
    response = post(live, path, "application/json", body)
    assert response.status_code == 200, response.text
    assert response.headers.get("x-codellama-ignored") == ignored


def test_errors_that_no_repetition_helps_say_so(live: Live) -> None:
    for path in ("/v1/messages", "/v1/responses", "/api/chat"):
        response = post(live, path, "application/json", {"foo": 1})
        assert response.status_code == 400
        assert response.headers["x-should-retry"] == "false"


def post(live: Live, path: str, content_type: str | None, body: Any) -> httpx.Response:
    headers = {} if content_type is None else {"content-type": content_type}
    content = json.dumps(body).encode()
    return httpx.post(live.url + path, content=content, headers=headers, timeout=60)


def answer_of(path: str, body: dict[str, Any]) -> str:
    """The text of an answer that is not streamed."""
    match path:
        case "/v1/messages":
            return str(body["content"][0]["text"])
        case "/v1/responses":
            return str(body["output"][0]["content"][0]["text"])
        case "/v1/fim/completions":
            return str(body["choices"][0]["message"]["content"])
        case "/api/chat":
            return str(body["message"]["content"])
        case "/api/generate":
            return str(body["response"])
    raise AssertionError(path)


def last_of(path: str, response: httpx.Response) -> str:
    """What ends a stream: the type of its last event, or that it is done."""
    if path.startswith("/api/"):
        return f"done {json.loads(response.text.splitlines()[-1])['done']}"
    last = response.text.rstrip().rpartition("data: ")[2]
    return last if last == "[DONE]" else str(json.loads(last)["type"])


ENDS = {
    "/v1/messages": "message_stop",
    "/v1/responses": "response.completed",
    "/v1/fim/completions": "[DONE]",
    "/api/chat": "done True",
    "/api/generate": "done True",
}
WITHOUT_TEXT = {
    "/v1/messages/count_tokens": "input_tokens",
    "/v1/responses/input_tokens": "input_tokens",
    "/api/embed": "embeddings",
    "/api/embeddings": "embedding",
    "/api/show": "details",
}


@pytest.mark.parametrize("sent", RECORDED, ids=lambda sent: f"{sent['client']} {sent['path']}")
def test_what_clients_send_is_answered(live: Live, sent: dict[str, Any]) -> None:
    path, body = sent["path"], sent["body"]
    response = post(live, path, sent["content_type"], body)
    assert response.status_code == 200, response.text
    if path in WITHOUT_TEXT:
        assert WITHOUT_TEXT[path] in response.json()
    elif response.headers["content-type"] == "application/json":
        asks_nothing = path == "/api/generate" and not body.get("prompt")
        assert answer_of(path, response.json()) == ("" if asks_nothing else "hello")
    else:
        assert body.get("stream", path.startswith("/api/"))
        assert last_of(path, response) == ENDS[path]
