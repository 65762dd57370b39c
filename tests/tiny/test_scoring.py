"""`echo` with `logprobs`: the prompt's log probabilities are the model's own, however they were cached."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import openai
import pytest

from codellama import LLM
from tests.live_server import Live, running

TEXT = "def add(a, b):\n    return a + b\n" * 5


@pytest.fixture(scope="module")
def llm(tiny_gguf: Path) -> Iterator[LLM]:
    with LLM(tiny_gguf, n_seq_max=4, n_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def live(tiny_gguf: Path) -> Iterator[Live]:
    with running(lambda: LLM(tiny_gguf, n_seq_max=4, n_threads=1)) as server:
        yield server


def reference(path: Path, tokens: list[int]) -> list[float]:
    """All logits at once, with plain llama-cpp-python."""
    plain = llama_cpp.Llama(str(path), n_ctx=1024, logits_all=True, verbose=False, n_threads=1)
    plain.eval(tokens)
    logits = np.array(plain.scores[: len(tokens)], dtype=np.float64)
    plain.close()
    shifted = logits - logits.max(axis=1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return [float(logprobs[i, token]) for i, token in enumerate(tokens[1:])]


def test_scores_are_the_model_s(llm: LLM, tiny_gguf: Path) -> None:
    for _ in range(2):  # fresh, then cached
        completion = llm.complete(TEXT, echo=True, logprobs=2, max_tokens=0)
        tokens = list(completion.prompt.tokens)
        result = completion.result()
        choice = result.choices[0]
        assert choice.text == TEXT
        assert choice.tokens == ()
        assert [p.token for p in choice.logprobs] == tokens
        assert math.isnan(choice.logprobs[0].logprob)
        got = [p.logprob for p in choice.logprobs[1:]]
        assert got == pytest.approx(reference(tiny_gguf, tokens), abs=0.05)
        for entry in choice.logprobs[1:]:
            assert len(entry.top) == 2
            assert entry.top[0][1] >= entry.logprob - 1e-6
    assert result.usage.cached_tokens == len(tokens) - 2


def test_multiple_choice_costs_the_beginning_once(llm: LLM) -> None:
    beginning = "Question: what is the capital of France? Answer: "
    before = llm.status().prompt_tokens
    endings = ["Paris", "Lyon", "Nice", "Lille"]
    asked = [llm.complete(beginning + e, echo=True, logprobs=1, max_tokens=0) for e in endings]
    total = sum(len(c.prompt.tokens) for c in asked)
    for completion in asked:
        assert len(completion.result().choices[0].logprobs) == len(completion.prompt.tokens)
    assert llm.status().prompt_tokens - before < total / 2


def test_through_openai_s_client(live: Live) -> None:
    """What lm-evaluation-harness's local-completions asks for."""
    client = openai.OpenAI(base_url=live.url + "/v1", api_key="none")
    tokens = live.post("/tokenize", content=TEXT, add_special=True).json()["tokens"]
    answer: Any = client.completions.create(
        model="tiny",
        prompt=[tokens, tokens[:9]],
        max_tokens=1,
        echo=True,
        logprobs=1,
        temperature=0,
    )
    for choice, prompt in zip(answer.choices, (tokens, tokens[:9]), strict=True):
        logprobs = choice.logprobs
        assert len(logprobs.token_logprobs) == len(prompt) + 1
        assert logprobs.token_logprobs[0] is None
        assert logprobs.top_logprobs[0] is None
        assert all(value <= 0 for value in logprobs.token_logprobs[1:])
        assert logprobs.text_offset == sorted(logprobs.text_offset)
        for value, top in zip(logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True):
            assert value <= max(top.values()) + 1e-6
    assert answer.choices[0].text.startswith(TEXT)
    only = client.completions.create(model="tiny", prompt=TEXT, max_tokens=0, echo=True, logprobs=0)
    assert only.choices[0].text == TEXT
    stream = client.completions.create(
        model="tiny", prompt=TEXT, max_tokens=2, echo=True, logprobs=0, stream=True, temperature=0
    )
    texts, n = "", 0
    for chunk in stream:
        texts += chunk.choices[0].text
        if chunk.choices[0].logprobs is not None:
            n += len(chunk.choices[0].logprobs.tokens or [])
    assert texts.startswith(TEXT)
    assert n == len(tokens) + 2


def test_the_embedded_call_of_llama_cpp_python(llm: LLM) -> None:
    body: Any = llm.create_completion("abc", max_tokens=2, echo=True, logprobs=1, temperature=0)
    logprobs = body["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(llm.complete_prompt("abc").tokens) + 2
    assert logprobs["token_logprobs"][0] is None
