"""At temperature 0 filters are left out; what is drawn is what the whole chain draws."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from codellama.devices.contexts import context_settings
from codellama.engine.batch import Batch, Trim
from codellama.native import sampler as module
from codellama.native.context import Context
from codellama.native.model import Model
from codellama.native.sampler import Sampler
from codellama.params import ModelConfig, SamplingParams

N_CTX = 128
WISHES: list[dict[str, Any]] = [
    {},
    {"top_k": 1, "min_p": 0.5, "top_p": 0.1, "top_n_sigma": 0.5},
    {"repeat_penalty": 1.8, "presence_penalty": 1.0, "repeat_last_n": -1},
    {"logit_bias": {7: 5.0, 9: float("-inf")}},
    {"dry_multiplier": 2.0, "dry_allowed_length": 1},
]


@pytest.fixture(scope="module")
def model(tiny_gguf: Path) -> Iterator[Model]:
    with Model(tiny_gguf) as model:
        yield model


@pytest.fixture(scope="module")
def context(model: Model) -> Iterator[Context]:
    context = Context(model, context_settings(ModelConfig(n_threads=1, n_seq_max=1), N_CTX))
    yield context
    context.close()


def drawn(model: Model, context: Context, params: SamplingParams, prompt: list[int]) -> list[int]:
    sampler = Sampler(params, model.tokenizer, N_CTX, prompt)
    tokens: list[int] = []
    batch = Batch(edits=[Trim(0, 0)])
    batch.add(prompt, 0, 0)
    for _ in range(12):
        batch.output_rows = [len(batch.tokens) - 1]
        context.run(batch)
        tokens.append(context.sample(sampler, batch.output_rows[0]))
        batch = Batch()
        batch.add(tokens[-1:], len(prompt) + len(tokens) - 1, 0)
    sampler.close()
    return tokens


@pytest.mark.parametrize("wish", WISHES)
def test_the_likeliest_is_drawn_with_the_filters_or_without(
    model: Model, context: Context, wish: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(temperature=0.0, **wish)
    rng = random.Random(1)
    prompts = [[rng.randrange(3, 300) for _ in range(20)] for _ in range(8)]
    short = [drawn(model, context, params, prompt) for prompt in prompts]
    monkeypatch.setattr(module, "only_likeliest", lambda params: False)
    assert [drawn(model, context, params, prompt) for prompt in prompts] == short
    assert len({tuple(tokens) for tokens in short}) > 1


@pytest.mark.parametrize(
    ("wish", "steps"),
    [
        ({}, 1),
        ({"repeat_penalty": 1.1}, 2),
        ({"temperature": 0.5}, 5),
        ({"typical_p": 0.5}, 6),
        ({"xtc_probability": 0.5}, 6),
        ({"samplers": ("top_k",)}, 2),
    ],
)
def test_what_may_take_the_likeliest_away_keeps_the_whole_chain(
    model: Model, wish: dict[str, Any], steps: int
) -> None:
    sampler = Sampler(SamplingParams(**{"temperature": 0.0, **wish}), model.tokenizer, N_CTX)
    assert llama_cpp.llama_sampler_chain_n(sampler._chain) == steps
    sampler.close()
