"""instructor: structured answers in every way that it knows for OpenAI's and Anthropic's servers."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Literal

import instructor
from instructor import Mode
from openai import OpenAI
from pydantic import BaseModel, Field

from clients.trials.checks import MESSAGES, run

CLOSED: dict[str, Any] = {"additionalProperties": False}


class Pet(BaseModel):
    """A pet."""

    model_config = {"extra": "forbid"}

    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)


def client(url: str, mode: Mode) -> Any:
    return instructor.from_openai(OpenAI(base_url=f"{url}/v1", api_key="none"), mode=mode)


def ask(url: str, mode: Mode, **insist: Any) -> None:
    made = client(url, mode).chat.completions.create(
        model="any",
        messages=MESSAGES,
        response_model=Pet,
        max_retries=1,
        max_tokens=200,
        extra_body=insist,
    )
    assert isinstance(made, Pet) and made.kind in ("cat", "dog")


def try_tools(url: str) -> None:
    ask(url, Mode.TOOLS)


def try_tools_strict(url: str) -> None:
    ask(url, Mode.TOOLS_STRICT)


def try_functions(url: str) -> None:
    ask(url, Mode.FUNCTIONS)


def try_json_schema(url: str) -> None:
    ask(url, Mode.JSON_SCHEMA)


def try_json(url: str) -> None:
    # The schema stands in the prompt only, which a toy does not read.
    ask(url, Mode.JSON, response_format={"type": "json_object", "schema": Pet.model_json_schema()})


def try_json_in_markdown(url: str) -> None:
    ask(url, Mode.MD_JSON, regex=r'```json\n\{"kind": "(cat|dog)", "age": [1-9]\}\n```')


def try_responses_tools(url: str) -> None:
    made = client(url, Mode.RESPONSES_TOOLS).chat.completions.create(
        model="any", messages=MESSAGES, response_model=Pet, max_retries=1
    )
    assert isinstance(made, Pet)


def try_parallel_tools(url: str) -> None:
    # It lets the model choose, and a toy would never call.
    insist = {"tool_choice": "required", "parallel_tool_calls": True}
    made = client(url, Mode.PARALLEL_TOOLS).chat.completions.create(
        model="any",
        messages=MESSAGES,
        response_model=Iterable[Pet],
        max_tokens=3000,
        extra_body=insist,
    )
    pets = list(made)
    assert pets and all(isinstance(pet, Pet) for pet in pets)


def try_partial(url: str) -> None:
    parts = list(
        client(url, Mode.TOOLS).chat.completions.create_partial(
            model="any", messages=MESSAGES, response_model=Pet, max_tokens=200
        )
    )
    assert parts[-1].kind in ("cat", "dog")


def try_iterable(url: str) -> None:
    # Its own schema allows an empty object, which is all that a toy would write.
    pets = {"type": "array", "items": Pet.model_json_schema(), "minItems": 2, "maxItems": 3}
    schema = {"type": "object", "properties": {"tasks": pets}, "required": ["tasks"]}
    form = {"type": "json_schema", "json_schema": {"name": "pets", "schema": CLOSED | schema}}
    made = client(url, Mode.JSON_SCHEMA).chat.completions.create_iterable(
        model="any", messages=MESSAGES, response_model=Pet, extra_body={"response_format": form}
    )
    assert [type(pet) for pet in made] in ([Pet] * 2, [Pet] * 3)


def try_its_default(url: str) -> None:
    default = instructor.from_provider("openai/any", base_url=f"{url}/v1", api_key="none")
    made = default.chat.completions.create(messages=MESSAGES, response_model=Pet, max_tokens=200)
    assert isinstance(made, Pet)


if __name__ == "__main__":
    run(sys.modules[__name__])
