"""The server with a real (tiny) model, driven by the official `openai` client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from codellama.llm import LLM
from codellama.server.config import ServerConfig
from tests.live_server import DEADLINE_S, Live, running, wait_until

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
KEY = "the-key"
N_CTX = 256
# Else rounding depends on what else is in a batch, and a drawn token on rounding.
EXACT: dict[str, Any] = {"flash_attn": "off", "type_k": "f32", "type_v": "f32"}


@pytest.fixture(scope="module")
def live(tiny_gguf: Path) -> Iterator[Live]:
    config = ServerConfig(port=0, api_keys=(KEY,))

    def load() -> LLM:
        return LLM(tiny_gguf, n_ctx=N_CTX, n_seq_max=4, n_threads=1, **EXACT)

    with running(load, config) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=live.url + "/v1", api_key=KEY, timeout=DEADLINE_S, max_retries=0
    ) as client:
        yield client


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").id == "tiny"
    meta: Any = model.model_extra
    assert meta["meta"]["n_ctx"] == N_CTX
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="any", messages=MESSAGES, max_tokens=8, temperature=0, user="me"
    )
    assert answer.model == "tiny"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    again = client.chat.completions.create(
        model="any", messages=MESSAGES, max_tokens=8, temperature=0
    )
    assert again.choices[0].message.content == answer.choices[0].message.content
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_chat_stream_is_the_whole_answer(client: OpenAI) -> None:
    whole = client.chat.completions.create(
        model="any", messages=MESSAGES, max_tokens=12, temperature=0
    )
    text, reasons, usage = "", [], None
    for chunk in client.chat.completions.create(
        model="any",
        messages=MESSAGES,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == whole.choices[0].message.content
    assert reasons == [whole.choices[0].finish_reason]
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_completion_and_its_stream(client: OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "any",
        "prompt": "def f",
        "max_tokens": 12,
        "temperature": 0,
    }
    whole = client.completions.create(**options)
    stream = client.completions.create(**options, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
    echoed = client.completions.create(**options, echo=True)
    assert echoed.choices[0].text == "def f" + whole.choices[0].text


def test_choices_and_prompts(client: OpenAI) -> None:
    answer = client.completions.create(
        model="any", prompt=["a", "b"], n=2, max_tokens=6, temperature=1.0, seed=7
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in answer.choices]
    assert len(set(texts)) > 1
    alone = client.completions.create(
        model="any", prompt="b", n=2, max_tokens=6, temperature=1.0, seed=7
    )
    assert [choice.text for choice in alone.choices] == texts[2:]
    chat = client.chat.completions.create(
        model="any", messages=MESSAGES, n=3, max_tokens=4, temperature=1.5, seed=1
    )
    assert len({choice.message.content for choice in chat.choices}) > 1


def test_logprobs(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model="any", messages=MESSAGES, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 5
    for entry in logprobs.content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)  # greedy
    text = client.completions.create(
        model="any", prompt="def f", max_tokens=5, temperature=0, logprobs=2
    )
    legacy = text.choices[0].logprobs
    assert legacy is not None
    assert legacy.token_logprobs is not None
    assert legacy.text_offset is not None
    assert len(legacy.token_logprobs) == 5
    assert legacy.text_offset[0] == len("def f")


def test_streamed_logprobs_are_the_whole_ones(client: OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "any", "messages": MESSAGES, "max_tokens": 6, "temperature": 0,
        "logprobs": True, "top_logprobs": 1, "stop": ["no such text"],
    }  # fmt: skip
    whole = client.chat.completions.create(**options).choices[0].logprobs
    streamed: list[Any] = []
    for chunk in client.chat.completions.create(**options, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content or []
    assert whole is not None
    assert [entry.bytes for entry in streamed] == [entry.bytes for entry in whole.content or []]


def test_stop_strings(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": "any", "prompt": "abc", "max_tokens": 30, "temperature": 0}
    text = client.completions.create(**options).choices[0].text
    stop = next(c for c in text if c.isprintable() and c != "\ufffd")
    for stream in (False, True):
        answer: Any = client.completions.create(**options, stop=[stop], stream=stream)
        choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
        assert "".join(choice.text for choice in choices) == text[: text.index(stop)]
        assert choices[-1].finish_reason == "stop"


def test_json_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="any",
        messages=MESSAGES,
        max_tokens=60,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}},
        },
    )
    assert json.loads(answer.choices[0].message.content or "") in ("yes", "no")


@pytest.mark.parametrize(
    ("options", "kind", "param"),
    [
        ({"temperature": 1e39}, openai.BadRequestError, "temperature"),
        ({"extra_body": {"tempratur": 1}}, openai.BadRequestError, "tempratur"),
        ({"extra_body": {"grammar": "root ::= ("}}, openai.BadRequestError, "grammar"),
        ({"tools": [{"type": "function", "function": {"name": "f g"}}]}, openai.BadRequestError,
         "tools"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 999}]}, openai.BadRequestError, "prompt"),
        ({"logit_bias": {"99999": 1}}, openai.BadRequestError, "logit_bias"),
    ],
)  # fmt: skip
def test_errors(
    client: OpenAI, options: dict[str, Any], kind: type[openai.APIStatusError], param: str
) -> None:
    for stream in (False, True):
        with pytest.raises(kind) as caught:
            client.chat.completions.create(
                **{"model": "any", "messages": MESSAGES, "stream": stream, **options}
            )
        assert caught.value.param == param


def test_a_prompt_that_is_too_long_says_both_numbers(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="any", prompt="x" * 999)
    body: Any = caught.value.body
    assert caught.value.type == "exceed_context_size_error"
    assert (body["n_prompt_tokens"], body["n_ctx"]) == (1000, N_CTX)


def test_a_wrong_key(live: Live) -> None:
    with (
        OpenAI(base_url=live.url + "/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_async_client(live: Live) -> None:
    async def talk() -> tuple[str, str]:
        async with AsyncOpenAI(
            base_url=live.url + "/v1", api_key=KEY, timeout=DEADLINE_S
        ) as client:
            options: dict[str, Any] = {
                "model": "any", "messages": MESSAGES, "max_tokens": 8, "temperature": 0
            }  # fmt: skip
            whole = await client.chat.completions.create(**options)
            text = ""
            async for chunk in await client.chat.completions.create(**options, stream=True):
                text += chunk.choices[0].delta.content or ""
            return whole.choices[0].message.content or "", text

    whole, streamed = asyncio.run(talk())
    assert whole == streamed != ""


def test_sixteen_clients_at_once_get_what_they_would_get_alone(live: Live) -> None:
    prompts = [f"{i} + {i} =" for i in range(16)]

    async def ask(client: AsyncOpenAI, i: int) -> str:
        options: dict[str, Any] = {
            "model": "any", "prompt": prompts[i], "max_tokens": 8, "temperature": 0
        }  # fmt: skip
        if i % 2:
            whole: Any = await client.completions.create(**options)
            return str(whole.choices[0].text)
        text = ""
        async for chunk in await client.completions.create(**options, stream=True):
            text += chunk.choices[0].text
        return text

    async def all_at_once() -> list[str]:
        async with AsyncOpenAI(
            base_url=live.url + "/v1", api_key=KEY, timeout=DEADLINE_S
        ) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(16)))

    async def one_by_one() -> list[str]:
        async with AsyncOpenAI(
            base_url=live.url + "/v1", api_key=KEY, timeout=DEADLINE_S
        ) as client:
            return [await ask(client, i) for i in range(16)]

    assert asyncio.run(all_at_once()) == asyncio.run(one_by_one())


def test_a_client_that_leaves_frees_the_engine(live: Live, client: OpenAI) -> None:
    stream = client.completions.create(
        model="any", prompt="x", max_tokens=200, temperature=0, stream=True,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    next(iter(stream))
    stream.close()
    llm = live.server._serving.llm()
    wait_until(lambda: llm.status().n_running == 0, 10.0)


def test_best_of(client: OpenAI) -> None:
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 1.5, "seed": 5}
    options["extra_body"] = {"ignore_eos": True}
    best = client.completions.create(
        model="any", prompt=["ab", "c"], n=3, best_of=4, logprobs=0, **options
    )
    assert [choice.index for choice in best.choices] == [0, 1, 2, 3, 4, 5]

    def mean(choice: Any) -> float:
        return float(sum(choice.logprobs.token_logprobs) / len(choice.logprobs.tokens))

    means = [mean(choice) for choice in best.choices]
    assert means == [*sorted(means[:3], reverse=True), *sorted(means[3:], reverse=True)]
    assert best.usage is not None and best.usage.completion_tokens == 2 * 4 * 6
    plain = client.completions.create(model="any", prompt="ab", best_of=4, **options)
    assert len(plain.choices) == 1 and plain.choices[0].logprobs is None
    with pytest.raises(openai.BadRequestError, match="best_of"):
        client.completions.create(model="any", prompt="ab", best_of=2, stream=True)
