"""The requests of lm-evaluation-harness 0.4.13 (`local-completions`, `gguf`), as it was seen to send them,
and its reading of the answers: the log probabilities that it arrives at are the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from codellama.devices.contexts import context_settings
from codellama.engine.batch import Batch
from codellama.llm import LLM
from codellama.native.context import Context
from codellama.native.model import Model
from codellama.params import ModelConfig
from tests.live_server import Live, running

EXACT: dict[str, Any] = {"n_threads": 1, "type_k": "f32", "type_v": "f32", "flash_attn": "off"}
PAIRS = [
    ("def add(a, b):\n    return", " a + b"),
    ("def add(a, b):\n    return", " a - b * a"),
    ("# für Größe\nclass Stack", ":\n    pass"),
    ("x", "é∂"),
]


@pytest.fixture(scope="module")
def live(tiny_gguf: Path) -> Iterator[Live]:
    with running(lambda: LLM(tiny_gguf, n_seq_max=4, **EXACT)) as server:
        yield server


@pytest.fixture(scope="module")
def score(tiny_gguf: Path) -> Iterator[Any]:
    """Log probability of all tokens of a list but the first, from the model's logits."""
    with Model(tiny_gguf) as model:
        context = Context(
            model,
            context_settings(ModelConfig(n_seq_max=1, n_batch=60, n_ubatch=60, **EXACT), 1024),
        )

        def values(tokens: list[int]) -> list[float]:
            context.clear()
            found = []
            for start in range(0, len(tokens), 60):
                batch = Batch()
                batch.add(tokens[start : start + 60], start, 0)
                batch.output_rows += range(len(batch.tokens))
                context.run(batch)
                for row, token in enumerate(tokens[start + 1 : start + 61]):
                    found.append(context.logprob(row, token, 0).logprob)
            return found

        yield values
        context.close()


def encode(live: Live, text: str) -> list[int]:
    """Its `RemoteTokenizer.encode`."""
    answer = live.post("/tokenize", prompt=text, add_special_tokens=False).json()
    assert isinstance(answer["tokens"], list)
    return list(answer["tokens"])


def ask(live: Live, prompt: Any) -> list[Any]:
    """Its request for log probabilities: the choices, by index."""
    response = live.post(
        "/v1/completions",
        model="demo",
        prompt=prompt,
        temperature=0,
        max_tokens=1,
        logprobs=1,
        seed=1234,
        echo=True,
    )
    assert response.status_code == 200
    return sorted(response.json()["choices"], key=lambda choice: choice["index"])


def read(choice: Any, ctxlen: int) -> tuple[float, bool]:
    """Its `parse_logprobs`: behind the context, without the token that was generated."""
    values = choice["logprobs"]["token_logprobs"][ctxlen:-1]
    tops = choice["logprobs"]["top_logprobs"][ctxlen:-1]
    greedy = all(v == max(top.values()) for v, top in zip(values, tops, strict=True))
    return sum(values), greedy


def test_it_finds_the_tokenizer(live: Live) -> None:
    info = live.get("/tokenizer_info").json()
    assert "eos_token" in info
    assert [encode(live, info[name])[0] for name in ("bos_token", "eos_token")] == [1, 2]
    tokens = encode(live, "def f")
    assert tokens[0] != 1
    assert live.post("/detokenize", tokens=tokens).json()["prompt"].strip() == "def f"


@pytest.mark.parametrize("batch_size", [1, 4])
def test_multiple_choice(live: Live, score: Any, batch_size: int) -> None:
    encoded = [(encode(live, context), encode(live, context + end)) for context, end in PAIRS]
    found: list[tuple[float, bool]] = []
    for start in range(0, len(encoded), batch_size):
        some = encoded[start : start + batch_size]
        choices = ask(live, [whole for _, whole in some])
        found += [read(c, len(ctx)) for c, (ctx, _) in zip(choices, some, strict=True)]
    for (value, _), (context, whole) in zip(found, encoded, strict=True):
        assert value == pytest.approx(sum(score(whole)[len(context) - 1 :]), abs=1e-3)
    assert not all(greedy for _, greedy in found)


def test_what_the_model_would_say_counts_as_greedy(live: Live) -> None:
    context = encode(live, "def f(")
    said = live.post(
        "/completion", prompt=context, n_predict=8, temperature=0, return_tokens=True
    ).json()["tokens"]
    assert said
    assert read(ask(live, [context + said])[0], len(context))[1]
    other = [*said[:-1], said[-1] + 1]
    assert not read(ask(live, [context + other])[0], len(context))[1]


def test_rolling(live: Live, score: Any) -> None:
    tokens = [1, *encode(live, "def f(x):\n    return x + 1\n" * 12)]
    value, _ = read(ask(live, [tokens])[0], 1)
    assert value == pytest.approx(sum(score(tokens)), abs=1e-3)
    value, _ = read(ask(live, [[1, 70]])[0], 1)
    assert value == pytest.approx(sum(score([1, 70])), abs=1e-3)


def test_generation(live: Live) -> None:
    """Tokens, a text, a list of texts; and through the chat route."""
    options: dict[str, Any] = {
        "model": "demo",
        "max_tokens": 24,
        "temperature": 0,
        "stop": ["\n\n", "</s>"],
    }
    texts = ["def f(", "x = "]
    tokens = [encode(live, text) for text in texts]
    for prompt, n in ((tokens, 2), (texts, 2), (texts[0], 1)):
        response = live.post("/v1/completions", prompt=prompt, seed=1234, **options)
        choices = response.json()["choices"]
        assert sorted(choice["index"] for choice in choices) == list(range(n))
        assert all(isinstance(choice["text"], str) for choice in choices)
    messages = [{"role": "user", "content": "x"}]
    response = live.post("/v1/chat/completions", messages=messages, seed=1234, **options)
    assert isinstance(response.json()["choices"][0]["message"]["content"], str)


def test_the_gguf_model(live: Live, score: Any) -> None:
    """It sends texts and finds the continuation by `text_offset`."""
    for context, end in PAIRS:
        body = {"prompt": context + end, "logprobs": 10, "temperature": 0.0, "max_tokens": 1}
        response = httpx.post(live.url + "/v1/completions", json=body | {"echo": True}, timeout=60)
        logprobs = response.json()["choices"][0]["logprobs"]
        first = next(i for i, at in enumerate(logprobs["text_offset"]) if at >= len(context))
        ids = [1, *encode(live, context + end)]
        assert len(ids) == len(logprobs["tokens"]) - 1
        value = sum(logprobs["token_logprobs"][first:-1])
        assert value == pytest.approx(sum(score(ids)[first - 1 :]), abs=1e-3)
        assert "".join(logprobs["tokens"][first:-1]) == end or "bytes:" in str(logprobs["tokens"])
