"""Fixtures for all tiers, and how long each tier took. No test downloads anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llama_cpp  # noqa: F401 - whole, before any test replaces a function in it
import pytest

from codellama.llm import LLM
from tests import tiny_model
from tests.tiers import time_per_tier


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A half-megabyte F32 model with the 70B's `<step>` and the infill tags."""
    return tiny_model.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_llm(tiny_gguf: Path) -> Iterator[LLM]:
    """The tiny model, loaded once with eight slots."""
    with LLM(tiny_gguf, n_seq_max=8, n_threads=1) as llm:
        yield llm


@pytest.fixture(scope="session")
def real_vocab() -> Path:
    """The real Llama vocabulary; skips where it is not to be had."""
    path = tiny_model.real_vocabulary()
    if path is None:
        pytest.skip("no Llama vocabulary: set CODELLAMA_REAL_VOCAB to ggml-vocab-llama-spm.gguf")
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what the time went to."""
    stats = terminalreporter.stats.values()
    reports = [r for group in stats for r in group if isinstance(r, pytest.TestReport)]
    if reports:
        terminalreporter.write_sep("=", "time per tier")
        for line in time_per_tier(reports):
            terminalreporter.write_line(line)
