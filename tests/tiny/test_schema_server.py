"""Schemas over HTTP: pydantic models through the official client, every route, the client's own words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema  # type: ignore[import-untyped]
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, ConfigDict, Field

from codellama.llm import LLM
from codellama.models import demo_gguf
from codellama.native.model import Model
from codellama.native.settings import WeightSettings
from codellama.server.config import ServerConfig
from tests.live_server import DEADLINE_S, Live, running

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "write one"}]


class Color(Enum):
    RED = "red"
    GREEN = "gr\u00fcn"


class Address(BaseModel):
    street: str = Field(max_length=20)
    zip: str = Field(pattern=r"^\d{5}$")


class Person(BaseModel):
    name: str = Field(max_length=12)
    address: Address
    nickname: str | None = Field(default=None, max_length=12)


class Kinds(BaseModel):
    color: Color
    size: Literal["s", "m", 3]
    flag: bool


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: bool


class Pet(BaseModel):
    pet: Cat | Dog
    tagged: Annotated[Cat | Dog, Field(discriminator="kind")]


class Node(BaseModel):
    value: int = Field(ge=0, le=99)
    next: Node | None


class Times(BaseModel):
    at: datetime
    on: date
    lasting: timedelta
    id: UUID


class Bounds(BaseModel):
    age: int = Field(ge=18, lt=130)
    share: float = Field(gt=0, le=1)
    step: int = Field(multiple_of=5, ge=0, le=1000)


class Price(BaseModel):
    price: Decimal


class Lists(BaseModel):
    tags: list[Literal["a", "b"]] = Field(min_length=1, max_length=3)
    pair: tuple[int, bool]
    names: list[Annotated[str, Field(min_length=1, max_length=6)]] = Field(max_length=3)


class Quoted(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    word: str = Field(alias='a"b', max_length=5)


class Counts(BaseModel):
    counts: dict[str, int] = Field(max_length=2)


class Anything(BaseModel):
    value: Any


STRICT: list[type[BaseModel]] = [Person, Kinds, Pet, Node, Times, Bounds, Lists, Quoted]
OPEN: list[type[BaseModel]] = [*STRICT, Counts, Anything]


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


@pytest.mark.parametrize("model", STRICT, ids=lambda model: model.__name__)
def test_the_client_parses_every_answer(
    client: OpenAI, bias: dict[str, int], model: type[BaseModel]
) -> None:
    parsed = 0
    for seed in range(4):
        try:
            answer = client.chat.completions.parse(
                model="any", messages=MESSAGES, response_format=model, seed=seed, n=2,
                temperature=1, max_tokens=400, logit_bias=bias,
            )  # fmt: skip
        except openai.LengthFinishReasonError:
            continue
        for choice in answer.choices:
            assert isinstance(choice.message.parsed, model)
            parsed += 1
    assert parsed


@pytest.mark.parametrize("model", OPEN, ids=lambda model: model.__name__)
def test_a_models_own_schema_gives_what_it_takes(
    client: OpenAI, bias: dict[str, int], model: type[BaseModel]
) -> None:
    finished = 0
    for seed in range(4):
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
        model="any", messages=MESSAGES, response_format=Kinds, seed=1, logit_bias=bias
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Kinds)


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
