"""Context shift on a real cache: what llama.cpp's own calls give, and nobody else's answer changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from codellama import LLM, ContextLengthError, FinishReason, InvalidRequestError, UnsupportedError
from codellama.devices.contexts import context_settings
from codellama.engine.batch import Batch, Fork, Shift
from codellama.engine.request import ContextShift
from codellama.native.context import Context
from codellama.native.model import Model
from codellama.params import ModelConfig
from codellama.weights.convert import convert
from tests import tiny_model
from tests.inside import core
from tests.live_server import Live, running

N_CTX = 64
DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
PROMPT = "def add(a, b):\n    return a"
LONG = "import os\nimport sys\n\ndef add(a, b):\n    return a + "  # more than half the context


def reference(llm: LLM, prompt: str, n: int, n_keep: int = 0, n_discard: int = 0) -> list[int]:
    """What llama.cpp's own calls give: decode, draw the likeliest, and where the context is full,
    llama_memory_seq_rm and llama_memory_seq_add, as llama-server does.

    The lengths asked for here end before the first token whose lead is smaller than 0.003.
    """
    tokens = list(llm.complete_prompt(prompt).tokens)
    banned = sorted(llm.tokenizer.eog_tokens)
    with Model(llm.path) as model:
        context = Context(model, context_settings(ModelConfig(n_threads=1, n_seq_max=1), 256))
        memory = context._memory
        answer: list[int] = []
        new, n_past = tokens, 0
        while True:
            batch = Batch()
            batch.add(new, n_past, 0)
            batch.output_rows = [len(new) - 1]
            context.run(batch)
            n_past += len(new)
            logits = context.logits(len(new) - 1).copy()
            logits[banned] = -float("inf")
            answer.append(int(logits.argmax()))
            if len(answer) == n:
                context.close()
                return answer
            if n_past + 1 >= N_CTX:
                keep = n_keep + 1  # and BOS
                discard = n_discard or (n_past - keep) // 2
                llama_cpp.llama_memory_seq_rm(memory, 0, keep, keep + discard)
                llama_cpp.llama_memory_seq_add(memory, 0, keep + discard, n_past, -discard)
                n_past -= discard
            new = answer[-1:]


@pytest.fixture(scope="module", params=["none", "ngram", "draft"])
def llm(tiny_gguf: Path, request: pytest.FixtureRequest) -> Iterator[LLM]:
    options: dict[str, Any] = {"spec_type": request.param}
    if request.param == "draft":
        options |= {"draft_model": tiny_gguf, "spec_draft_p_min": 0.0}
    with LLM(tiny_gguf, n_threads=1, n_ctx=N_CTX, n_seq_max=4, **options) as model:
        yield model


@pytest.fixture(scope="module")
def demo_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.gguf"
    convert(DEMO, path, "Q8_0", threads=2)
    return path


def tokens(llm: LLM, prompt: str, n: int | None, **params: Any) -> list[int]:
    result = llm.complete(prompt, max_tokens=n, **{**GREEDY, **params}).result()
    core(llm).engine.check_integrity()
    return list(result.choices[0].tokens)


def test_without_it_an_answer_ends_with_the_context(llm: LLM) -> None:
    n_prompt = len(llm.complete_prompt(PROMPT).tokens)
    choice = llm.complete(PROMPT, max_tokens=300, **GREEDY).result().choices[0]
    assert len(choice.tokens) == N_CTX - n_prompt
    assert (choice.finish_reason, choice.truncated) == (FinishReason.LENGTH, True)
    short = llm.complete(PROMPT, max_tokens=5, **GREEDY).result().choices[0]
    assert not short.truncated


@pytest.mark.parametrize(("n_keep", "n_discard"), [(0, 0), (10, 0), (4, 7)])
def test_it_goes_on_as_llama_cpp_does(llm: LLM, n_keep: int, n_discard: int) -> None:
    options: dict[str, Any] = {"n_keep": n_keep, "n_discard": n_discard}
    plain = tokens(llm, PROMPT, None)
    got = tokens(llm, PROMPT, 130, context_shift=True, **options)
    assert len(got) == 130
    assert got[: len(plain)] == plain
    assert got == reference(llm, PROMPT, 130, **options)
    choice = llm.complete(PROMPT, max_tokens=300, context_shift=True, **GREEDY).result().choices[0]
    assert choice.truncated


def test_the_whole_prompt_stays(llm: LLM) -> None:
    n_prompt = len(llm.complete_prompt(PROMPT).tokens)
    want = reference(llm, PROMPT, 96, n_keep=n_prompt - 1)
    assert tokens(llm, PROMPT, 96, context_shift=True, n_keep=-1) == want


def test_a_neighbour_that_shares_the_prompt_is_not_changed(llm: LLM) -> None:
    """One shifts while the other holds the same cells, busy or idle; both answer as if alone."""
    want = tokens(llm, LONG, None)
    shifted = reference(llm, LONG, 150)
    idle = llm.complete(LONG, max_tokens=150, context_shift=True, **GREEDY)
    assert list(idle.result().choices[0].tokens) == shifted
    assert tokens(llm, LONG, None) == want
    for _ in range(3):
        one = llm.complete(LONG, max_tokens=150, context_shift=True, **GREEDY)
        others = [llm.complete(LONG, **GREEDY) for _ in range(3)]
        assert [list(other.result().choices[0].tokens) for other in others] == [want] * 3
        assert list(one.result().choices[0].tokens) == shifted
    core(llm).engine.check_integrity()


def test_all_choices_of_a_prompt_may_shift(llm: LLM) -> None:
    want = reference(llm, LONG, 150)
    result = llm.complete(LONG, n=4, max_tokens=150, context_shift=True, **GREEDY).result()
    assert [list(choice.tokens) for choice in result.choices] == [want] * 4


def test_moving_shared_cells_does_change_the_neighbour(tiny_gguf: Path) -> None:
    """Why cells are made exclusive first: without it, the other sequence's positions move too."""
    with Model(tiny_gguf) as model:
        context = Context(model, context_settings(ModelConfig(n_threads=1, n_seq_max=2), 256))
        batch = Batch()
        batch.add(list(range(40, 80)), 0, 0)
        context.run(batch)
        context.run(Batch([Fork(0, 1, 40), Shift(0, 4, 10)]))
        assert [context.n_cached(0), context.n_cached(1)] == [30, 30]
        context.close()


def test_a_shifted_cache_is_not_offered_as_a_prefix(llm: LLM, tiny_gguf: Path) -> None:
    kept = 1 + 5
    got = tokens(llm, PROMPT, 100, context_shift=True, n_keep=5)
    prompt = [*llm.complete_prompt(PROMPT).tokens, *got]
    del prompt[kept : len(prompt) - 30]  # about what the cache held at the end
    with LLM(tiny_gguf, n_threads=1, n_ctx=N_CTX, n_seq_max=1, spec_type="none") as fresh:
        want = fresh.complete(prompt, max_tokens=20, **GREEDY).result().choices[0].tokens
    result = llm.complete(prompt, max_tokens=20, **GREEDY).result()
    assert result.usage.cached_tokens <= kept
    assert result.choices[0].tokens == want


def test_logprobs_stop_strings_and_cancel_beyond_a_shift(llm: LLM) -> None:
    whole = (
        llm.complete(PROMPT, max_tokens=200, context_shift=True, logprobs=1, **GREEDY)
        .result()
        .choices[0]
    )
    assert [entry.token for entry in whole.logprobs] == list(whole.tokens)
    assert all(-30 < entry.logprob <= entry.top[0][1] for entry in whole.logprobs)
    stop = whole.text[-12:]
    stopped = (
        llm.complete(PROMPT, max_tokens=400, context_shift=True, stop=(stop,), **GREEDY)
        .result()
        .choices[0]
    )
    assert stopped.finish_reason is FinishReason.STOP
    assert stopped.text == whole.text[: whole.text.index(stop)]
    endless = llm.complete(PROMPT, context_shift=True, **GREEDY)
    seen = 0
    for _ in endless:
        seen += 1
        if seen == 300:
            endless.cancel()
    assert seen >= 300
    core(llm).engine.check_integrity()


def test_the_prompt_itself_must_fit(llm: LLM) -> None:
    with pytest.raises(ContextLengthError):
        llm.complete("x" * N_CTX, context_shift=True)


def test_the_model_may_be_loaded_with_it(tiny_gguf: Path) -> None:
    with LLM(
        tiny_gguf,
        n_threads=1,
        n_ctx=N_CTX,
        n_seq_max=1,
        flash_attn="on",
        context_shift=True,
        n_keep=5,
    ) as llm:
        assert tokens(llm, PROMPT, 150) == reference(llm, PROMPT, 150, n_keep=5)
        assert tokens(llm, PROMPT, 150, n_keep=0) == reference(llm, PROMPT, 150)
        assert len(tokens(llm, PROMPT, 150, context_shift=False)) < N_CTX


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type_k": "bf16"}, "bf16"),
        ({"rope_scaling": "yarn", "rope_freq_scale": 0.5}, "YaRN"),
        ({"yarn_ext_factor": 1.0}, "YaRN"),
        ({"yarn_attn_factor": 1.5}, "YaRN"),
    ],
)
def test_caches_that_cannot_shift(tiny_gguf: Path, options: dict[str, Any], words: str) -> None:
    """Without the check, bf16 would abort the process and YaRN would change the others' keys."""
    with pytest.raises(UnsupportedError, match=f"context_shift: .*{words}"):
        LLM(tiny_gguf, n_threads=1, n_ctx=N_CTX, context_shift=True, **options)
    with LLM(tiny_gguf, n_threads=1, n_ctx=N_CTX, n_seq_max=1, **options) as llm:
        with pytest.raises(UnsupportedError, match=words):
            llm.complete(PROMPT, context_shift=True)
        assert tokens(llm, PROMPT, 5)


def test_what_llama_cpp_says_counts_too(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "llama_memory_can_shift", lambda memory: False)
    with pytest.raises(UnsupportedError, match="context_shift: llama.cpp cannot move"):
        LLM(tiny_gguf, n_threads=1, n_ctx=N_CTX, context_shift=True)


def test_quantized_keys_that_llama_cpp_does_not_rotate(demo_gguf: Path) -> None:
    """It would crash: the demo model's heads are too small for its rotation."""
    with pytest.raises(UnsupportedError, match="context_shift: .*q8_0.*f16"):
        LLM(demo_gguf, n_threads=1, n_ctx=N_CTX, type_k="q8_0", context_shift=True)


@pytest.mark.parametrize("type_k", ["f32", "f16", "q8_0", "q4_0", "iq4_nl"])
def test_keys_of_others_are_not_touched(tmp_path: Path, type_k: str) -> None:
    """llama.cpp turns all keys at every shift, by nothing for the others; quantized ones there and back."""
    path = tiny_model.write(tmp_path / "wide.gguf", head_dim=64)
    options: dict[str, Any] = {"n_threads": 1, "n_ctx": 256, "spec_type": "none", "type_k": type_k}
    options["cache_ram"] = 0  # else the others' cache would not be there
    prompt = "def fibonacci(n):\n    a, b = 0, 1\n"
    with LLM(path, **options) as llm:
        llm.complete(prompt, max_tokens=1, **GREEDY).result()
        held = llm.complete_prompt(prompt).tokens
        before = core(llm).engine.save_state(held)
        answer = llm.complete("import sys", max_tokens=700, context_shift=True, **GREEDY).result()
        assert answer.choices[0].truncated
        after = core(llm).engine.save_state(held)
    assert before is not None
    assert after is not None
    assert before is not after
    assert before.data is not None and after.data is not None
    assert bytes(before.data) == bytes(after.data)


# -- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live(tiny_gguf: Path) -> Iterator[Live]:
    with running(lambda: LLM(tiny_gguf, n_ctx=N_CTX, n_seq_max=2, n_threads=1)) as live:
        yield live


def test_llama_servers_dialect(live: Live, llm: LLM) -> None:
    body: dict[str, Any] = {"prompt": PROMPT, "n_predict": 200, "return_tokens": True, **GREEDY}
    plain = live.post("/completion", **body).json()
    assert (plain["truncated"], plain["stop_type"]) == (True, "limit")
    answer = live.post("/completion", **body, context_shift=True, n_keep=5).json()
    assert answer["tokens"] == reference(llm, PROMPT, 200, n_keep=5)
    assert (answer["truncated"], answer["tokens_predicted"]) == (True, 200)
    assert answer["generation_settings"]["n_keep"] == 5
    assert answer["generation_settings"]["context_shift"] is True
    short = live.post("/completion", **{**body, "n_predict": 3}).json()
    assert short["truncated"] is False
    assert short["generation_settings"]["context_shift"] is False


def test_openais_dialect(live: Live) -> None:
    answer = live.post(
        "/v1/completions", prompt=PROMPT, max_tokens=150, context_shift=True, **GREEDY
    ).json()
    assert answer["usage"]["completion_tokens"] == 150
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("context_shift", "yes"),
        ("context_shift", 1),
        ("n_keep", -2),
        ("n_keep", 1.5),
        ("n_discard", -1),
    ],
)
def test_bad_values(live: Live, name: str, value: Any) -> None:
    answer = live.post("/completion", prompt="x", **{name: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name


@pytest.mark.parametrize(
    ("name", "value"),
    [("context_shift", "yes"), ("context_shift", 1), ("n_keep", -2), ("n_discard", None)],
)
def test_bad_parameters(llm: LLM, name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        llm.complete("x", **{name: value})
    assert caught.value.param == name


def test_the_rule_is_llama_servers() -> None:
    assert ContextShift(n_keep=1).cut(N_CTX, N_CTX - 1) == (1, (N_CTX - 2) // 2)
