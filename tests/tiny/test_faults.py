"""What fails, fails alone: every request ends once, and the engine goes on or says that it is dead."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codellama import LLM, DecodeError, EngineDeadError, FinishReason, ModelLoadError
from codellama.engine.batch import Batch
from codellama.engine.model_drafter import ModelDrafter
from codellama.native.context import Context
from codellama.native.model import Model
from tests.inside import core

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


@pytest.fixture
def llm(tiny_gguf: Path) -> Iterator[LLM]:
    with LLM(tiny_gguf, n_seq_max=3, n_threads=1, spec_draft_p_min=0.0) as model:
        yield model


def test_llama_cpp_failing_in_the_middle_of_an_answer(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = llm.complete("abc", **GREEDY).result().choices[0].tokens
    run, steps = Context.run, []

    def fail_at_fifth(self: Context, batch: Batch) -> None:
        steps.append(batch)
        if len(steps) == 5:
            raise DecodeError("llama.cpp could not decode")
        run(self, batch)

    monkeypatch.setattr(Context, "run", fail_at_fifth)
    with pytest.raises(DecodeError):
        llm.complete("a different one", **GREEDY).result()
    core(llm).engine.check_integrity()
    assert llm.complete("abc", **GREEDY).result().choices[0].tokens == want


def test_a_cache_that_is_full_although_it_cannot_be(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reservation rules it out; should the count ever be wrong, it is an error and no abort."""
    n_ctx, scheduler = 10 * llm.n_ctx, core(llm).engine._scheduler
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "cells", 10 * scheduler.cells)
        patch.setattr(core(llm), "requests", replace(core(llm).requests, n_ctx=n_ctx))
        with pytest.raises(DecodeError, match="no room in the KV cache"):
            llm.complete([5] * (n_ctx - 5), max_tokens=1).result()
    assert llm.complete("abc", **GREEDY).result().choices[0].tokens
    core(llm).engine.check_integrity()


def test_a_killed_draft_model(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(tiny_gguf, n_threads=1, spec_type="none") as plain:
        want = plain.complete("abc", **GREEDY).result().choices[0].tokens
    rng = random.Random(1)
    draft = ModelDrafter.draft

    def dies(self: ModelDrafter, wishes: Any) -> Any:
        if rng.random() < 0.5:
            self.close()
            raise RuntimeError("gone")
        return draft(self, wishes)

    monkeypatch.setattr(ModelDrafter, "draft", dies)
    with LLM(
        tiny_gguf, draft_model=tiny_gguf, spec_type="draft", spec_draft_p_min=0.0, n_threads=1
    ) as llm:
        for _ in range(3):
            assert llm.complete("abc", **GREEDY).result().choices[0].tokens == want
        left = core(llm).engine._speculator._drafters
        assert not any(isinstance(drafter, ModelDrafter) for drafter in left)
        core(llm).engine.check_integrity()


def test_no_memory_for_the_context(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Model] = []
    close = Model.close

    def count(self: Model) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(Model, "close", count)
    monkeypatch.setattr("llama_cpp.llama_init_from_model", lambda *_: None)
    with pytest.raises(ModelLoadError, match="a smaller n_ctx or n_seq_max needs less memory"):
        LLM(tiny_gguf, n_threads=1)
    assert len(closed) == 1, "the model that was loaded before is freed"


def test_a_context_beyond_repair(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Context, batch: Batch) -> None:
        raise DecodeError("broken")

    monkeypatch.setattr(Context, "run", fail)
    for i in range(6):
        with pytest.raises((DecodeError, EngineDeadError)):
            llm.complete(f"{i}", **GREEDY).result()
    with pytest.raises(EngineDeadError):
        llm.complete("x")
    assert llm.status().dead


def test_closing_ends_what_runs(tiny_gguf: Path) -> None:
    llm = LLM(tiny_gguf, n_threads=1, n_seq_max=2)
    asked = [llm.complete("abc", max_tokens=900, ignore_eos=True) for _ in range(4)]
    llm.close()
    for completion in asked:
        with contextlib.suppress(EngineDeadError):
            assert completion.result().choices[0].finish_reason is FinishReason.LENGTH
