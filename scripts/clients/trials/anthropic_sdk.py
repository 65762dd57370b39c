"""Anthropic's Python library."""

from __future__ import annotations

import sys
from typing import Any

import anthropic

from clients.trials.checks import MESSAGES, WEATHER, check_weather, run, said

TOOL: Any = {"name": "weather", "description": "Weather.", "input_schema": WEATHER}


def client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)


def try_message(url: str) -> None:
    reply = client(url).messages.create(
        model="any", max_tokens=24, system="Be short.", messages=MESSAGES, stop_sequences=["```"]
    )
    assert reply.role == "assistant" and reply.content[0].type == "text"
    assert said(reply.content[0].text)
    assert reply.usage.output_tokens > 0


def try_stream(url: str) -> None:
    with client(url).messages.stream(model="any", max_tokens=24, messages=MESSAGES) as stream:
        text = "".join(stream.text_stream)
        assert said(text)
        assert stream.get_final_message().stop_reason in ("end_turn", "max_tokens")


def try_count(url: str) -> None:
    count = client(url).messages.count_tokens(model="any", messages=MESSAGES)
    assert count.input_tokens > 5


def try_tool(url: str) -> None:
    choice: Any = {"type": "tool", "name": "weather"}
    reply = client(url).messages.create(
        model="any", max_tokens=99, messages=MESSAGES, tools=[TOOL], tool_choice=choice
    )
    (call,) = [block for block in reply.content if block.type == "tool_use"]
    check_weather(call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    again: Any = [
        *MESSAGES,
        {"role": "assistant", "content": reply.content},
        {"role": "user", "content": [result]},
    ]
    answer = client(url).messages.create(
        model="any", max_tokens=8, messages=again, tools=[TOOL], tool_choice={"type": "none"}
    )
    assert answer.content[0].type == "text" and said(answer.content[0].text)


def try_streamed_tool(url: str) -> None:
    with client(url).messages.stream(
        model="any", max_tokens=99, messages=MESSAGES, tools=[TOOL], tool_choice={"type": "any"}
    ) as stream:
        blocks = stream.get_final_message().content
    (call,) = [block for block in blocks if block.type == "tool_use"]
    check_weather(call.input)


def try_too_long(url: str) -> None:
    try:
        client(url).messages.create(
            model="any", max_tokens=8, messages=[{"role": "user", "content": "word " * 20000}]
        )
    except anthropic.BadRequestError as error:
        assert "prompt is too long" in str(error)
    else:
        raise AssertionError("it was answered")


def try_models(url: str) -> None:
    assert client(url).models.list().data[0].id


if __name__ == "__main__":
    run(sys.modules[__name__])
