"""Threads over the real library: what the number changes of an answer, and what the engine tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from codellama import LLM
from codellama.engine.thread_count import ThreadCount
from codellama.weights.convert import convert

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
LONG = "def area(a1, b2):\n    return a1 - b2\n\n" * 30  # over 512 cells


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint, quantized."""
    path = tmp_path_factory.mktemp("demo") / "demo.Q4_K_M.gguf"
    convert(DEMO, path, "Q4_K_M")
    return path


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every step that may choose computes with another number of threads; those that it chose."""
    numbers, chosen = cycle([1, 3, 2]), []

    def choose(count: ThreadCount) -> int:
        chosen.append(next(numbers))
        return chosen[-1]

    monkeypatch.setattr(ThreadCount, "choose", choose)
    yield chosen


def bits(llm: LLM, **options: Any) -> list[tuple[int, float]]:
    """Tokens and log probabilities of an answer to a long prompt."""
    answer = llm.complete(LONG, logprobs=0, max_tokens=40, ignore_eos=True, **options).result()
    return [(entry.token, entry.logprob) for entry in answer.choices[0].logprobs]


def test_a_seed_repeats_whatever_the_threads(model: Path, restless: list[int]) -> None:
    """With several slots attention is llama.cpp's flash attention, which one row of which depends on."""
    with LLM(model, n_seq_max=4) as llm:
        assert llm.plan.model.context.flash_attn == "auto"
        answers = [bits(llm, seed=5, temperature=1.0) for _ in range(4)]
    assert set(restless) == {1, 2, 3}, "prompts were decoded with several numbers"
    assert all(answer == answers[0] for answer in answers)


def test_plain_attention_does_not_depend_on_threads(model: Path, restless: list[int]) -> None:
    with LLM(model, n_seq_max=1, spec_type="none") as llm:
        assert llm.plan.model.context.flash_attn == "off"
        answers = [bits(llm, temperature=0, cache_prompt=False) for _ in range(4)]
    assert len(restless) > 100
    assert all(answer == answers[0] for answer in answers)


def test_what_is_told_of_threads(tiny_gguf: Path) -> None:
    with LLM(tiny_gguf, n_threads=2, n_threads_batch=1) as llm:
        llm.complete("a", max_tokens=2).result()
        status = llm.status().threads
        assert (status.n, status.n_batch, status.changes) == (2, 1, 0)
        assert status.why == status.why_batch == "as asked for"
        assert "threads       2, for prompts 1" in str(llm.plan)
    with LLM(tiny_gguf) as llm:
        assert llm.status().threads.n == llm.plan.threads.n >= 1
        assert "one per core" in str(llm.plan)
        assert llm.plan.to_json()["threads_adapt"] is True
