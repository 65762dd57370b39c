"""Ollama's Python library."""

from __future__ import annotations

import sys

import ollama

from clients.trials.checks import MESSAGES, TOOL, WEATHER, check_weather, run, said

OPTIONS = {"num_predict": 24, "num_ctx": 1024}


def client(url: str) -> ollama.Client:
    return ollama.Client(host=url)


def try_chat(url: str) -> None:
    reply = client(url).chat(model="any", messages=MESSAGES, options=OPTIONS, keep_alive=-1)
    assert said(reply.message.content)
    assert reply.done and reply.eval_count > 0 and reply.total_duration > 0


def try_stream(url: str) -> None:
    parts = list(client(url).chat(model="any", messages=MESSAGES, options=OPTIONS, stream=True))
    assert said("".join(part.message.content for part in parts))
    assert parts[-1].done and len(parts) > 2


def try_generate(url: str) -> None:
    reply = client(url).generate(model="any", prompt="hi", system="Be short.", options=OPTIONS)
    assert said(reply.response)
    between = client(url).generate(
        model="any", prompt="def add(a, b):\n    c", suffix="\n    return c", options=OPTIONS
    )
    assert said(between.response)


def try_format(url: str) -> None:
    reply = client(url).chat(model="any", messages=MESSAGES, format=WEATHER)
    check_weather(reply.message.content)


def try_tools(url: str) -> None:
    options = {"num_predict": 99}
    reply = client(url).chat(model="any", messages=MESSAGES, tools=[TOOL], options=options)
    if reply.message.tool_calls:
        check_weather(reply.message.tool_calls[0].function.arguments)
    else:
        assert said(reply.message.content)


def try_embed(url: str) -> None:
    reply = client(url).embed(model="any", input=["one", "two"])
    assert len(reply.embeddings) == 2 and len(reply.embeddings[0]) > 100


def try_models(url: str) -> None:
    name = client(url).list().models[0].model
    assert client(url).show(name).details.family == "llama"
    assert client(url).ps().models[0].model == name


if __name__ == "__main__":
    run(sys.modules[__name__])
