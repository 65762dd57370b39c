"""llama-index's OpenAILike."""

# It reads the annotations of functions where it cannot resolve their names, so they are no texts here.

import sys
from typing import Any, Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

from clients.trials.checks import QUESTION, run, said


class Pet(BaseModel):
    """A pet."""

    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)


def model(url: str, **more: Any) -> OpenAILike:
    options: dict[str, Any] = {"is_chat_model": True, "max_tokens": 99, "max_retries": 0, **more}
    return OpenAILike(
        model="any", api_base=f"{url}/v1", api_key="none", context_window=4096, **options
    )


def weather(city: Literal["Paris", "Rome"]) -> str:
    """Weather."""
    return city


def try_chat(url: str) -> None:
    messages = [ChatMessage(role="user", content=QUESTION)]
    assert said(model(url).chat(messages).message.content)
    assert said("".join(part.delta or "" for part in model(url).stream_chat(messages)))


def try_complete(url: str) -> None:
    assert said(model(url).complete(QUESTION).text)
    assert said(model(url, is_chat_model=False, max_tokens=16).complete("def add(a, b):").text)


def try_structured_output(url: str) -> None:
    for way in ({"should_use_structured_outputs": True}, {"is_function_calling_model": True}):
        made = model(url, **way).structured_predict(Pet, PromptTemplate(QUESTION))
        assert isinstance(made, Pet), way


def try_tools(url: str) -> None:
    calling = model(url, is_function_calling_model=True)
    tool = FunctionTool.from_defaults(weather)
    reply = calling.chat_with_tools([tool], QUESTION, tool_required=True)
    (call,) = calling.get_tool_calls_from_response(reply)
    assert call.tool_name == "weather" and call.tool_kwargs["city"] in ("Paris", "Rome")


if __name__ == "__main__":
    run(sys.modules[__name__])
