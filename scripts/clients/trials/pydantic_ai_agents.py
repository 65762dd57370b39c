"""pydantic-ai: agents that answer in words, in its two structured ways, and with a tool."""

from __future__ import annotations

import sys
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from clients.trials.checks import QUESTION, run, said

SETTINGS: Any = {"max_tokens": 200, "parallel_tool_calls": False}


class Pet(BaseModel):
    """A pet."""

    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)


def chat(url: str) -> OpenAIChatModel:
    return OpenAIChatModel("any", provider=provider(url))


def provider(url: str) -> OpenAIProvider:
    return OpenAIProvider(base_url=f"{url}/v1", api_key="none")


def try_words(url: str) -> None:
    agent = Agent(chat(url), instructions="Be short.", model_settings={"max_tokens": 24})
    first = agent.run_sync("hi")
    assert said(first.output)
    assert said(agent.run_sync("and now?", message_history=first.all_messages()).output)


async def try_stream(url: str) -> None:
    agent = Agent(chat(url), model_settings={"max_tokens": 24})
    async with agent.run_stream(QUESTION) as stream:
        assert said("".join([part async for part in stream.stream_text(delta=True)]))


def try_structured_output(url: str) -> None:
    for output in (Pet, NativeOutput(Pet)):
        made = Agent(chat(url), output_type=output, model_settings=SETTINGS).run_sync(QUESTION)
        assert isinstance(made.output, Pet), output


def try_tool(url: str) -> None:
    def weather(city: Literal["Paris", "Rome"]) -> str:
        """Weather."""
        return f"sunny in {city}"

    agent = Agent(chat(url), output_type=Pet, tools=[weather], model_settings=SETTINGS)
    assert isinstance(agent.run_sync("weather in Paris?").output, Pet)


def try_responses(url: str) -> None:
    model = OpenAIResponsesModel("any", provider=provider(url))
    assert said(Agent(model, model_settings={"max_tokens": 24}).run_sync(QUESTION).output)


if __name__ == "__main__":
    run(sys.modules[__name__])
