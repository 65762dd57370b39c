"""Drafts on the tiny model: greedy answers stay the same, and sampled ones keep their distribution."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from codellama import LLM, InvalidRequestError, ModelLoadError
from codellama.engine.drafter import FormDrafter, NgramDrafter, Outlook, Wish
from codellama.engine.request import Request
from codellama.engine.speculator import Speculator
from tests import tiny_model
from tests.inside import core
from tests.stepped_engine import Eager
from tests.unit.test_speculation import Scripted

# 32: the best token leads the second by 0.008 nats or more; wider batches move logits by 0.001.
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 32, "ignore_eos": True}
PROMPTS = [f"def f{i}(x):" + " return x" * i for i in range(8)]


@pytest.fixture(scope="module")
def plain(tiny_gguf: Path) -> Iterator[LLM]:
    """The tiny model without drafts."""
    with LLM(tiny_gguf, n_seq_max=8, n_threads=1, spec_type="none") as llm:
        yield llm


def speculating(path: Path, drafter: object) -> LLM:
    """The tiny model with `drafter` guessing all the time."""
    llm = LLM(path, n_seq_max=8, n_threads=1, spec_type="none")
    core(llm).engine._speculator = Eager([drafter], 6)  # type: ignore[list-item]
    return llm


def oracle(answers: dict[tuple[int, ...], tuple[int, ...]], rng: random.Random) -> Scripted:
    """Guesses what is known to come, wrong from some place on."""

    def guess(tokens: list[int], length: int) -> list[int]:
        for prompt, answer in answers.items():
            if tuple(tokens[: len(prompt)]) == prompt:
                done = len(tokens) - len(prompt)
                right = list(answer[done : done + rng.randint(0, length)])
                return (right + [rng.randrange(3, 200) for _ in range(length)])[:length]
        return []

    return Scripted(guess)


def test_greedy_with_drafts_equals_greedy_without(plain: LLM, tiny_gguf: Path) -> None:
    answers = {}
    for prompt in PROMPTS:
        completion = plain.complete(prompt, **GREEDY)
        answers[completion.prompt.tokens] = completion.result().choices[0].tokens
    with speculating(tiny_gguf, oracle(answers, random.Random(1))) as llm:
        running = [llm.complete(prompt, **GREEDY) for prompt in PROMPTS]
        for completion in running:
            result = completion.result()
            assert result.choices[0].tokens == answers[completion.prompt.tokens]
            assert 0 < result.timings.draft_accepted < result.timings.draft_n
        again = llm.complete(PROMPTS[3], **GREEDY)
        assert again.result().choices[0].tokens == answers[again.prompt.tokens]


def test_ngram_drafts_on_text_that_repeats(plain: LLM, tiny_gguf: Path) -> None:
    prompt = "abc def ghi jkl mno " * 6
    grammar = 'root ::= ("abc def ghi jkl mno ")+'
    params: dict[str, Any] = {**GREEDY, "max_tokens": 48, "grammar": grammar}
    want = plain.complete(prompt, **params).result()
    with speculating(tiny_gguf, NgramDrafter()) as llm:
        got = llm.complete(prompt, **params).result()
        status = llm.status()
    assert got.choices[0].tokens == want.choices[0].tokens
    assert got.timings.draft_accepted > 5  # letters also have byte tokens, which break the pattern
    assert (status.draft_tokens, status.draft_accepted) == (
        got.timings.draft_n,
        got.timings.draft_accepted,
    )


def test_logprobs_are_those_without_drafts(plain: LLM, tiny_gguf: Path) -> None:
    asked = plain.complete("x = 1", logprobs=3, **GREEDY)
    want = asked.result().choices[0]
    drafter = oracle({asked.prompt.tokens: want.tokens}, random.Random(2))
    with speculating(tiny_gguf, drafter) as llm:
        got = llm.complete("x = 1", logprobs=3, **GREEDY).result().choices[0]
    assert [p.token for p in got.logprobs] == [p.token for p in want.logprobs]
    for a, b in zip(got.logprobs, want.logprobs, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=0.01)
        assert [t for t, _ in a.top] == [t for t, _ in b.top]


def test_the_longest_possible_answer_fits(tiny_gguf: Path) -> None:
    with LLM(tiny_gguf, n_ctx=64, n_seq_max=2, n_threads=1, spec_type="none") as llm:
        core(llm).engine._speculator = Eager([Scripted(lambda tokens, n: [70] * n)], 30)
        for n_prompt in (1, 40, 63):
            result = llm.complete([1] * n_prompt, temperature=0, ignore_eos=True).result()
            assert len(result.choices[0].tokens) == 64 - n_prompt


class Likely:
    """Guesses tokens that often follow the one before."""

    steady = False
    seconds_per_token = 0.0

    def __init__(self, texts: list[tuple[int, ...]]) -> None:
        self.followers: dict[int, list[int]] = {}
        for text in texts:
            for token, following in pairwise(text):
                self.followers.setdefault(token, []).append(following)
        self.rng = random.Random(3)

    def outlook(self, req: Request) -> Outlook | None:
        return Outlook("likely", 0.9)

    def draft(self, wishes: Sequence[Wish]) -> list[list[int]]:
        return [self.guess(w.request.tokens[-1], w.length) for w in wishes]

    def guess(self, token: int, length: int) -> list[int]:
        draft: list[int] = []
        for _ in range(length):
            token = self.rng.choice(self.followers.get(token, [0]))
            draft.append(token)
        return draft

    def forget(self, req: Request) -> None: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


def draws(llm: LLM, n: int, seed: int, **params: Any) -> list[tuple[int, ...]]:
    """The first five tokens of `n` answers with seeds of their own."""
    found: list[tuple[int, ...]] = []
    for first in range(seed, seed + n, 100):
        completion = llm.complete("a", n=100, seed=first, max_tokens=5, ignore_eos=True, **params)
        found += [choice.tokens for choice in completion.result().choices]
    return found


def chi_square(a: Counter[Any], b: Counter[Any], least: int = 10) -> tuple[float, int]:
    """The two-sample statistic and its degrees of freedom; rare values are one class."""
    values = [v for v in a | b if a[v] + b[v] >= 2 * least]
    rest = sum(a.values()) - sum(a[v] for v in values), sum(b.values()) - sum(b[v] for v in values)
    pairs = [(a[v], b[v]) for v in values] + ([rest] if sum(rest) >= 2 * least else [])
    return sum((x - y) ** 2 / (x + y) for x, y in pairs), len(pairs) - 1


def test_sampling_with_drafts_has_the_same_distribution(plain: LLM, tiny_gguf: Path) -> None:
    params: dict[str, Any] = {"temperature": 0.7, "top_k": 6, "min_p": 0.0, "top_p": 1.0}
    params["spec_draft_n_max"] = 8  # answers with a seed have none otherwise
    want = draws(plain, 2000, 0, **params)
    with speculating(tiny_gguf, Likely(want)) as llm:
        # Other seeds than above: samples that share their random numbers would agree too well.
        got = draws(llm, 2000, 10_000, **params)
        status = llm.status()
    assert status.draft_accepted > 1000, "the drafter is right often enough to tell"
    for place in range(5):
        statistic, freedom = chi_square(
            Counter(w[place] for w in want), Counter(g[place] for g in got)
        )
        assert freedom >= 3
        # Normal approximation of the chi-square distribution: six deviations above its mean.
        assert statistic < freedom + 6 * (2 * freedom) ** 0.5, place
    statistic, freedom = chi_square(Counter(w[1:4] for w in want), Counter(g[1:4] for g in got))
    assert statistic < freedom + 6 * (2 * freedom) ** 0.5


def test_a_draft_model_changes_nothing(plain: LLM, tiny_gguf: Path, tmp_path: Path) -> None:
    other = tiny_model.write(tmp_path / "other.gguf", seed=77)
    for draft_model, some in ((tiny_gguf, True), (other, False)):
        with LLM(tiny_gguf, draft_model=draft_model, n_seq_max=8, n_threads=1,
                 spec_type="draft", spec_draft_p_min=0.0) as llm:  # fmt: skip
            core(llm).engine._speculator.__class__ = Eager
            running = {prompt: llm.complete(prompt, **GREEDY) for prompt in PROMPTS}
            for prompt, completion in running.items():
                want = plain.complete(prompt, **GREEDY).result().choices[0].tokens
                got = completion.result()
                assert got.choices[0].tokens == want
                assert got.timings.draft_n > 0
            status = llm.status()
            if some:  # not all: it also proposes the ends of text that were banned
                assert status.draft_accepted > status.draft_tokens // 2


def test_a_draft_model_without_step_and_one_with_another_vocabulary(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    smaller = tiny_model.write(tmp_path / "smaller.gguf", step=False)
    with LLM(
        tiny_gguf, draft_model=smaller, n_threads=1, spec_type="draft", spec_draft_p_min=0.0
    ) as llm:
        core(llm).engine._speculator.__class__ = Eager
        step = llm.tokenizer.token_id("<step>")
        assert step is not None
        result = llm.complete([1, 80, step, 81], **GREEDY).result()
        assert len(result.choices[0].tokens) == GREEDY["max_tokens"]
        assert result.timings.draft_n > 0
    with pytest.raises(InvalidRequestError, match="draft_model"):
        LLM(tiny_gguf, spec_type="draft")
    with pytest.raises(ModelLoadError):
        LLM(tiny_gguf, draft_model=tmp_path / "missing.gguf")


def test_the_default_speculates_and_none_does_not(tiny_gguf: Path) -> None:
    with LLM(tiny_gguf, n_threads=1) as llm:
        assert isinstance(core(llm).engine._speculator, Speculator)
        kinds = [type(drafter) for drafter in core(llm).engine._speculator._drafters]
        assert sorted(kinds, key=str) == [FormDrafter, NgramDrafter]
    with LLM(tiny_gguf, n_threads=1, spec_draft_n_max=0) as llm:
        result = llm.complete("ab ab ab ab ab", **GREEDY).result()
        assert result.timings.draft_n == 0
