"""LoRA adapters: several loaded, each request's own at its own scale, and nothing shared between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from codellama import LLM, DecodeError, InvalidRequestError, ModelLoadError, UnsupportedError
from codellama.cli.options import adapter
from codellama.devices.contexts import context_settings
from codellama.engine.batch import Batch
from codellama.errors import CheckpointError
from codellama.native.context import Context
from codellama.native.model import Model
from codellama.params import ModelConfig
from codellama.session import Session
from tests.inside import core
from tests.lora_file import write_adapter

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 16, "ignore_eos": True}
PROMPT = "def add(a, b):"
CHOICES: list[dict[int | str, float] | None] = [
    None, {}, {0: 1.0}, {1: 1.0}, {0: 0.5}, {"one": 0.5, "two": -1.0}
]  # fmt: skip


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("lora")
    return write_adapter(folder / "one.gguf", 1), write_adapter(folder / "two.gguf", 2)


@pytest.fixture(scope="module")
def solo(tiny_gguf: Path, adapters: tuple[Path, Path]) -> list[tuple[int, ...]]:
    """The answers to CHOICES, each from a model of its own."""
    one, two = adapters
    loaded: list[tuple[Any, ...]] = [
        (one, (two, 0.25)), (), (one,), (two,), ((one, 0.5),), ((one, 0.5), (two, -1.0))
    ]  # fmt: skip
    return [answer(tiny_gguf, *lora) for lora in loaded]


@pytest.fixture(params=["none", "ngram", "draft"])
def llm(
    tiny_gguf: Path, adapters: tuple[Path, Path], request: pytest.FixtureRequest
) -> Iterator[LLM]:
    """Both adapters, the second one at a quarter; with every kind of drafts."""
    one, two = adapters
    options: dict[str, Any] = {"spec_type": request.param}
    if request.param == "draft":
        options |= {"draft_model": tiny_gguf, "spec_draft_p_min": 0.0}
    with LLM(
        tiny_gguf, n_threads=1, n_seq_max=8, n_ctx=256, lora=(one, (two, 0.25)), **options
    ) as model:
        yield model


def answer(model: Path, *lora: Any) -> tuple[int, ...]:
    with LLM(model, n_threads=1, n_seq_max=1, n_ctx=256, lora=lora) as llm:
        return llm.complete(PROMPT, **GREEDY).result().choices[0].tokens


def test_adapters_change_answers_by_their_scale(tiny_gguf: Path, tmp_path: Path) -> None:
    one = write_adapter(tmp_path / "one.gguf", 1)
    two = write_adapter(tmp_path / "two.gguf", 2)
    plain = answer(tiny_gguf)
    assert answer(tiny_gguf, (one, 0.0)) == plain
    assert (
        len({plain, answer(tiny_gguf, one), answer(tiny_gguf, two), answer(tiny_gguf, one, two)})
        == 4
    )
    assert answer(tiny_gguf, one) == answer(tiny_gguf, (one, 1.0))


def test_adapters_change_embeddings_too(tiny_gguf: Path, tmp_path: Path) -> None:
    one = write_adapter(tmp_path / "one.gguf", 1)

    def embed(*lora: Any) -> Any:
        with LLM(tiny_gguf, n_threads=1, n_seq_max=1, embeddings=True, lora=lora) as llm:
            return llm.embed("def add(a, b):", normalize=True)

    assert embed((one, 0.0)) == pytest.approx(embed(), abs=1e-5)
    assert np.abs(np.array(embed(one)) - embed()).max() > 0.01


def test_each_request_is_answered_as_if_alone(llm: LLM, solo: list[tuple[int, ...]]) -> None:
    assert len(set(solo)) == len(solo), "the adapters make a difference"
    running = [
        (i, llm.complete(PROMPT, lora=CHOICES[i], **GREEDY)) for i in [0, 1, 2, 3, 4, 5, 2, 1, 0]
    ]
    for i, completion in running:
        assert completion.result().choices[0].tokens == solo[i]
    core(llm).engine.check_integrity()


def test_a_beginning_is_reused_with_the_same_adapters_only(
    llm: LLM, solo: list[tuple[int, ...]]
) -> None:
    n_prompt = len(llm.complete_prompt(PROMPT).tokens)
    for expected in (0, n_prompt - 1):
        for i, lora in enumerate(CHOICES[:4]):
            result = llm.complete(PROMPT, lora=lora, **GREEDY).result()
            assert result.choices[0].tokens == solo[i]
            assert result.usage.cached_tokens == expected


def test_adapters_are_applied_only_when_they_change(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[float]] = []
    apply = llama_cpp.llama_set_adapters_lora

    def count(context: Any, table: Any, n: int, scales: Any) -> int:
        calls.append(list(scales))
        return int(apply(context, table, n, scales))

    monkeypatch.setattr(llama_cpp, "llama_set_adapters_lora", count)
    given: list[Any] = [{0: 0.5}, {0: 0.5}, {"one": 0.5, "two": 0.0}, {}, None]
    for lora in given:
        llm.complete(PROMPT, lora=lora, **GREEDY).result()
    assert calls == [[0.5, 0.0], [0.0, 0.0], [1.0, 0.25]]


def test_a_batch_that_forgets_the_adapters_is_refused(
    tiny_gguf: Path, adapters: tuple[Path, Path]
) -> None:
    with Model(tiny_gguf) as model:
        context = Context(model, context_settings(ModelConfig(n_threads=1), 64))
        context.use_adapters([model.load_adapter(str(path)) for path in adapters])
        batch = Batch()
        batch.add([5], 0, 0)
        with pytest.raises(DecodeError, match="scales for 0 LoRA adapters; there are 2"):
            context.run(batch)
        context.close()


def test_choices_share_their_prompt_under_an_adapter(llm: LLM, solo: list[tuple[int, ...]]) -> None:
    result = llm.complete(PROMPT, n=3, lora={"two": 1}, **GREEDY).result()
    assert [choice.tokens for choice in result.choices] == [solo[3]] * 3


def test_the_prompt_is_scored_under_its_own_adapters(llm: LLM) -> None:
    def scores(lora: dict[int | str, float]) -> list[float]:
        options: dict[str, Any] = {"lora": lora, "logprobs": 0, "echo": True, "max_tokens": 0}
        choice = llm.complete(PROMPT, **options).result().choices[0]
        return [entry.logprob for entry in choice.logprobs[1:]]

    first = [scores({}), scores({0: 1.0})]
    assert first[0] != first[1]
    assert [scores({}), scores({0: 1.0})] == [pytest.approx(f, abs=1e-3) for f in first]


def test_the_defaults_can_be_changed(llm: LLM, solo: list[tuple[int, ...]]) -> None:
    assert [(a.id, a.name, a.scale) for a in llm.adapters] == [(0, "one", 1.0), (1, "two", 0.25)]
    llm.set_adapters({"two": 1})
    assert [a.scale for a in llm.adapters] == [0.0, 1.0]
    assert llm.complete(PROMPT, **GREEDY).result().choices[0].tokens == solo[3]
    with pytest.raises(InvalidRequestError, match="no adapter 2"):
        llm.set_adapters({2: 1.0})


def test_an_unknown_adapter_fails_before_anything_runs(llm: LLM) -> None:
    wrong: list[Any] = [{2: 1.0}, {"three": 1.0}, {0: "1"}]
    for lora in wrong:
        with pytest.raises(InvalidRequestError) as caught:
            llm.complete(PROMPT, lora=lora)
        assert caught.value.param == "lora"
    assert llm.status().n_running == llm.status().n_waiting == 0


@pytest.mark.parametrize("flash_attn", ["on", "off"])
@pytest.mark.parametrize("scale", [1.0, -1000.0])
def test_an_adapter_that_leaves_no_numbers(
    tiny_gguf: Path, tmp_path: Path, flash_attn: str, scale: float
) -> None:
    """It ends with an error, whatever is asked for, and the cache is usable again."""
    loud = write_adapter(tmp_path / "loud.gguf", 1, strength=1e19)
    options: dict[str, Any] = {"n_ctx": 256, "lora": [loud], "flash_attn": flash_attn}
    wishes: list[dict[str, Any]] = [
        {}, {"logprobs": 2}, {"logprobs": 0, "echo": True, "max_tokens": 0}, {"mirostat": 2},
        {"grammar": "root ::= [a-z]+"},
    ]  # fmt: skip
    with LLM(tiny_gguf, n_threads=1, n_seq_max=3, **options) as llm:
        want = llm.complete(PROMPT, lora={}, **GREEDY).result().choices[0].tokens
        for wish in wishes:
            beside = llm.complete(PROMPT, lora={}, **GREEDY)
            with pytest.raises(DecodeError, match="not a number"):
                llm.complete("something else", lora={0: scale}, **wish).result()
            with contextlib.suppress(DecodeError):
                assert beside.result().choices[0].tokens == want
            assert llm.complete(PROMPT, lora={}, **GREEDY).result().choices[0].tokens == want
            core(llm).engine.check_integrity()


def test_loaded_without_applying(
    tiny_gguf: Path, adapters: tuple[Path, Path], solo: list[tuple[int, ...]]
) -> None:
    with LLM(tiny_gguf, n_threads=1, n_ctx=256, lora=adapters, lora_init_without_apply=True) as llm:
        assert llm.complete(PROMPT, **GREEDY).result().choices[0].tokens == solo[1]
        assert llm.complete(PROMPT, lora={1: 1}, **GREEDY).result().choices[0].tokens == solo[3]


def test_a_saved_state_comes_back_under_its_own_adapters(
    tiny_gguf: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"n_threads": 1, "n_seq_max": 2, "cache_ram": 0, "lora": adapters}
    question = "How do I reverse a list in Python without changing the list itself?"
    with LLM(tiny_gguf, **options) as llm:
        talk = Session(llm)
        talk.ask(question, lora={0: 0.5}, **GREEDY).text()
        talk.save(tmp_path / "talk.json", kv=True)
    for scale, cached in ((0.5, True), (1.0, False)):
        with LLM(tiny_gguf, **options) as llm:
            talk = Session.load(tmp_path / "talk.json", llm)
            assert talk.notice is None
            answer = talk.ask("And a tuple?", lora={0: scale}, **GREEDY)
            answer.text()
            assert (answer.usage.cached_tokens > len(question)) is cached


def test_a_saved_state_is_stale_when_an_adapter_has_changed(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    path = write_adapter(tmp_path / "mine.gguf", 1)
    with LLM(tiny_gguf, n_threads=1, n_ctx=256, lora=[path]) as llm:
        talk = Session(llm)
        talk.ask("hello", **GREEDY).text()
        talk.save(tmp_path / "talk.json", kv=True)
    write_adapter(path, 2)  # trained on: the same name and size
    with LLM(tiny_gguf, n_threads=1, n_ctx=256, lora=[path]) as llm:
        notice = Session.load(tmp_path / "talk.json", llm).notice
        assert notice is not None
        assert "other adapters" in notice


def test_what_a_file_says_of_its_task(tiny_gguf: Path, tmp_path: Path) -> None:
    path = write_adapter(
        tmp_path / "one.gguf", 1, lora__task_name="docs", lora__prompt_prefix="Document: "
    )
    with LLM(tiny_gguf, n_threads=1, n_ctx=64, lora=[path]) as llm:
        (it,) = llm.adapters
        assert (it.task_name, it.prompt_prefix) == ("docs", "Document: ")


def test_an_activated_adapter_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "one.gguf", 1, alora__invocation_tokens=[5, 6])
    with pytest.raises(UnsupportedError, match="lora: .*activated"):
        LLM(tiny_gguf, n_threads=1, lora=[path])


def test_what_is_no_adapter(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="LoRA adapter"):
        LLM(tiny_gguf, n_threads=1, lora=[tiny_gguf])
    with pytest.raises(CheckpointError, match=r"none\.gguf: there is no such file"):
        LLM(tiny_gguf, n_threads=1, lora=[tmp_path / "none.gguf"])


@pytest.mark.parametrize("lora", [[""], [3], [("a", "b")], [("a", float("nan"))], [("a", True)]])
def test_adapters_are_paths_or_pairs(lora: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ModelConfig(lora=lora)
    assert caught.value.param == "lora"


def test_the_option_takes_a_scale() -> None:
    assert adapter("a.gguf") == ("a.gguf", 1.0)
    assert adapter("a.gguf:0.5") == ("a.gguf", 0.5)
    assert adapter("C:/a.gguf") == ("C:/a.gguf", 1.0)
