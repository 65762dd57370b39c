"""OpenAI's Python library, of several major versions."""

from __future__ import annotations

import sys
from typing import Any, Literal

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from clients.trials.checks import FORCED, MESSAGES, TOOL, WEATHER, check_weather, run, said


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    age: int


def client(url: str) -> Any:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def try_chat(url: str) -> None:
    reply = client(url).chat.completions.create(
        model="any", messages=MESSAGES, max_tokens=24, reasoning_effort="low"
    )
    assert said(reply.choices[0].message.content)
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def try_stream(url: str) -> None:
    options = {"include_usage": True}
    chunks = list(
        client(url).chat.completions.create(
            model="any", messages=MESSAGES, max_tokens=24, stream=True, stream_options=options
        )
    )
    assert said("".join(c.choices[0].delta.content or "" for c in chunks if c.choices))
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")


async def try_async(url: str) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as other:
        reply = await other.chat.completions.create(model="any", messages=MESSAGES, max_tokens=8)
    assert said(reply.choices[0].message.content)


def try_parse(url: str) -> None:
    reply = client(url).chat.completions.parse(
        model="any", messages=MESSAGES, response_format=Pet, max_tokens=99
    )
    assert isinstance(reply.choices[0].message.parsed, Pet)


def try_forced_tool(url: str) -> None:
    reply = client(url).chat.completions.create(
        model="any", messages=MESSAGES, tools=[TOOL], tool_choice=FORCED, max_tokens=99
    )
    calls = reply.choices[0].message.tool_calls
    assert calls and calls[0].function.name == "weather"
    check_weather(calls[0].function.arguments)
    again = [
        *MESSAGES,
        reply.choices[0].message,
        {"role": "tool", "tool_call_id": calls[0].id, "content": "sunny"},
    ]
    answer = client(url).chat.completions.create(
        model="any", messages=again, tools=[TOOL], tool_choice="none", max_tokens=8
    )
    assert said(answer.choices[0].message.content)


def try_streamed_tool(url: str) -> None:
    with client(url).chat.completions.stream(
        model="any", messages=MESSAGES, tools=[strict()], tool_choice="required", max_tokens=99
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls
    check_weather(message.tool_calls[0].function.arguments)


def strict() -> dict[str, Any]:
    return {**TOOL, "function": {**TOOL["function"], "strict": True}}


def try_tools_the_model_may_call(url: str) -> None:
    message = (
        client(url)
        .chat.completions.create(model="any", messages=MESSAGES, tools=[TOOL], max_tokens=60)
        .choices[0]
        .message
    )
    assert message.tool_calls or said(message.content)


def try_completions(url: str) -> None:
    reply = client(url).completions.create(
        model="any", prompt="def add(a, b):\n", suffix="\n    return c", max_tokens=16, logprobs=1
    )
    assert reply.choices[0].logprobs is not None and reply.choices[0].logprobs.token_logprobs
    two = client(url).completions.create(model="any", prompt=["a", "b"], n=2, max_tokens=2)
    assert len(two.choices) == 4


def try_embeddings(url: str) -> None:
    reply = client(url).embeddings.create(model="any", input=["one", "two"])
    assert len(reply.data) == 2
    assert abs(sum(x * x for x in reply.data[0].embedding) - 1) < 1e-3


def try_models(url: str) -> None:
    name = client(url).models.list().data[0].id
    assert client(url).models.retrieve(name).id == name


def try_too_long(url: str) -> None:
    try:
        client(url).chat.completions.create(
            model="any", messages=[{"role": "user", "content": "word " * 20000}]
        )
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded", error.code
    else:
        raise AssertionError("it was answered")


def try_responses(url: str) -> None:
    reply = client(url).responses.create(model="any", input="hi", max_output_tokens=16)
    assert said(reply.output_text)
    tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
    called = client(url).responses.create(
        model="any", input="hi", tools=[tool], tool_choice="required", max_output_tokens=99
    )
    (call,) = [item for item in called.output if item.type == "function_call"]
    check_weather(call.arguments)
    with client(url).responses.stream(model="any", input="hi", max_output_tokens=8) as stream:
        kinds = [event.type for event in stream]
    assert "response.output_text.delta" in kinds


if __name__ == "__main__":
    run(sys.modules[__name__])
