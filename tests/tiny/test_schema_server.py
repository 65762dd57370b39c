"""Schemas over HTTP: pydantic models through the official client, every route, the client's own words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from codellama.llm import LLM
from codellama.models import demo_gguf
from codellama.native.model import Model
from codellama.native.settings import WeightSettings
from codellama.server.config import ServerConfig
from tests.live_server import DEADLINE_S, Live, running
from tests.pydantic_models import MODELS, Enums

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "write one"}]


class Price(BaseModel):
    price: Decimal


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    def load() -> LLM:
        return LLM(demo_gguf(), n_ctx=4096, n_seq_max=4, n_threads=1)

    with running(load, ServerConfig(port=0)) as live:
        yield live


@pytest.fixture(scope="module")
def bias() -> dict[str, int]:
    """A push towards what closes strings, lists and objects, so that answers end."""
    with Model(demo_gguf(), WeightSettings(vocab_only=True)) as model:
        ids = [model.tokenizer.token_id(text) for text in ('"', "}", "]", '"}')]
    return {str(token): 5 for token in ids if token is not None}


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=live.url + "/v1", api_key="x", timeout=DEADLINE_S, max_retries=0
    ) as client:
        yield client


@pytest.mark.parametrize("beta", [False, True], ids=["", "beta"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_client_parses_every_answer(
    client: OpenAI, bias: dict[str, int], model: type[BaseModel], beta: bool
) -> None:
    parsed = 0
    completions = client.beta.chat.completions if beta else client.chat.completions
    for seed in range(10):
        try:
            answer = completions.parse(
                model="any", messages=MESSAGES, response_format=model, seed=seed,
                temperature=1, max_tokens=400, logit_bias=bias,
            )  # fmt: skip
        except openai.LengthFinishReasonError:
            continue
        for choice in answer.choices:
            assert isinstance(choice.message.parsed, model)
            parsed += 1
        if parsed > 2:
            break
    assert parsed


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_models_own_schema_gives_what_it_takes(
    client: OpenAI, bias: dict[str, int], model: type[BaseModel]
) -> None:
    finished = 0
    for seed in range(8):
        answer = client.chat.completions.create(
            model="any", messages=MESSAGES, seed=seed, temperature=1, max_tokens=400,
            logit_bias=bias,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": model.model_json_schema()},
            },
        ).choices[0]  # fmt: skip
        if answer.finish_reason == "stop":
            model.model_validate_json(answer.message.content or "")
            finished += 1
        if finished > 1:
            break
    assert finished


def test_a_decimal_is_a_number_or_a_text_as_its_schema_says(
    client: OpenAI, bias: dict[str, int]
) -> None:
    schema = Price.model_json_schema()
    assert schema["properties"]["price"]["anyOf"] == [{"type": "number"}, {"type": "string"}]
    for seed in range(4):
        answer = client.chat.completions.create(
            model="any", messages=MESSAGES, seed=seed, temperature=1, max_tokens=400,
            logit_bias=bias,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        ).choices[0]  # fmt: skip
        if answer.finish_reason == "stop":
            jsonschema.validate(json.loads(answer.message.content or ""), schema)


def test_streams_end_in_parsed_models(client: OpenAI, bias: dict[str, int]) -> None:
    with client.chat.completions.stream(
        model="any", messages=MESSAGES, response_format=Enums, seed=1, logit_bias=bias
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Enums)


INSTRUCTOR: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "Person",
        "schema": {
            "$defs": {
                "Address": {
                    "properties": {
                        "street": {"maxLength": 20, "title": "Street", "type": "string"},
                        "zip": {"pattern": "^\\d{5}$", "title": "Zip", "type": "string"},
                    },
                    "required": ["street", "zip"],
                    "title": "Address",
                    "type": "object",
                }
            },
            "description": "A person.",
            "properties": {
                "name": {"description": "full name", "maxLength": 12, "title": "Name", "type": "string"},
                "age": {
                    "anyOf": [{"exclusiveMaximum": 150, "minimum": 0, "type": "integer"}, {"type": "null"}],
                    "default": None,
                    "title": "Age",
                },
                "kind": {"enum": ["a", "b"], "title": "Kind", "type": "string"},
                "address": {"$ref": "#/$defs/Address"},
            },
            "required": ["name", "kind", "address"],
            "title": "Person",
            "type": "object",
        },
    },
}  # fmt: skip
"""What instructor 1.17 sends in its modes JSON_SCHEMA and JSON_O1; in JSON it is a `json_object`."""
CALL = {
    "type": "object",
    "properties": {
        "name": {"const": "get_weather"},
        "arguments": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 10},
                "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
                "days": {
                    "type": "array",
                    "items": {"type": "integer"},
                    "maxItems": 2,
                    "uniqueItems": True,
                },
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
}
"""A function's call as clients write it that ask for one of several."""
CALLS = {
    "anyOf": [
        CALL,
        {
            **CALL,
            "properties": {
                "name": {"const": "stop"},
                "arguments": {"type": "object", "maxProperties": 0},
            },
        },
    ]
}


@pytest.mark.parametrize(
    "form",
    [INSTRUCTOR, {"type": "json_schema", "json_schema": {"name": "f", "schema": CALLS}}],
    ids=["instructor", "calls"],
)
def test_bodies_of_other_clients(live: Live, bias: dict[str, int], form: dict[str, Any]) -> None:
    finished = 0
    for seed in range(12):
        harder = {token: 2 * push for token, push in bias.items()}
        body: dict[str, Any] = {"response_format": form, "seed": seed, "logit_bias": harder}
        reply = live.post("/v1/chat/completions", messages=MESSAGES, max_tokens=400, **body)
        choice = reply.json()["choices"][0]
        if choice["finish_reason"] == "stop":
            value = json.loads(choice["message"]["content"])
            jsonschema.validate(value, form["json_schema"]["schema"])
            finished += 1
        if finished > 1:
            break
    assert finished


def test_any_object(client: OpenAI, bias: dict[str, int]) -> None:
    answer = client.chat.completions.create(
        model="any", messages=MESSAGES, response_format={"type": "json_object"}, seed=2,
        temperature=1, max_tokens=400, logit_bias=bias, logprobs=True, top_logprobs=2,
    ).choices[0]  # fmt: skip
    assert answer.finish_reason == "stop"
    assert isinstance(json.loads(answer.message.content or ""), dict)
    assert answer.logprobs is not None and answer.logprobs.content


FORMS: list[tuple[dict[str, Any], set[str]]] = [
    ({"json_schema": {"enum": ["a\tb"]}}, {'"a\\tb"'}),
    ({"response_format": {"type": "json_object", "schema": {"const": True}}}, {"true"}),
    ({"regex": "x{3}"}, {"xxx"}),
    ({"guided_regex": "(y|z)!"}, {"y!", "z!"}),
    ({"guided_json": {"enum": [1, 2]}}, {"1", "2"}),
    ({"guided_choice": ["yes.", "(no)\n"]}, {"yes.", "(no)\n"}),
    ({"guided_grammar": 'root ::= "g"'}, {"g"}),
    ({"structured_outputs": {"choice": ["a|b"]}}, {"a|b"}),
    ({"lark": 'start: "q" | "r"'}, {"q", "r"}),
    ({"grammar": 'root ::= "g"'}, {"g"}),
]
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": "x"}),
    ("/completion", {"prompt": "x"}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
]


@pytest.mark.parametrize(("form", "texts"), FORMS, ids=lambda v: next(iter(v)))
@pytest.mark.parametrize(("path", "body"), ROUTES, ids=lambda v: v if isinstance(v, str) else "")
def test_every_route_takes_every_form(
    live: Live, path: str, body: dict[str, Any], form: dict[str, Any], texts: set[str]
) -> None:
    reply = live.post(path, **body, **form, n=2).json()
    choices = reply if isinstance(reply, list) else reply["choices"]
    assert len(choices) == 2
    for choice in choices:
        said = choice.get("message", choice)
        assert said.get("content", said.get("text")) in texts


NESTED = {"properties": {"a": {"type": "array", "items": {"minLength": -1}}}}


@pytest.mark.parametrize(
    ("form", "param", "words"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": NESTED}}},
         "response_format", "#/properties/a/items/minLength"),
        ({"json_schema": NESTED}, "json_schema", "#/properties/a/items/minLength"),
        ({"guided_regex": "a("}, "guided_regex", "guided_regex"),
        ({"guided_json": NESTED}, "guided_json", "#/properties/a/items/minLength"),
        ({"structured_outputs": {"grammar": "start: ("}}, "structured_outputs", "structured_outputs"),
        ({"regex": "a("}, "regex", "regex"),
        ({"lark": "start: ("}, "lark", "lark"),
        ({"grammar": "root ::= " + "(" * 101 + '"a"' + ")" * 101}, "grammar", "grammar"),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_the_clients_parameter(
    live: Live, form: dict[str, Any], param: str, words: str
) -> None:
    reply = live.post("/v1/chat/completions", messages=MESSAGES, **form)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(param) and words in error["message"]


FUNCTION = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    "form",
    [
        *({"regex": "ab"}, {"grammar": 'root ::= "ab"'}, {"lark": 'start: "ab"'}),
        *({"json_schema": {"const": 1}}, {"tools": [FUNCTION], "tool_choice": "required"}),
    ],
    ids=lambda form: next(iter(form)),
)
def test_a_banned_end_is_the_clients_mistake(
    live: Live, form: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    body = {"messages": MESSAGES, **form, "ignore_eos": True}
    reply = live.post("/v1/chat/completions", **body)
    assert reply.status_code == 400
    assert reply.headers["x-should-retry"] == "false"
    assert reply.json()["error"]["param"] == "ignore_eos"
    stream = live.post("/v1/chat/completions", **body, stream=True).text
    last = json.loads(stream.strip().rpartition("data: ")[2])
    assert last["error"]["type"] == "invalid_request_error"
    assert not any(record.exc_info for record in caplog.records)
