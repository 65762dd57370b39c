"""All dialects over a real (tiny) model: one answer, one count, one set of metrics, one order of roles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama.llm import LLM
from codellama.server.config import ServerConfig
from tests.live_server import Live, running

N_CTX = 1024
SYSTEM, USER = "be short", [{"role": "user", "content": "hi"}]
# Else rounding depends on what else is in a batch.
EXACT: dict[str, Any] = {"flash_attn": "off", "type_k": "f32", "type_v": "f32"}


@pytest.fixture(scope="module")
def live(tiny_gguf: Path) -> Iterator[Live]:
    def load() -> LLM:
        return LLM(tiny_gguf, n_ctx=N_CTX, n_seq_max=4, n_threads=1, embeddings=True, **EXACT)

    with running(load, ServerConfig(port=0)) as live:
        yield live


def chat(live: Live, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM}, *USER]
    body: dict[str, Any] = {"messages": messages, "max_tokens": 12, "temperature": 0, **more}
    return dict(live.post("/v1/chat/completions", **body).json())


def as_anthropic(live: Live, **more: Any) -> tuple[str, int]:
    body: dict[str, Any] = {
        "messages": USER,
        "system": SYSTEM,
        "max_tokens": 12,
        "temperature": 0,
        **more,
    }
    answer = live.post("/v1/messages", **body).json()
    usage = answer["usage"]
    read = usage["input_tokens"] + usage["cache_read_input_tokens"]
    return answer["content"][0]["text"], read


def as_response(live: Live, **more: Any) -> tuple[str, int]:
    body: dict[str, Any] = {
        "input": "hi",
        "instructions": SYSTEM,
        "max_output_tokens": 12,
        "temperature": 0,
    }
    answer = live.post("/v1/responses", **body, **more).json()
    return answer["output"][0]["content"][0]["text"], answer["usage"]["input_tokens"]


def as_ollama(live: Live, **more: Any) -> tuple[str, int]:
    messages = [{"role": "system", "content": SYSTEM}, *USER]
    body: dict[str, Any] = {"messages": messages, "options": {"num_predict": 12, "temperature": 0}}
    answer = live.post("/api/chat", **body, stream=False, **more).json()
    return answer["message"]["content"], answer["prompt_eval_count"]


def as_ollama_text(live: Live, **more: Any) -> tuple[str, int]:
    body: dict[str, Any] = {
        "prompt": "hi",
        "system": SYSTEM,
        "options": {"num_predict": 12, "temperature": 0},
    }
    answer = live.post("/api/generate", **body, stream=False, **more).json()
    return answer["response"], answer["prompt_eval_count"]


@pytest.mark.parametrize("dialect", [as_anthropic, as_response, as_ollama, as_ollama_text])
def test_every_dialect_gets_the_same_answer(live: Live, dialect: Any) -> None:
    whole = chat(live)
    text, n_prompt = dialect(live)
    assert text == whole["choices"][0]["message"]["content"]
    assert n_prompt == whole["usage"]["prompt_tokens"]


def test_every_dialect_counts_the_same(live: Live) -> None:
    n_prompt = chat(live)["usage"]["prompt_tokens"]
    messages = [{"role": "system", "content": SYSTEM}, *USER]
    counts = [
        live.post("/v1/messages/count_tokens", messages=USER, system=SYSTEM),
        live.post("/v1/responses/input_tokens", input="hi", instructions=SYSTEM),
        live.post("/v1/chat/completions/input_tokens", messages=messages),
    ]
    assert [count.json()["input_tokens"] for count in counts] == [n_prompt] * 3


def test_infilling_is_the_same(live: Live) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 8}
    body: dict[str, Any] = {"prompt": "def f(", "suffix": "):\n    return x"}
    text = live.post("/v1/completions", **body, **options).json()["choices"][0]["text"]
    fim = live.post("/v1/fim/completions", **body, **options).json()
    assert fim["choices"][0]["message"]["content"] == text
    settings = {"temperature": 0, "num_predict": 8}
    ollama = live.post("/api/generate", **body, options=settings, stream=False).json()
    assert ollama["response"] == text


def test_vectors_are_the_same(live: Live) -> None:
    vectors = live.post("/v1/embeddings", input=["a", "bc"]).json()["data"]
    ollama = live.post("/api/embed", input=["a", "bc"]).json()
    assert ollama["embeddings"] == [entry["embedding"] for entry in vectors]
    old = live.post("/api/embeddings", prompt="a").json()["embedding"]
    scale = sum(x * x for x in old) ** 0.5
    assert [x / scale for x in old] == pytest.approx(ollama["embeddings"][0], abs=1e-6)


def test_metrics_count_all_of_them(live: Live) -> None:
    def predicted() -> int:
        lines = live.get("/metrics").text.splitlines()
        return next(int(v.split()[1]) for v in lines if v.startswith("llamacpp:tokens_predicted"))

    before = predicted()
    for dialect in (as_anthropic, as_response, as_ollama):
        dialect(live)
    assert predicted() - before == 3 * chat(live)["usage"]["completion_tokens"]


def test_forced_calls_are_called(live: Live) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    tool = {"name": "f", "description": "d"}
    answer = live.post(
        "/v1/messages",
        messages=USER,
        tools=[tool | {"input_schema": schema}],
        tool_choice={"type": "tool", "name": "f"},
        max_tokens=60,
    ).json()
    (call,) = answer["content"]
    assert (call["name"], call["input"], answer["stop_reason"]) == ("f", {"a": 1}, "tool_use")
    response = live.post(
        "/v1/responses",
        input="hi",
        tools=[tool | {"type": "function", "parameters": schema}],
        tool_choice="required",
        max_output_tokens=60,
    ).json()
    (item,) = response["output"]
    assert (item["name"], json.loads(item["arguments"])) == ("f", {"a": 1})


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/messages", {"messages": []}, "messages is empty"),
        (
            "/v1/messages",
            {
                "system": SYSTEM,
                "messages": [*USER, {"role": "user", "content": "b"}, {"role": "x", "content": ""}],
            },
            "messages[2]: role must be one of",
        ),
        ("/v1/responses", {"input": []}, "input is empty"),
        (
            "/v1/responses",
            {"instructions": SYSTEM, "input": [{"role": "x", "content": ""}]},
            "input[0]: role must be one of",
        ),
        (
            "/api/chat",
            {"messages": [*USER, {"role": "system", "content": "b"}]},
            "messages[1]: expected the role assistant, got system",
        ),
    ],
)
def test_errors_name_the_clients_place(
    live: Live, path: str, body: dict[str, Any], message: str
) -> None:
    response = live.post(path, **body)
    error = response.json()["error"]
    text = error if isinstance(error, str) else error["message"]
    assert response.status_code == 400
    assert text.startswith(message), text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": "x " * 2000}]}),
        ("/v1/responses", {"input": "x " * 2000}),
        ("/api/generate", {"prompt": "x " * 2000}),
    ],
)
def test_a_prompt_that_is_too_long(live: Live, path: str, body: dict[str, Any]) -> None:
    response = live.post(path, **body)
    assert response.status_code == 400
    assert str(N_CTX) in response.text
