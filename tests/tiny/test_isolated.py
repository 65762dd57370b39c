"""An engine in a process of its own: the same answers, and what becomes of them when it is killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from codellama import LLM, SamplingParams
from codellama.engine.request import FinishReason
from codellama.errors import (
    CheckpointError,
    ContextLengthError,
    EngineDeadError,
    GrammarError,
    InvalidRequestError,
    UnsupportedError,
)
from codellama.native.hooks import TokenHooks
from codellama.running import isolated
from codellama.running.engine_process import EngineProcess
from codellama.running.isolated import IsolatedCore
from codellama.running.kv_file import StaleStateError
from codellama.running.records import Start
from codellama.server.config import ServerConfig
from tests import tiny_model
from tests.live_server import Live, running, wait_until
from tests.lora_file import write_adapter

CONFIG: dict[str, Any] = {"n_ctx": 256, "n_seq_max": 2, "n_threads": 1, "embeddings": True}
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


def process(llm: LLM) -> int:
    """The number of the engine's process."""
    assert isinstance(llm._core, IsolatedCore)
    return llm._core.pid


def kill(llm: LLM) -> None:
    os.kill(process(llm), signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def adapter(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lora") / "other.gguf"
    write_adapter(path, 1)
    return path


@pytest.fixture(scope="module")
def here(tiny_gguf: Path, adapter: Path) -> Iterator[LLM]:
    with LLM(tiny_gguf, lora=[(adapter, 0.0)], **CONFIG) as llm:
        yield llm


@pytest.fixture(scope="module")
def apart(tiny_gguf: Path, adapter: Path) -> Iterator[LLM]:
    with LLM(tiny_gguf, lora=[(adapter, 0.0)], isolate=True, **CONFIG) as llm:
        yield llm


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"seed": 7, "n": 2},
        {"temperature": 0, "echo": True, "logprobs": 2},
        {"seed": 3, "best_of": 3},
        {"temperature": 0, "json_schema": {"type": "integer"}},
        {"temperature": 0, "lora": {"other": 1.0}},
        {"temperature": 0, "logit_bias": {100: 2.0}, "stop": ["\x03"]},
    ],
    ids=str,
)
def test_the_answer_is_that_of_the_engine_here(
    here: LLM, apart: LLM, options: dict[str, Any]
) -> None:
    told = [llm.complete("def f(x):", max_tokens=12, **options).result() for llm in (here, apart)]
    for a, b in zip(told[0].choices, told[1].choices, strict=True):
        assert (a.text, a.tokens, a.finish_reason, a.stop) == (
            b.text,
            b.tokens,
            b.finish_reason,
            b.stop,
        )
        assert np.allclose(
            [p.logprob for p in a.logprobs], [p.logprob for p in b.logprobs], equal_nan=True
        )
    assert told[0].usage.completion_tokens == told[1].usage.completion_tokens


def test_streams_progress_and_cancelling(apart: LLM) -> None:
    asked = apart.generate(
        apart.complete_prompt("def f(x):" * 20), params=SamplingParams(**GREEDY), reports=True
    )
    deltas = []
    for _, delta in asked.events():
        deltas.append(delta)
        if len(deltas) == 5:
            asked.cancel()
    assert deltas[0].processed is not None
    assert deltas[-1].finish_reason is FinishReason.CANCELLED
    assert apart.status().n_running == 0


def test_what_is_wrong_is_raised_at_once(apart: LLM) -> None:
    with pytest.raises(ContextLengthError):
        apart.complete("x" * 400)
    with pytest.raises(GrammarError):
        apart.complete("x", grammar="no grammar")
    with pytest.raises(InvalidRequestError, match="no adapter"):
        apart.set_adapters({"nobody": 1.0})
    hooks = TokenHooks(processors=(lambda ids, logits: logits,))
    with pytest.raises(UnsupportedError, match="isolate=False"):
        apart.generate(apart.complete_prompt("x"), params=SamplingParams(), hooks=hooks)
    apart.check(SamplingParams())


def test_vectors_states_slots_and_adapters(here: LLM, apart: LLM, tmp_path: Path) -> None:
    vectors = [llm.embeddings([llm.complete_prompt("a text")]).result() for llm in (here, apart)]
    assert np.allclose(vectors[0].vectors[0], vectors[1].vectors[0])
    tokens = apart.complete_prompt("def f(x):").tokens
    apart.complete(tokens, max_tokens=4, temperature=0).result()
    assert apart.save_state(tokens, tmp_path / "state.kv")
    apart.load_state(tmp_path / "state.kv")
    with pytest.raises(StaleStateError):
        apart.load_state(tmp_path / "nothing.kv")
    used = next(slot for slot in apart.slots.status() if slot.tokens)
    assert apart.slots.save_slot(used.id, tmp_path / "slot.kv") == len(used.tokens)
    assert apart.slots.erase_slot(used.id) == len(used.tokens)
    assert apart.slots.restore_slot(used.id, tmp_path / "slot.kv") == len(used.tokens)
    apart.set_adapters({"other": 0.5})
    assert [one.scale for one in apart.adapters] == [0.5]
    apart.set_adapters({})
    apart.warm_up()
    assert apart.plan.to_json()["layers"] == here.plan.to_json()["layers"]


def test_a_file_that_does_not_load_is_the_same_error(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="^lora: "):
        LLM(tiny_gguf, isolate=True, lora=[tmp_path / "none.gguf"])
    reports: list[int] = []

    def stop(done: int, total: int) -> None:
        reports.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LLM(tiny_gguf, isolate=True, progress=stop)
    assert reports


def test_a_killed_process_ends_what_has_begun_and_nothing_else(tiny_gguf: Path) -> None:
    with LLM(tiny_gguf, isolate=True, n_ctx=256, n_seq_max=1, n_threads=1) as llm:
        whole = llm.complete("def g(x):", max_tokens=8, **GREEDY).result()
        begun = llm.complete("def f(x):", max_tokens=240, **GREEDY)
        events = begun.events()
        next(events)
        waits = llm.complete("def g(x):", max_tokens=8, **GREEDY)
        cancelled = llm.complete("def h(x):", max_tokens=8, **GREEDY)
        first = process(llm)
        kill(llm)
        with pytest.raises(EngineDeadError, match="ended in the middle of this answer"):
            for _ in events:
                pass
        assert "being started again" in str(llm.problem)
        with pytest.raises(EngineDeadError, match="started again"):
            llm.complete("x")
        cancelled.cancel()
        assert waits.result().choices == whole.choices, "nobody can tell that it was asked twice"
        assert cancelled.result().choices[0].finish_reason is FinishReason.CANCELLED
        assert llm.problem is None
        assert process(llm) != first
        last = process(llm)
    assert not is_alive(first)
    assert not is_alive(last)


def test_a_closed_model_leaves_no_process(tiny_gguf: Path) -> None:
    llm = LLM(tiny_gguf, isolate=True, n_threads=1)
    pid = process(llm)
    open_one = llm.complete("def f(x):", **GREEDY)
    llm.close()
    llm.close()
    assert not is_alive(pid)
    with pytest.raises(EngineDeadError):
        open_one.result()
    with pytest.raises(EngineDeadError):
        llm.complete("x")


def test_a_model_may_be_closed_while_another_process_is_started(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[EngineProcess] = []
    closing: list[threading.Thread] = []

    def start(what: Start) -> EngineProcess:
        started.append(EngineProcess(what))
        if len(started) == 2:
            thread = threading.Thread(target=llm.close)
            thread.start()
            wait_until(is_closing)
            closing.append(thread)
        return started[-1]

    monkeypatch.setattr(isolated, "EngineProcess", start)

    def is_closing() -> bool:
        assert isinstance(llm._core, IsolatedCore)
        return llm._core._stopping.is_set()

    llm = LLM(tiny_gguf, isolate=True, **CONFIG)
    kill(llm)
    wait_until(lambda: bool(closing))
    closing[0].join(20)  # less than `close` waits for a process that does not end
    assert not closing[0].is_alive()
    assert not any(is_alive(process.pid) for process in started)


def test_the_server_says_why_and_goes_on(tmp_path: Path) -> None:
    """With the official client: a stream gets one final error, a request that waits its answer."""
    made: list[LLM] = []
    path = write_slow(tmp_path / "slow.gguf")

    def load() -> LLM:
        made.append(LLM(path, isolate=True, n_ctx=256, n_seq_max=1, n_threads=1))
        return made[-1]

    with running(load, ServerConfig(port=0)) as live:
        client = openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0)
        lost_and_found(live, client, lambda: kill(made[0]))
        assert len(made) == 1, "the model is the same, its process is another"


def write_slow(path: Path) -> Path:
    """A model that writes its answers slowly enough for something to happen meanwhile."""
    return tiny_model.write(path, ffn=2**15)


def lost_and_found(live: Live, client: openai.OpenAI, lose: Any) -> None:
    """Lose the engine in the middle of a stream, while another request waits; 503 until it is back."""
    import threading

    extra = {"ignore_eos": True}
    stream = client.completions.create(
        model="tiny", prompt="def f(x):", max_tokens=240, stream=True, extra_body=extra
    )
    next(iter(stream))
    answers: list[openai.types.Completion] = []

    def ask() -> None:
        answers.append(
            client.completions.create(
                model="tiny", prompt="def g(x):", max_tokens=8, temperature=0, extra_body=extra
            )
        )

    waits = threading.Thread(target=ask)
    waits.start()
    wait_until(lambda: live.get("/metrics").text.count("requests_deferred 1") == 1)
    lose()
    with pytest.raises(openai.APIError, match="ended in the middle of this answer"):
        for _ in stream:
            pass
    health = live.get("/health")
    if health.status_code != 200:
        assert health.status_code == 503
        assert "started again" in health.json()["error"]["message"]
    waits.join(60)
    assert answers[0].usage is not None
    assert answers[0].usage.completion_tokens == 8
    wait_until(lambda: live.get("/health").status_code == 200)
