"""What real clients sent (`scripts/try_clients.py --record`) is answered by a small model in the right shape.

Answers are cut at a few tokens, so what is checked is shape and order, and that no request is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from codellama.llm import LLM
from codellama.models import demo_gguf
from codellama.server.config import ServerConfig
from tests.live_server import Live, running

DATA = Path(__file__).parents[1] / "data"
SENT: list[dict[str, Any]] = [
    entry
    for name in ("client_bodies", "editor_bodies")
    for entry in json.loads((DATA / f"{name}.json").read_text("utf-8"))
]
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")
MOST = 60
WHOLE = {  # what a whole answer must have
    "/v1/chat/completions": {"id", "object", "created", "model", "choices", "usage"},
    "/v1/completions": {"id", "object", "created", "model", "choices", "usage"},
    "/v1/responses": {"id", "object", "status", "output", "usage"},
    "/v1/messages": {"id", "type", "role", "content", "stop_reason", "usage"},
    "/v1/messages/count_tokens": {"input_tokens"},
    "/v1/embeddings": {"object", "data", "model", "usage"},
    "/api/chat": {"model", "message", "done", "eval_count"},
    "/api/generate": {"model", "response", "done"},
    "/api/embed": {"model", "embeddings"},
    "/api/show": {"details", "model_info"},
    "/completion": {"content", "tokens_predicted", "timings"},
    "/infill": {"content", "tokens_predicted", "timings"},
    "/tokenize": {"tokens"},
    "/detokenize": {"content"},
    "/apply-template": {"prompt"},
}
LAST: dict[str, dict[str, set[Any]]] = {  # what the last event of a stream must say
    "/v1/messages": {"type": {"message_stop"}},
    "/v1/responses": {"type": {"response.completed", "response.incomplete"}},
    "/completion": {"stop": {True}},
    "/api/chat": {"done": {True}},
    "/api/generate": {"done": {True}},
}
"""Those of all other streams end with [DONE]."""


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    def load() -> LLM:
        return LLM(demo_gguf(), n_ctx=4096, n_seq_max=2, n_threads=1, embeddings=True)

    with running(load, ServerConfig(port=0, sampling={"max_tokens": MOST})) as live:
        yield live


def cut(body: dict[str, Any]) -> dict[str, Any]:
    """The same request for a shorter answer."""
    short = {name: min(body[name], MOST) for name in LIMITS if isinstance(body.get(name), int)}
    options = body.get("options")
    if isinstance(options, dict) and "num_predict" in options:
        short["options"] = {**options, "num_predict": min(options["num_predict"], MOST)}
    return body | short


def ask(live: Live, entry: dict[str, Any]) -> httpx.Response:
    kind = entry["content_type"]
    headers = {} if kind is None else {"content-type": kind}
    content = json.dumps(cut(entry["body"])).encode()
    return httpx.post(live.url + entry["path"], content=content, headers=headers, timeout=300)


def check_whole(path: str, sent: dict[str, Any], answer: Any) -> None:
    if "response_fields" in sent:
        assert answer.keys() <= set(sent["response_fields"])
        return
    assert answer.keys() >= WHOLE[path]
    if path == "/v1/chat/completions":
        for choice in answer["choices"]:
            message = choice["message"]
            assert message["role"] == "assistant" and choice["finish_reason"]
            assert isinstance(message["content"], str) or message.keys() & {
                "tool_calls",
                "function_call",
            }
    elif path == "/v1/completions":
        assert all(isinstance(choice["text"], str) for choice in answer["choices"])
    elif path == "/v1/embeddings":
        assert all(item["embedding"] for item in answer["data"])
    elif path == "/v1/messages":
        assert answer["role"] == "assistant"
        assert all(block["type"] in ("text", "tool_use") for block in answer["content"])


def check_stream(path: str, response: httpx.Response) -> None:
    if path.startswith("/api/"):
        events = [json.loads(line) for line in response.text.splitlines()]
    else:
        data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        if path not in LAST:
            assert data.pop() == "[DONE]"
        events = [json.loads(line) for line in data]
    assert len(events) > 1
    assert not any("error" in event for event in events if event.get("error") is not None)
    for name, values in LAST.get(path, {}).items():
        assert events[-1][name] in values
    if path == "/v1/chat/completions":
        ends = [c["finish_reason"] for event in events for c in event["choices"]]
        assert [end for end in ends if end]


def name_of(entry: dict[str, Any]) -> str:
    return f"{entry['client']} {entry['path']}"


@pytest.mark.parametrize("entry", SENT, ids=name_of)
def test_what_clients_send_is_answered(live: Live, entry: dict[str, Any]) -> None:
    response = ask(live, entry)
    assert response.status_code == 200, response.text
    kind = response.headers["content-type"].partition(";")[0]
    if kind == "application/json":
        check_whole(entry["path"], entry["body"], response.json())
    else:
        assert kind in ("text/event-stream", "application/x-ndjson")
        check_stream(entry["path"], response)


def test_nobody_is_named_in_what_was_recorded() -> None:
    text = json.dumps(SENT)
    assert not [trace for trace in ("/home/", "/root", "/tmp/", "@gmail", "sk-") if trace in text]
    assert {entry["client"].split()[0] for entry in SENT} >= {"openai-3", "litellm", "aider"}
