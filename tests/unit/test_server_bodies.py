"""What every route does with a body: JSON's own rules, bounds, and names that it does not honour."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from codellama.errors import InvalidRequestError
from codellama.protocol import limits
from codellama.protocol.errors import error_body
from codellama.protocol.json_body import parse_json
from codellama.protocol.known import IGNORED, NEUTRAL
from codellama.protocol.tolerance import HEADER
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeLLM
from tests.live_server import Live, running

MESSAGES = [{"role": "user", "content": "hi"}]
GENERATION: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": "x"}),
    ("/completion", {"prompt": "x"}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
]
TOOLS: list[tuple[str, dict[str, Any]]] = [
    ("/tokenize", {"content": "x"}),
    ("/detokenize", {"tokens": [5]}),
    ("/apply-template", {"messages": MESSAGES}),
]
OTHERS: list[tuple[str, Any]] = [
    ("/v1/embeddings", {"input": "x"}),
    ("/embedding", {"content": "x"}),
    ("/lora-adapters", [{"id": 0, "scale": 0.5}]),
]

every_route = pytest.mark.parametrize(("path", "body"), [*GENERATION, *TOOLS, *OTHERS])
every_answer = pytest.mark.parametrize(("path", "body"), [*GENERATION, *TOOLS])


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with running(FakeLLM) as live:
        yield live


@pytest.fixture(scope="module")
def lenient() -> Iterator[Live]:
    with running(FakeLLM, ServerConfig(port=0, lenient=True)) as live:
        yield live


def ask(live: Live, path: str, body: dict[str, Any]) -> httpx.Response:
    return live.post(path, **body)


def send(live: Live, path: str, content: bytes) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return httpx.post(live.url + path, content=content, headers=headers, timeout=60)


def with_mark(body: Any) -> list[bytes]:
    """The body with each of its values replaced in turn, and with two more."""
    mark = "\0"
    if isinstance(body, list):
        spoiled: list[Any] = [[*body, mark], [{**body[0], "scale": mark}]]
    else:
        spoiled = [{**body, name: mark} for name in (*body, "temperature", "x")]
        spoiled.append({**body, "json_schema": {"properties": {"a": [{"const": mark}]}}})
        spoiled.append({**body, "response_format": {"type": "json_object", "schema": mark}})
        spoiled.append({**body, "logit_bias": [[5, mark]]})
    return [json.dumps(value).encode() for value in spoiled]


@every_route
def test_what_is_no_number_is_a_bad_body_wherever_it_stands(
    live: Live, path: str, body: Any
) -> None:
    spellings = itertools.cycle(["NaN", "Infinity", "-Infinity", "1e999"])
    for spelling, marked in zip(spellings, with_mark(body), strict=False):
        content = marked.replace(b'"\\u0000"', spelling.encode())
        response = send(live, path, content)
        assert response.status_code == 400, content
        assert spelling in response.json()["error"]["message"]


def nested(depth: int) -> bytes:
    return b'{"x": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@every_route
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (nested(limits.DEPTH + 1), "nested more than 100 deep"),
        (b'{"x": ' + b"1" * (limits.NUMBER_CHARS + 1) + b"}", "a number of more than 300"),
        (b'{"a": "\xff"}', "the body is not text"),
        (b"{bad", "not valid JSON"),
    ],
    ids=["depth", "number", "bytes", "json"],
)
def test_bodies_beyond_the_bounds(
    live: Live, path: str, body: Any, content: bytes, words: str
) -> None:
    response = send(live, path, content)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "nested more than 100 deep"),
        (b"[" + b"1," * limits.VALUES + b"1]", "more than 1000000 values"),
        (b'["' + b'","' * (limits.VALUES + 1) + b'"]', "more than 1000000 values"),
        (b'"' + b"x" * (limits.TEXT_CHARS + 1) + b'"', "a text of more than 8388608"),
    ],
    ids=["open", "values", "texts", "text"],
)
def test_large_bodies_beyond_the_bounds(content: bytes, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        parse_json(content)


def test_bodies_within_the_bounds() -> None:
    assert parse_json(nested(limits.DEPTH)) == json.loads(nested(limits.DEPTH))
    text = json.dumps('\\"\n[{' * 1000 + "]}")
    assert parse_json(text.encode()) == json.loads(text)
    assert parse_json(b"9" * limits.NUMBER_CHARS) == int("9" * limits.NUMBER_CHARS)
    assert parse_json(b'"' + b"x" * limits.TEXT_CHARS + b'"') == "x" * limits.TEXT_CHARS
    assert parse_json(b"\xef\xbb\xbf" + b'{"a": 1.5e300}') == {"a": 1.5e300}
    assert parse_json('{"a": "é"}'.encode("utf-16")) == {"a": "é"}


@pytest.mark.parametrize("raw", [b"", b'"\\', b'"a', b"]", b"[[}]", b"\\", b'{"a"', b"\xff\xfe"])
def test_no_json_is_an_error_of_ours(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_json(raw)
    assert error_body(caught.value)[0] == 400


@pytest.mark.parametrize(("path", "body"), GENERATION)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop", ["x"] * (limits.LIST_ITEMS + 1)),
        ("stop", "x" * (limits.STOP_CHARS + 1)),
        ("stop", ["x" * (limits.STOP_CHARS + 1)]),
        ("samplers", ["top_k"] * (limits.LIST_ITEMS + 1)),
        ("dry_sequence_breakers", ["x"] * (limits.LIST_ITEMS + 1)),
        ("stop_tokens", [5] * (limits.LIST_ITEMS + 1)),
        ("logit_bias", [[5, 0.1]] * (limits.BIASES + 1)),
        ("lora", [{"id": 0, "scale": 1}] * (limits.LIST_ITEMS + 1)),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_lists_beyond_the_bounds(
    live: Live, path: str, body: dict[str, Any], name: str, value: Any
) -> None:
    response = live.post(path, **{**body, name: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == name


def test_prompts_and_messages_beyond_the_bounds(live: Live) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("/completion", {"prompt": ["a"] * (limits.PROMPTS + 1)}, "prompt"),
        ("/v1/completions", {"prompt": [[5]] * (limits.PROMPTS + 1)}, "prompt"),
        ("/v1/chat/completions", {"messages": MESSAGES * (limits.MESSAGES + 1)}, "messages"),
        ("/apply-template", {"messages": MESSAGES * (limits.MESSAGES + 1)}, "messages"),
    ]
    for path, body, name in cases:
        response = live.post(path, **body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)


# -- names that are not honoured ---------------------------------------------------------------

HINTS: dict[str, Any] = {
    "web_search_options": {},
    "reasoning_effort": "low",
    "verbosity": "low",
    "prediction": {"type": "content", "content": "x"},
    "chat_template_kwargs": {"enable_thinking": False},
    "num_ctx": 1024,
    "speculative.type": "none",
    "speculative.ngram_size_n": 4,
}


@every_answer
def test_hints_are_ignored_and_named(live: Live, path: str, body: dict[str, Any]) -> None:
    response = live.post(path, **body, **HINTS)
    assert response.status_code == 200, response.text
    assert response.headers[HEADER] == ", ".join(HINTS)
    for slot in (-1, 0, 7, 2**40):
        response = live.post(path, **body, id_slot=slot)
        assert (response.status_code, response.headers.get(HEADER)) == (200, None)


@every_answer
def test_neutral_values_say_nothing(live: Live, path: str, body: dict[str, Any]) -> None:
    tables = {**NEUTRAL, **IGNORED}
    neutral = {name: values[0] for name, values in tables.items() if values}
    for given in (neutral, dict.fromkeys(tables)):
        response = live.post(path, **body, **given)
        assert response.status_code == 200, response.text
        assert HEADER not in response.headers


@every_answer
def test_tools_that_are_not_to_be_called(live: Live, path: str, body: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert live.post(path, **body, tools=tools, tool_choice="none").status_code == 200
    assert (
        live.post(path, **body, functions=[{"name": "f"}], function_call="none").status_code == 200
    )


def test_streams_name_what_they_ignored(live: Live) -> None:
    response = live.post("/completion", prompt="x", stream=True, num_ctx=1)
    assert response.headers[HEADER] == "num_ctx"


@every_answer
def test_a_name_that_nobody_knows(
    live: Live, lenient: Live, path: str, body: dict[str, Any]
) -> None:
    refused = live.post(path, **body, top_kk=3)
    assert refused.status_code == 400
    assert "unknown parameter 'top_kk'" in refused.json()["error"]["message"]
    response = ask(lenient, path, {**body, "top_kk": 3, "é\r\nx: y": 1})
    assert response.status_code == 200, response.text
    assert response.headers[HEADER] == "top_kk, %C3%A9%0D%0Ax%3A%20y"


def test_the_header_is_bounded(lenient: Live) -> None:
    names = {f"{i:0100}": 1 for i in range(1000)}
    header = ask(lenient, "/completion", {"prompt": "x", **names}).headers[HEADER]
    assert len(header.split(", ")) == limits.IGNORED_NAMES
    assert max(map(len, header.split(", "))) == limits.NAME_CHARS


def test_names_inside_other_fields(live: Live, lenient: Live) -> None:
    for given, param in (({"structural_tag": "x"}, "structural_tag"), ({"jsn": {}}, "jsn")):
        refused = ask(live, "/completion", {"prompt": "x", "structured_outputs": given})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    hint = {"regex": "x", "whitespace_pattern": "x", "disable_any_whitespace": False}
    told = ask(live, "/completion", {"prompt": "x", "structured_outputs": hint})
    assert told.headers[HEADER] == "structured_outputs.whitespace_pattern"
    body = {"prompt": "x", "stream_options": {"include_obfuscation": True, "colour": 1}}
    assert ask(live, "/completion", body).json()["error"]["param"] == "colour"
    assert ask(lenient, "/completion", body).headers[HEADER] == "stream_options.colour"


def test_it_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with running(FakeLLM) as live, caplog.at_level(logging.WARNING, "codellama"):
        for given in ({"verbosity": "a"}, {"verbosity": "b"}, {"verbosity": "b", "num_ctx": 3}):
            ask(live, "/completion", {"prompt": "x", **given})
    said = [r.getMessage().rpartition(": ")[2] for r in caplog.records if "ignored" in r.message]
    assert said == ["verbosity", "num_ctx"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/apply-template"])
def test_names_of_messages(live: Live, path: str) -> None:
    named = [{"role": "user", "content": "hi", "name": "ann"}]
    response = live.post(path, messages=named)
    assert response.status_code == 200, response.text
    assert response.headers[HEADER] == "messages.name"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        *(("best_of", 1, 200), ("min_tokens", 0, 200), ("image_data", [], 200)),
        *(("tfs_z", 1.0, 200), ("penalize_nl", False, 200), ("skip_special_tokens", True, 200)),
        *(("best_of", 2, 400), ("min_tokens", 5, 400), ("penalize_nl", True, 400)),
    ],
)
def test_what_other_servers_take_is_accepted_where_it_says_nothing(
    live: Live, name: str, value: Any, status: int
) -> None:
    response = live.post("/v1/chat/completions", messages=MESSAGES, **{name: value})
    assert response.status_code == status
