"""The whole engine on the tiny model: concurrent answers are those of lone requests, prefix reuse changes
nothing, and every option does what it says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama import (
    LLM,
    ChatFormatError,
    ContextLengthError,
    EngineDeadError,
    FinishReason,
    GrammarError,
    InvalidRequestError,
    ModelLoadError,
    QueueFullError,
    UnsupportedError,
)
from codellama.engine.request import Delta
from codellama.native.context import Context
from codellama.native.settings import ContextSettings
from codellama.params import KV_TYPES, KVType, SamplingParams
from tests import tiny_model

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
PROMPTS = [f"def f{i}(x):" + " return x" * i for i in range(10)]


@pytest.fixture(scope="module")
def alone(tiny_gguf: Path) -> dict[str, tuple[int, ...]]:
    """Greedy answers of a model with one slot and no reuse: the naive path."""
    answers = {}
    for prompt in PROMPTS:
        with LLM(tiny_gguf, n_seq_max=1, n_threads=1, flash_attn="on") as llm:
            answers[prompt] = llm.complete(prompt, **GREEDY).result().choices[0].tokens
    return answers


@pytest.fixture(scope="module")
def solo_llm(tiny_gguf: Path) -> Iterator[LLM]:
    """One slot: every request sees batches and cells of the same shape, so rounding is the same."""
    with LLM(tiny_gguf, n_seq_max=1, n_threads=1, flash_attn="on") as llm:
        llm.complete("abc abc", max_tokens=0).result()
        yield llm


def test_solo_equals_concurrent(tiny_llm: LLM, alone: dict[str, tuple[int, ...]]) -> None:
    running = {prompt: tiny_llm.complete(prompt, **GREEDY) for prompt in PROMPTS}
    for prompt, completion in running.items():
        assert completion.result().choices[0].tokens == alone[prompt]


def test_prefix_reuse_equals_fresh(tiny_llm: LLM, alone: dict[str, tuple[int, ...]]) -> None:
    for prompt in sorted(PROMPTS, key=len, reverse=True):
        result = tiny_llm.complete(prompt, **GREEDY).result()
        assert result.choices[0].tokens == alone[prompt]
    again = tiny_llm.complete(PROMPTS[3], **GREEDY).result()
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    assert again.choices[0].tokens == alone[PROMPTS[3]]


def test_stream_equals_whole(tiny_llm: LLM) -> None:
    whole = tiny_llm.complete("abc", **GREEDY).text()
    assert "".join(tiny_llm.complete("abc", **GREEDY)) == whole

    async def collect() -> str:
        return "".join([piece async for piece in tiny_llm.complete("abc", **GREEDY)])

    assert asyncio.run(collect()) == whole
    assert asyncio.run(tiny_llm.complete("abc", **GREEDY).aresult()).text == whole


def test_seeds(solo_llm: LLM) -> None:
    def draw(**options: Any) -> list[tuple[int, ...]]:
        result = solo_llm.complete("x", temperature=1.5, max_tokens=12, **options).result()
        return [choice.tokens for choice in result.choices]

    assert draw(seed=0) == draw(seed=0)
    assert draw(seed=0) != draw(seed=1)
    assert draw() != draw()
    three = draw(seed=5, n=3)
    assert len(set(three)) == 3
    assert [draw(seed=5 + i)[0] for i in range(3)] == three


def test_n_decodes_the_prompt_once(tiny_llm: LLM) -> None:
    prompt = "a new beginning that no other test has " * 3
    before = tiny_llm.status().prompt_tokens
    completion = tiny_llm.complete(prompt, n=6, max_tokens=3, temperature=1.0)
    result = completion.result()
    n_prompt = len(completion.prompt.tokens)
    assert result.usage.prompt_tokens == n_prompt
    assert result.usage.completion_tokens <= 18
    # One whole prompt, and for each of the other five its last token.
    assert tiny_llm.status().prompt_tokens - before <= n_prompt + 5


def test_several_choices_need_events(tiny_llm: LLM) -> None:
    completion = tiny_llm.complete("x", n=2, max_tokens=2)
    with pytest.raises(InvalidRequestError, match="events"):
        next(iter(completion))
    seen = {index for index, _ in completion.events()}
    assert seen == {0, 1}


def test_text_needs_one_choice(tiny_llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match=r"2 choices: use result\(\)"):
        tiny_llm.complete("x", n=2, max_tokens=2).text()
    assert tiny_llm.complete("x", n=1, best_of=2, max_tokens=0).text() == ""


def test_a_completion_can_be_awaited(tiny_llm: LLM) -> None:
    async def answer() -> str:
        return (await tiny_llm.complete("abc", **GREEDY)).text

    assert asyncio.run(answer()) == tiny_llm.complete("abc", **GREEDY).text()


def test_deltas_go_where_the_caller_says(tiny_llm: LLM) -> None:
    prompt = tiny_llm.complete_prompt("abc")
    params = SamplingParams.of(**GREEDY, seed=1)
    got: list[tuple[int, Delta]] = []
    ended = threading.Semaphore(0)

    def deliver(index: int, delta: Delta) -> None:
        got.append((index, delta))
        if delta.finish_reason is not None:
            ended.release()

    completion = tiny_llm.generate(prompt, params=params, n=2, echo=True, deliver=deliver)
    for _ in range(2):
        assert ended.acquire(timeout=60)
    want = tiny_llm.generate(prompt, params=params, n=2, echo=True).result()
    assert [(index, delta.text) for index, delta in got[:2]] == [(0, "abc"), (1, "abc")]
    answers = completion.blank()
    for index, delta in got:
        assert answers[index].finish_reason is None, "nothing comes behind the final delta"
        answers[index].add(delta)
    assert [answer.text for answer in answers] == [choice.text for choice in want.choices]
    assert all(answer.finish_reason is not None for answer in answers)
    with pytest.raises(InvalidRequestError, match="deliver"):
        completion.result()
    completion.cancel()  # harmless


def test_max_tokens_and_context(tiny_llm: LLM) -> None:
    result = tiny_llm.complete("x", max_tokens=5, ignore_eos=True).result()
    assert len(result.choices[0].tokens) == 5
    assert result.choices[0].finish_reason is FinishReason.LENGTH
    empty = tiny_llm.complete("x", max_tokens=0).result()
    assert empty.text == ""
    assert empty.choices[0].finish_reason is FinishReason.LENGTH
    near_the_end = tiny_llm.complete([5] * (tiny_llm.n_ctx - 3), ignore_eos=True).result()
    assert len(near_the_end.choices[0].tokens) == 3


def test_a_prompt_that_is_too_long(tiny_llm: LLM) -> None:
    with pytest.raises(
        ContextLengthError, match="1024 tokens it exceeds the available context size of 1024"
    ) as error:
        tiny_llm.complete([5] * tiny_llm.n_ctx)
    assert (error.value.n_prompt, error.value.n_ctx) == (1024, 1024)


def test_echo(tiny_llm: LLM) -> None:
    text = "def main(): <step> [INST] é"
    result = tiny_llm.complete(text, echo=True, **GREEDY).result()
    assert result.text.startswith(text)
    assert result.text[len(text) :] == tiny_llm.complete(text, **GREEDY).text()


def test_stop_strings_and_tokens(tiny_llm: LLM) -> None:
    tokens = tiny_llm.complete("abc", **GREEDY).result().choices[0].tokens
    text = tiny_llm.complete("abc", **GREEDY).text()
    cut = tiny_llm.complete("abc", stop_tokens=[tokens[4]], **GREEDY).result().choices[0]
    assert cut.tokens == tokens[: tokens.index(tokens[4])]
    assert (cut.finish_reason, cut.stop) == (FinishReason.STOP, tokens[4])
    stop = next(c for c in text[3:] if c.isascii() and c.isprintable())
    ended = tiny_llm.complete("abc", stop=stop, **GREEDY).result().choices[0]
    assert ended.text == text[: text.index(stop)]
    assert ended.stop == stop


def test_logprobs_are_those_of_the_model(tiny_llm: LLM) -> None:
    result = tiny_llm.complete("abc", logprobs=3, **GREEDY).result().choices[0]
    assert [p.token for p in result.logprobs] == list(result.tokens)
    for entry in result.logprobs:
        assert entry.top[0] == (entry.token, entry.logprob), "greedy takes the likeliest"
        values = [value for _, value in entry.top]
        assert values == sorted(values, reverse=True)
        assert all(value < 0 for value in values)
    everything = tiny_llm.complete("abc", logprobs=100, max_tokens=1).result().choices[0]
    assert sum(math.exp(value) for _, value in everything.logprobs[0].top) <= 1.0001


def test_logit_bias(tiny_llm: LLM) -> None:
    a = tiny_llm.tokenizer.encode("Z", raw=True)[0]
    forced = tiny_llm.complete("x", logit_bias={a: 100.0}, max_tokens=4, temperature=0).result()
    assert forced.choices[0].tokens == (a,) * 4
    first = tiny_llm.complete("x", max_tokens=1, temperature=0).result().choices[0].tokens[0]
    banned = tiny_llm.complete(
        "x", max_tokens=4, temperature=0, logit_bias={first: -math.inf}
    ).result()
    assert first not in banned.choices[0].tokens


def test_repeat_penalty_counts_the_prompt(tiny_llm: LLM) -> None:
    plain = tiny_llm.complete("x", max_tokens=1, temperature=0).result().choices[0].tokens[0]
    tokens = [tiny_llm.tokenizer.bos, *tiny_llm.tokenizer.encode("x"), plain]
    again = [*tokens, *tiny_llm.tokenizer.encode("x")]
    free = tiny_llm.complete(again, max_tokens=1, temperature=0, logprobs=1).result()
    likeliest = free.choices[0].tokens[0]
    prompt = [likeliest, *again]
    with_penalty = tiny_llm.complete(
        prompt, max_tokens=1, temperature=0, repeat_penalty=50.0, repeat_last_n=-1
    ).result()
    assert with_penalty.choices[0].tokens[0] not in prompt


SAMPLERS: list[dict[str, Any]] = [
    {"top_k": 1},
    {"top_p": 0.1, "top_k": 0},
    {"min_p": 0.5},
    {"typical_p": 0.5},
    {"top_n_sigma": 1.0},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"mirostat": 1},
    {"mirostat": 2},
    {"repeat_penalty": 1.3},
    {"frequency_penalty": 1.0},
    {"presence_penalty": 1.0},
]


@pytest.mark.parametrize("options", SAMPLERS, ids=lambda o: next(iter(o)))
def test_every_sampler_runs_and_is_seeded(solo_llm: LLM, options: dict[str, Any]) -> None:
    def draw(**more: Any) -> tuple[int, ...]:
        settings = {"temperature": 2.0, "seed": 3, "max_tokens": 40, "ignore_eos": True, **more}
        return solo_llm.complete("abc abc", **settings).result().choices[0].tokens

    wide: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    draw()  # from here on every draw finds the same cache
    assert draw(**wide | options) == draw(**wide | options)
    assert draw(**wide | options) != draw(**wide), "the option changes what is drawn"


def test_dry_breaks_a_repetition(solo_llm: LLM) -> None:
    z = solo_llm.tokenizer.encode("Z", raw=True)[0]
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 20, "logit_bias": {z: 100.0}}
    assert solo_llm.complete("x", **options).text() == "Z" * 20
    assert solo_llm.complete("x", dry_multiplier=50.0, **options).text() != "Z" * 20


def test_grammar_and_schema(tiny_llm: LLM) -> None:
    grammar = 'root ::= ("yes" | "no") "!"'
    for seed in range(5):
        text = tiny_llm.complete("x", grammar=grammar, temperature=2.0, seed=seed).text()
        assert text in ("yes!", "no!")
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    text = tiny_llm.complete("x", json_schema=schema, temperature=1.0, seed=1).text()
    assert isinstance(json.loads(text)["a"], bool)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"grammar": "root ::= ("}, "grammar"),
        ({"grammar": "x ::= y"}, "grammar"),
        ({"json_schema": "{not json"}, "json_schema"),
        ({"json_schema": {"type": "nonsense"}}, "json_schema"),
        ({"json_schema": {"$ref": "https://example.invalid/x"}}, "json_schema"),
    ],
)
def test_bad_grammars(tiny_llm: LLM, options: dict[str, Any], param: str) -> None:
    with pytest.raises(GrammarError) as error:
        tiny_llm.complete("x", **options)
    assert error.value.param == param


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda llm: llm.complete([]), "prompt"),
        (lambda llm: llm.complete([10**6]), "prompt"),
        (lambda llm: llm.complete(["x"]), "prompt"),
        (lambda llm: llm.complete(5), "prompt"),
        (lambda llm: llm.complete(b"abc"), "prompt"),  # bytes hold numbers, but no token ids
        (
            lambda llm: llm.chat("x", tools=[{"type": "function", "function": {"name": "f"}}]),
            "tools",
        ),
        (lambda llm: llm.complete("x", n=0), "n"),
        (lambda llm: llm.complete("x", n=1000), "n"),
        (lambda llm: llm.complete("x", stop_tokens=[10**6]), "stop_tokens"),
        (lambda llm: llm.complete("x", logit_bias={10**6: 1.0}), "logit_bias"),
        (lambda llm: llm.complete("x", tempreature=1), "tempreature"),
    ],
)
def test_bad_requests(tiny_llm: LLM, call: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        call(tiny_llm)
    assert error.value.param == param


def test_chat_stops_at_step_and_checks_roles(tiny_llm: LLM) -> None:
    step = tiny_llm.tokenizer.token_id("<step>")
    assert step is not None
    ended = tiny_llm.chat("hi", logit_bias={step: 1000.0}).result().choices[0]
    assert (ended.text, ended.stop, ended.finish_reason) == ("", step, FinishReason.STOP)
    with pytest.raises(ChatFormatError, match=r"messages\[0\]"):
        tiny_llm.chat([{"role": "assistant", "content": "x"}])


def test_infill(tiny_llm: LLM) -> None:
    prompt = tiny_llm.infill_prompt("a", "b")
    names = [tiny_llm.tokenizer.token_text(t) for t in prompt.tokens]
    assert names == ["<s>", "▁<PRE>", "a", "▁<SUF>", "b", "▁<MID>"]
    assert isinstance(tiny_llm.infill("a", "b", max_tokens=3).text(), str)


def test_cancel(tiny_llm: LLM) -> None:
    completion = tiny_llm.complete("x", ignore_eos=True, max_tokens=900)
    stream = completion.events()
    next(stream)
    completion.cancel()
    last = list(stream)[-1][1]
    assert last.finish_reason is FinishReason.CANCELLED
    assert last.usage is not None
    assert last.usage.completion_tokens < 900


def test_a_grammar_that_nothing_fits_ends_its_request_only(tiny_llm: LLM) -> None:
    """llama.cpp aborts the process when a token is accepted that the grammar does not allow."""
    with pytest.raises(InvalidRequestError, match="bans the only tokens that fit"):
        tiny_llm.complete("x", grammar='root ::= "a"', ignore_eos=True, max_tokens=5).result()
    assert tiny_llm.complete("x", grammar='root ::= "a"', max_tokens=5).text() == "a"


def test_a_deadline_ends_an_answer(tiny_llm: LLM) -> None:
    """While it is written, and while its prompt is decoded: what there is by then is the answer."""
    for prompt in ("x", "x " * 450):
        started = time.monotonic()
        choice = tiny_llm.complete(prompt, ignore_eos=True, timeout_s=0.02).result().choices[0]
        assert time.monotonic() - started < 5
        assert choice.finish_reason is FinishReason.LENGTH
        assert len(choice.tokens) < 500


def test_leaving_the_loop_cancels(tiny_llm: LLM) -> None:
    stream = iter(tiny_llm.complete("x", ignore_eos=True, max_tokens=900))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while tiny_llm.status().n_running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tiny_llm.status().n_running == 0


def test_threads_share_one_llm(tiny_llm: LLM, alone: dict[str, tuple[int, ...]]) -> None:
    wrong: list[str] = []

    def ask(prompt: str) -> None:
        for _ in range(3):
            if tiny_llm.complete(prompt, **GREEDY).result().choices[0].tokens != alone[prompt]:
                wrong.append(prompt)

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_queue_full_and_closed(tiny_gguf: Path) -> None:
    with LLM(tiny_gguf, n_seq_max=1, max_queue=1, n_threads=1) as llm:
        running = [llm.complete("x", ignore_eos=True, max_tokens=900) for _ in range(2)]
        with pytest.raises(QueueFullError):
            llm.complete("y")
        with pytest.raises(InvalidRequestError, match="n: 3 answers at once are more than the 2"):
            llm.complete("y", n=3)
        running[0].cancel()
        running[1].cancel()
        assert llm.drain(10)
        with pytest.raises(EngineDeadError):
            llm.complete("y")
    with pytest.raises(EngineDeadError):
        llm.complete("y")


def test_a_closed_model_fails_its_requests(tiny_gguf: Path) -> None:
    llm = LLM(tiny_gguf, n_threads=1)
    running = llm.complete("x", ignore_eos=True, max_tokens=1000)
    llm.close()
    with pytest.raises(EngineDeadError):
        running.result()
    llm.close()


@pytest.mark.parametrize("kind", KV_TYPES)
def test_kv_types_by_name(tmp_path: Path, kind: KVType) -> None:
    path = tiny_model.write(tmp_path / "wide.gguf", head_dim=64)  # rows of whole blocks
    with LLM(path, n_seq_max=1, n_threads=1, n_ctx=64, type_k=kind, type_v=kind) as llm:
        assert llm.complete("x", ignore_eos=True, **GREEDY).result().usage.completion_tokens == 24


def test_kv_types_that_do_not_fit_the_heads(tiny_gguf: Path) -> None:
    with pytest.raises(ModelLoadError, match="block size 32.*other type_k and type_v"):
        LLM(tiny_gguf, n_threads=1, type_k="q8_0")
    with pytest.raises(InvalidRequestError, match="flash attention"):
        LLM(tiny_gguf, n_threads=1, type_v="q8_0", flash_attn="off")


def test_gpu_layers_need_a_gpu(tiny_gguf: Path) -> None:
    from codellama.native.library import library

    if library().gpus():
        pytest.skip("this machine has a GPU that llama.cpp can use")
    for wanted in (1, "all"):
        with pytest.raises(UnsupportedError, match="no GPU backend"):
            LLM(tiny_gguf, n_gpu_layers=wanted)
    with LLM(tiny_gguf, n_gpu_layers="auto", n_threads=1) as llm:
        assert llm.config.n_gpu_layers == "auto"


def test_bad_files(tmp_path: Path, tiny_gguf: Path) -> None:
    with pytest.raises(ModelLoadError, match="no-such"):
        LLM(tmp_path / "no-such.gguf")
    with pytest.raises(ModelLoadError, match="is an empty folder"):
        LLM(tmp_path)
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"not a gguf at all" * 10)
    with pytest.raises(ModelLoadError, match="junk.gguf"):
        LLM(junk)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:-1000])
    with pytest.raises(ModelLoadError, match="cut.gguf"):
        LLM(cut)


def test_a_model_is_found_by_its_name_and_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODELLAMA_MODELS", str(tmp_path))
    path = tiny_model.write(tmp_path / "mine.gguf")
    with LLM("mine", n_ctx=64, n_threads=1, chat_format="inst") as llm:
        assert llm.path == path
        assert repr(llm) == f"<LLM mine: context 64, chat format inst, {tiny_model.LAYERS} layers>"
    with pytest.raises(ModelLoadError, match="nonsense: no such file, and no published model"):
        LLM("nonsense")


def test_a_model_without_chat_format(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "base.gguf", step=False)
    with LLM(path, n_threads=1, n_seq_max=1) as llm:
        assert llm.chat_format is None
        assert llm.tokenizer.add_space_prefix
        with pytest.raises(UnsupportedError, match="use complete"):
            llm.chat("hi")
        text = llm.complete("abc", echo=True, **GREEDY).text()
        assert text.startswith("abc")


def test_a_prompt_comes_back_from_host_memory(tiny_gguf: Path) -> None:
    long = "one conversation " * 12
    other = "another talk altogether " * 12
    with LLM(tiny_gguf, n_seq_max=1, n_threads=1, cache_ram=0) as llm:
        want = llm.complete(long + "x", **GREEDY).result().choices[0].tokens
    with LLM(tiny_gguf, n_seq_max=1, n_threads=1, cache_ram=8) as llm:
        llm.complete(long, **GREEDY).result()
        llm.complete(other, **GREEDY).result()
        back = llm.complete(long + "x", **GREEDY).result()
        assert back.usage.cached_tokens >= len(long)
        assert back.choices[0].tokens == want
        again = llm.complete(other + "x", **GREEDY).result()
        assert again.usage.cached_tokens >= len(other)


@pytest.mark.parametrize("echo", [False, True])
def test_best_of_returns_the_likeliest_candidates(tiny_llm: LLM, echo: bool) -> None:
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 1.5, "seed": 3, "echo": echo}
    options["ignore_eos"] = True
    best = tiny_llm.complete("best of", n=5, best_of=6, **options).result()
    assert [c.index for c in best.choices] == [0, 1, 2, 3, 4]
    means = [sum(t.logprob for t in c.logprobs[-8:]) / 8 for c in best.choices]
    assert means == sorted(means, reverse=True)
    assert len({c.tokens for c in best.choices}) > 2
    assert best.usage.completion_tokens == 48


@pytest.mark.parametrize("best_of", [1, 0, 129, True, "3"])
def test_best_of_is_at_least_n(tiny_llm: LLM, best_of: Any) -> None:
    with pytest.raises(InvalidRequestError, match="best_of must be from 2 to 128") as caught:
        tiny_llm.complete("x", n=2, best_of=best_of)
    assert caught.value.param == "best_of"


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({"n_seq_max": 1, "n_gpu_layers": 0}, "off"),
        ({"n_seq_max": 2, "n_gpu_layers": 0}, "auto"),
        ({"n_seq_max": 1, "n_gpu_layers": 0, "flash_attn": "on"}, "on"),
        ({"n_seq_max": 1, "n_gpu_layers": 0, "type_v": "q8_0"}, "auto"),
    ],
)
def test_attention_on_a_cpu(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], used: str
) -> None:
    seen: list[str] = []
    made = Context.__init__

    def init(self: Context, model: Any, settings: ContextSettings) -> None:
        seen.append(settings.flash_attn)
        made(self, model, settings)

    monkeypatch.setattr(Context, "__init__", init)
    with contextlib.suppress(ModelLoadError), LLM(tiny_gguf, n_threads=1, **options):
        pass  # the tiny model's heads are too small for a quantized cache
    assert seen == [used]
