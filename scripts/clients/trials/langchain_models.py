"""langchain-openai: chats, structured output in its three ways, tools, Responses, text and vectors."""

from __future__ import annotations

import sys
from typing import Any, Literal

from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

from clients.trials.checks import QUESTION, TOOL, check_weather, run, said


class Pet(BaseModel):
    """A pet."""

    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)


def chat(url: str, **more: Any) -> ChatOpenAI:
    options: dict[str, Any] = {"max_tokens": 99, "max_retries": 0, **more}
    return ChatOpenAI(model="any", base_url=f"{url}/v1", api_key="none", **options)


def try_chat(url: str) -> None:
    assert said(chat(url).invoke(QUESTION).content)
    assert said("".join(str(part.content) for part in chat(url).stream(QUESTION)))


def try_structured_output(url: str) -> None:
    for method in ("json_schema", "function_calling"):
        made = chat(url).with_structured_output(Pet, method=method).invoke(QUESTION)
        assert isinstance(made, Pet), method


def try_json_mode(url: str) -> None:
    model = chat(url, max_tokens=300, temperature=0)
    made = model.with_structured_output(None, method="json_mode").invoke("JSON: " + QUESTION)
    assert isinstance(made, dict)


def try_tools(url: str) -> None:
    (call,) = chat(url).bind_tools([TOOL], tool_choice="weather").invoke(QUESTION).tool_calls
    check_weather(call["args"])


def try_tools_the_model_may_call(url: str) -> None:
    reply = chat(url).bind_tools([TOOL]).invoke(QUESTION)
    assert reply.tool_calls or said(reply.content)


def try_responses(url: str) -> None:
    reply = chat(url, use_responses_api=True).invoke(QUESTION)
    assert said(reply.content[0]["text"])


def try_text(url: str) -> None:
    text = OpenAI(model="any", base_url=f"{url}/v1", api_key="none", max_tokens=16)
    assert said(text.invoke("def add(a, b):"))
    assert len(text.batch(["a = ", "b = "])) == 2


def try_embeddings(url: str) -> None:
    vectors = OpenAIEmbeddings(
        model="any", base_url=f"{url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    assert len(vectors.embed_documents(["a", "b"])) == 2


def try_too_long(url: str) -> None:
    try:
        chat(url).invoke("word " * 20000)
    except ContextOverflowError:
        return
    raise AssertionError("it was answered")


if __name__ == "__main__":
    run(sys.modules[__name__])
