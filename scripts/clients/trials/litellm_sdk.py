"""LiteLLM: one function for the dialects of many providers."""

from __future__ import annotations

import sys
from typing import Any

import litellm

from clients.trials.checks import FORCED, MESSAGES, TOOL, check_weather, run, said

litellm.suppress_debug_info = True
CHATS = {  # provider: where it is
    **dict.fromkeys(("openai", "hosted_vllm", "llamafile", "lm_studio"), "/v1"),
    "anthropic": "",
    "ollama_chat": "",
}


def ask(url: str, provider: str, **more: Any) -> Any:
    options = {"messages": MESSAGES, "max_tokens": 24, "num_retries": 0, **more}
    base = url + CHATS.get(provider, "/v1")
    return litellm.completion(f"{provider}/any", api_base=base, api_key="none", **options)


def try_every_provider(url: str) -> None:
    for provider in CHATS:
        assert said(ask(url, provider).choices[0].message.content), provider


def try_streams(url: str) -> None:
    for provider in CHATS:
        chunks = list(ask(url, provider, stream=True))
        assert said("".join(c.choices[0].delta.content or "" for c in chunks)), provider


def try_tools(url: str) -> None:
    for provider in ("openai", "anthropic", "hosted_vllm"):
        reply = ask(url, provider, tools=[TOOL], tool_choice=FORCED, max_tokens=99)
        check_weather(reply.choices[0].message.tool_calls[0].function.arguments)


def try_text(url: str) -> None:
    options: dict[str, Any] = {"api_base": f"{url}/v1", "api_key": "none", "max_tokens": 16}
    options |= {"model": "text-completion-openai/any", "suffix": "return c"}
    reply = litellm.text_completion(prompt="def add(a, b):", **options)
    assert said(reply.choices[0].text)


def try_responses(url: str) -> None:
    reply = litellm.responses(
        model="openai/any", input="hi", api_base=f"{url}/v1", api_key="none", max_output_tokens=16
    )
    assert said(reply.output[0].content[0].text)


def try_embedding(url: str) -> None:
    reply = litellm.embedding("openai/any", input=["a"], api_base=f"{url}/v1", api_key="none")
    assert len(reply.data[0]["embedding"]) > 100


def try_too_long(url: str) -> None:
    messages = [{"role": "user", "content": "word " * 20000}]
    for provider in ("openai", "anthropic"):
        try:
            ask(url, provider, messages=messages)
        except litellm.ContextWindowExceededError:
            continue
        raise AssertionError(f"{provider}: no ContextWindowExceededError")


if __name__ == "__main__":
    run(sys.modules[__name__])
