"""Bodies of the dialects that are wrong anywhere: always the client's error, never a failure, never slow."""

from __future__ import annotations

import contextlib
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from codellama.errors import CodeLlamaError
from codellama.protocol.anthropic import MessagesRequest
from codellama.protocol.mistral import FimRequest
from codellama.protocol.ollama import OllamaChatRequest, OllamaGenerateRequest
from codellama.protocol.responses import ResponsesRequest
from tests.fake_llm import FakeLLM

RECORDED = json.loads((Path(__file__).parents[1] / "data/dialect_bodies.json").read_text("utf-8"))
KINDS: dict[str, Any] = {
    "/v1/messages": MessagesRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/fim/completions": FimRequest,
    "/api/chat": OllamaChatRequest,
    "/api/generate": OllamaGenerateRequest,
}
WRONG: list[Any] = [
    None,
    True,
    0,
    -3,
    1.5,
    "",
    "x",
    [],
    {},
    [1],
    [None],
    [[]],
    {"a": 1},
    {"type": []},
]


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The ways to everything in a JSON value."""
    inner = enumerate(value) if isinstance(value, list) else ()
    for key, more in value.items() if isinstance(value, dict) else inner:
        yield (key,)
        for rest in places(more):
            yield (key, *rest)


def changed(body: Any, place: tuple[Any, ...], wrong: Any) -> Any:
    body = copy.deepcopy(body)
    target = body
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = wrong
    return body


def ask(path: str, body: Any) -> None:
    """All that happens to a body before it reaches the engine."""
    llm = FakeLLM()
    chat = KINDS[path].model_validate(body).chat()
    chat.sampling(llm.tokenizer)
    for prompt in chat.prompts(llm):
        completion = llm.generate(prompt, params=chat.sampling(llm.tokenizer))
        json.dumps(chat.reply(llm, [completion]).whole(completion.collect()))


def different() -> list[Any]:
    """A recorded body of every make: path and fields."""
    makes: dict[tuple[str, ...], Any] = {}
    for sent in RECORDED:
        if sent["path"] in KINDS:
            makes.setdefault((sent["path"], *sorted(sent["body"])), sent)
    return list(makes.values())


@pytest.mark.parametrize("sent", different(), ids=lambda sent: f"{sent['client']} {sent['path']}")
def test_whatever_is_wrong_is_the_clients_error(sent: dict[str, Any]) -> None:
    for place in places(sent["body"]):
        for wrong in WRONG:
            body = changed(sent["body"], place, wrong)
            try:
                ask(sent["path"], body)
            except (CodeLlamaError, ValidationError):
                pass
            except Exception as error:
                raise AssertionError(f"{place} {wrong!r}") from error


def seconds(path: str, body: Any) -> float:
    """How long it takes to read a body, or to find that it is wrong."""
    start = time.process_time()
    with contextlib.suppress(CodeLlamaError, ValidationError):
        KINDS[path].model_validate(body).chat()
    return time.process_time() - start


MANY, LONG = 10_000, "x" * 1000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": LONG}] * MANY}),
        ("/v1/responses", {"input": [{"role": "user", "content": LONG}] * MANY}),
        ("/api/chat", {"messages": [{"role": "user", "content": LONG}] * MANY}),
        (
            "/v1/messages",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "x"}] * 20 * MANY}
                ]
            },
        ),
        (
            "/v1/responses",
            {
                "input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}]
                * MANY
            },
        ),
        (
            "/api/chat",
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": {}}}] * 1000,
                    },
                    *[{"role": "tool", "content": ""}] * (MANY - 1),
                ]
            },
        ),
    ],
)
def test_long_dialogs_are_read_in_a_moment(path: str, body: Any) -> None:
    """Ten thousand turns, or tens of thousands of parts: time grows with the size, not with its square."""
    assert seconds(path, body) < 2


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/messages", "messages"), ("/v1/responses", "input"), ("/api/chat", "messages")],
)
def test_turns_are_bounded(path: str, field: str) -> None:
    body = {field: [{"role": "user", "content": ""}] * (MANY + 1)}
    with pytest.raises(ValidationError, match=field):
        KINDS[path].model_validate(body)
