"""`context_policy` over HTTP: what was left out is said, in a field that the official client lets through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from codellama.llm import LLM
from tests.live_server import Live, running

N_CTX = 256
SYSTEM = {"role": "system", "content": "Be brief."}


def dialog(n_pairs: int, *before: dict[str, str]) -> list[Any]:
    turns: list[Any] = list(before)
    for i in range(n_pairs):
        turns += [
            {"role": "user", "content": f"question {i}"},
            {"role": "assistant", "content": f"answer {i}"},
        ]
    return [*turns, {"role": "user", "content": "the last question"}]


@pytest.fixture(scope="module")
def live(tiny_gguf: Path) -> Iterator[Live]:
    with running(lambda: LLM(tiny_gguf, n_ctx=N_CTX, n_seq_max=2, n_threads=1)) as server:
        yield server


@pytest.fixture(scope="module")
def lenient(tiny_gguf: Path) -> Iterator[Live]:
    def load() -> LLM:
        return LLM(tiny_gguf, n_ctx=N_CTX, n_seq_max=2, n_threads=1, context_policy="drop_oldest")

    with running(load) as server:
        yield server


def ask(live: Live, messages: list[Any], policy: str | None = "drop_oldest", **more: Any) -> Any:
    client = openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0)
    body = {} if policy is None else {"context_policy": policy}
    return client.chat.completions.create(
        model="any", messages=messages, max_tokens=8, temperature=0, extra_body=body, **more
    )


@pytest.mark.parametrize("before", [[], [SYSTEM], [SYSTEM | {"role": "developer"}]])
def test_the_answer_says_what_was_dropped(live: Live, before: list[Any]) -> None:
    messages = dialog(12, *before)
    answer = ask(live, messages)
    dropped = answer.model_extra["dropped_messages"]
    first = len(before)
    assert dropped == list(range(first, first + len(dropped)))
    assert 0 < len(dropped) < 24
    assert len(dropped) % 2 == 0
    assert answer.usage.prompt_tokens <= N_CTX - 8
    kept = [message for i, message in enumerate(messages) if i not in dropped]
    alone = ask(live, kept, None)
    assert alone.choices[0].message.content == answer.choices[0].message.content
    assert alone.usage.prompt_tokens == answer.usage.prompt_tokens
    assert "dropped_messages" not in alone.model_extra
    fewer = [message for i, message in enumerate(messages) if i not in dropped[:-2]]
    assert len(ask(live, fewer).model_extra["dropped_messages"]) == 2, "no more than needed"


def test_a_stream_says_it_in_its_first_chunk(live: Live) -> None:
    messages = dialog(12, SYSTEM)
    whole = ask(live, messages)
    chunks = list(ask(live, messages, stream=True, n=2))
    told = [chunk.model_extra.get("dropped_messages") for chunk in chunks]
    assert told[0] == whole.model_extra["dropped_messages"]
    assert told[1:] == [None] * (len(chunks) - 1)
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [whole.choices[0].message.content] * 2


def test_a_dialog_that_fits_loses_nothing(live: Live) -> None:
    answer = ask(live, dialog(1))
    assert "dropped_messages" not in answer.model_extra
    assert (
        answer.choices[0].message.content == ask(live, dialog(1), None).choices[0].message.content
    )


@pytest.mark.parametrize("policy", [None, "error"])
def test_by_default_it_is_an_error(live: Live, policy: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as info:
        ask(live, dialog(12), policy)
    assert info.value.type == "exceed_context_size_error"


@pytest.mark.parametrize("policy", ["shift", "", 1])
def test_an_unknown_policy_is_named(live: Live, policy: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="context_policy") as info:
        ask(live, dialog(1), policy)
    assert (info.value.status_code, info.value.param) == (400, "context_policy")


def test_the_last_question_alone_may_be_too_long(live: Live) -> None:
    messages = [*dialog(2)[:-1], {"role": "user", "content": "x" * 300}]
    with pytest.raises(openai.BadRequestError) as info:
        ask(live, messages)
    assert info.value.type == "exceed_context_size_error"


def test_completions_have_no_such_field(live: Live) -> None:
    response = live.post("/v1/completions", prompt="x", context_policy="drop_oldest")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "context_policy"


def test_the_server_s_own_default(lenient: Live) -> None:
    assert ask(lenient, dialog(12), None).model_extra["dropped_messages"]
    with pytest.raises(openai.BadRequestError):
        ask(lenient, dialog(12), "error")
