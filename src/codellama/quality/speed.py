"""How fast a file is here: tokens per second of prompts and answers, of one stream and of several at once.

Sizes and settings are llama-bench's defaults, so that numbers compare. A prompt is random tokens of which
nothing is cached. An answer goes on from a single token, and no token ends it. The time is what a caller
waits, from the first request to the last token, with all that the engine does in it.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from codellama.devices.processors import choose_threads, this_processors
from codellama.llm import LLM
from codellama.params import Progress

RUNS = 5
"""How often each number is measured, behind a run that warms up: llama-bench's `--repetitions`."""


@dataclass(frozen=True)
class SpeedTest:
    """What is measured: prompts and answers of so many tokens, and the most streams at once.

    `n_batch` and `n_ubatch` are those of `ModelConfig`.
    """

    n_prompt: int = 512
    n_tokens: int = 128
    n_batch: int = 2048
    n_ubatch: int = 512
    most_streams: int = 1

    def config(self) -> dict[str, Any]:
        """The fields of `ModelConfig` for a model that is measured."""
        longest = max(self.n_prompt, self.n_tokens) + 1
        return {
            "n_ctx": longest,
            # Alone on a CPU a request has plain attention; with room for two llama.cpp decides.
            "n_seq_max": max(2, self.most_streams),
            "kv_cells": longest * self.most_streams,
            "n_batch": self.n_batch,
            "n_ubatch": self.n_ubatch,
            "n_threads": choose_threads(this_processors()).n,
            "cache_ram": 0,
            "spec_type": "none",
        }


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one stream on this machine: of a prompt, and of an answer behind one token."""

    prompt: float
    decode: float
    n_prompt: int
    n_tokens: int


class SpeedMeter:
    """A model that is loaded to be measured; `load_s` are the seconds that took. Close it to free the model.

    `config` are fields of `ModelConfig` in place of the test's.
    """

    def __init__(
        self, model: Path, test: SpeedTest, progress: Progress | None = None, **config: Any
    ) -> None:
        """Raises ModelLoadError, and InvalidRequestError for a bad setting."""
        began = time.perf_counter()
        self.llm = LLM(model, progress=progress, **{**test.config(), **config})
        self.load_s = time.perf_counter() - began
        self._test = test
        self._rng = random.Random(0)

    def prompts(self, streams: int) -> float:
        """Tokens per second of so many prompts that come at once."""
        return self._rate(streams, self._test.n_prompt, 1, self._test.n_prompt)

    def answers(self, streams: int) -> float:
        """Tokens per second of so many answers that are written at once.

        An answer of n tokens takes n steps: the first decodes the single token of its prompt.
        """
        return self._rate(streams, 1, self._test.n_tokens, self._test.n_tokens)

    def _rate(self, streams: int, n_prompt: int, max_tokens: int, counted: int) -> float:
        prompts = [self._tokens(n_prompt) for _ in range(streams)]
        began = time.perf_counter()
        running = [
            self.llm.complete(
                prompt, max_tokens=max_tokens, temperature=0, ignore_eos=True, cache_prompt=False
            )
            for prompt in prompts
        ]
        for completion in running:
            completion.result()
        return streams * counted / (time.perf_counter() - began)

    def _tokens(self, count: int) -> list[int]:
        tokenizer = self.llm.tokenizer
        ids = range(
            tokenizer.n_vocab // 4, tokenizer.n_vocab // 2
        )  # text, in all vocabularies here
        return [tokenizer.bos, *self._rng.choices(ids, k=count - 1)]

    def close(self) -> None:
        """Free the model."""
        self.llm.close()


def measure_speed(model: Path, threads: int | None = None, test: SpeedTest | None = None) -> Speed:
    """The medians of `RUNS` runs with one stream. `threads` is None for one per core.

    Raises ModelLoadError if llama.cpp cannot load the model.
    """
    test = test or SpeedTest()
    config: dict[str, Any] = {"n_threads": threads} if threads else {}
    meter = SpeedMeter(model, test, **config)
    try:
        runs = [(meter.prompts(1), meter.answers(1)) for _ in range(RUNS + 1)][1:]
    finally:
        meter.close()
    prompt, decode = (median(values) for values in zip(*runs, strict=True))
    return Speed(prompt, decode, test.n_prompt, test.n_tokens)
