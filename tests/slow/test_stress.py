"""A thousand cancels among a thousand answers leave nothing behind, shifting or under adapters or not."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from codellama import LLM, FinishReason, QueueFullError
from codellama.running.completion import Completion
from tests.inside import core
from tests.lora_file import write_adapter

pytestmark = pytest.mark.slow


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def ask(llm: LLM, rng: random.Random) -> Completion:
    beginnings = ["def f(x):\n    return x\n" * 3, "import os\n" * 9, "x"]
    prompt = rng.choice(beginnings) + "".join(rng.choices("abc =\n", k=rng.randint(0, 40)))
    options: dict[str, Any] = {
        "max_tokens": rng.randint(1, 40),
        "temperature": rng.choice([0.0, 0.8]),
        "logprobs": rng.choice([None, None, 2]),
        "echo": rng.random() < 0.1,
        "n": rng.choice([1, 1, 1, 2]),
    }
    if llm.adapters:
        options["lora"] = rng.choice([{}, {0: 1.0}, {1: 0.5}])
    if rng.random() < 0.1:
        options |= {"context_shift": True, "max_tokens": 600, "n_keep": rng.choice([0, 20, -1])}
    if rng.random() < 0.1:
        options["grammar"] = 'root ::= ("ab" | "cd")+'
    while True:
        try:
            return llm.complete(prompt, **options)
        except QueueFullError:
            time.sleep(0.005)


def round_of(llm: LLM, rng: random.Random, n: int) -> None:
    """`n` answers read to their end and `n` cancelled at a random moment."""
    running: list[tuple[Completion, bool]] = []
    for _ in range(2 * n):
        doomed = rng.random() < 0.5
        completion = ask(llm, rng)
        running.append((completion, doomed))
        if doomed and rng.random() < 0.5:
            completion.cancel()
        while len(running) > 24:
            finish(*running.pop(rng.randrange(len(running))), rng)
    for completion, doomed in running:
        finish(completion, doomed, rng)


def finish(completion: Completion, doomed: bool, rng: random.Random) -> None:
    if doomed:
        completion.cancel()
    reasons = {c.finish_reason for c in completion.result().choices}
    allowed = {FinishReason.STOP, FinishReason.LENGTH}
    assert reasons <= (allowed | {FinishReason.CANCELLED} if doomed else allowed)


@pytest.mark.parametrize(("drafts", "adapters"), [("ngram", 0), ("draft", 0), ("ngram", 2)])
def test_a_thousand_cancels_and_a_thousand_answers(
    tiny_gguf: Path, tmp_path: Path, drafts: str, adapters: int
) -> None:
    rng = random.Random(17)
    lora = [(write_adapter(tmp_path / f"{i}.gguf", i), 0.0) for i in range(adapters)]
    options: dict[str, Any] = {"spec_type": drafts, "cache_ram": 1, "max_queue": 40, "lora": lora}
    if drafts == "draft":
        options |= {"draft_model": tiny_gguf, "spec_draft_p_min": 0.0}
    threads = threading.active_count()
    with LLM(tiny_gguf, n_ctx=512, n_seq_max=6, n_threads=1, **options) as llm:
        round_of(llm, rng, 200)  # whatever is allocated once is there now
        core(llm).engine.check_integrity()
        before = resident_mib()
        for _ in range(4):
            round_of(llm, rng, 200)
            core(llm).engine.check_integrity()
        assert llm.status().n_running == llm.status().n_waiting == 0
        assert resident_mib() - before < 16
        want = llm.complete("def f(x):", temperature=0, max_tokens=8).result()
    with LLM(tiny_gguf, n_threads=1, spec_type="none") as fresh:
        got = fresh.complete("def f(x):", temperature=0, max_tokens=8).result()
    assert got.choices[0].tokens == want.choices[0].tokens
    assert threading.active_count() == threads
