"""Log probabilities of prompts: computed in chunks, remembered with the cache, shared like it."""

from __future__ import annotations

import math

from codellama.engine import Engine, FinishReason, Scheduler
from codellama.engine.batch import TokenLogprob
from tests.fake_runner import FakeRunner, expected, next_token, request
from tests.unit.test_engine import Inbox, ask, closed_once


def engine(n_slots: int = 2, cells: int = 2000, max_outputs: int = 10) -> tuple[Engine, FakeRunner]:
    runner = FakeRunner(n_slots, cells)
    return Engine(runner, Scheduler(n_slots, cells, 64, 16, max_outputs), 1000), runner


def values(prompt: list[int]) -> list[float]:
    return [-1.0 - next_token(prompt[: i + 1]) for i in range(1, len(prompt))]


def check(inbox: Inbox, prompt: list[int], n_top: int) -> None:
    inbox.final()
    first, *scores = inbox.deltas[0].logprobs
    assert first.token == prompt[0]
    assert math.isnan(first.logprob)
    assert [score.token for score in scores] == prompt[1:]
    assert [score.logprob for score in scores] == values(prompt)
    assert all(len(score.top) == n_top for score in scores)


def test_scores_come_before_the_answer_and_in_small_chunks() -> None:
    it, runner = engine()
    prompt = list(range(50))
    inbox, new = ask(it, prompt, 4, prompt_logprobs=2)
    check(inbox, prompt, 2)
    assert inbox.tokens() == expected(prompt, 4)
    assert max(len(batch.output_rows) for batch in runner.batches) <= 10
    assert closed_once(new)
    it.close()


def test_only_scoring() -> None:
    it, _ = engine()
    for prompt in ([5], [5, 6], list(range(30))):
        inbox, _ = ask(it, prompt, 0, prompt_logprobs=0)
        check(inbox, prompt, 0)
        assert inbox.final().finish_reason is FinishReason.LENGTH
        assert inbox.tokens() == []
    it.close()


def test_a_common_beginning_is_scored_once() -> None:
    it, runner = engine(n_slots=4, max_outputs=40)
    beginning = list(range(100, 300))
    prompts = [[*beginning, i, i + 1] for i in range(4)]
    inboxes = [Inbox() for _ in prompts]
    it.submit(
        [request(p, 0, box, prompt_logprobs=1) for p, box in zip(prompts, inboxes, strict=True)]
    )
    for box, prompt in zip(inboxes, prompts, strict=True):
        check(box, prompt, 1)
    rows = sum(len(batch.tokens) for batch in runner.batches)
    assert rows == 202 + 3 * 3, "the others: the last shared row again, and two of their own"
    it.close()


def test_an_unscored_cache_is_not_enough_and_a_scored_one_serves_all() -> None:
    it, runner = engine(n_slots=1, max_outputs=40)
    prompt = list(range(60))
    ask(it, prompt, 1)[0].final()
    again, scored = ask(it, prompt, 1, prompt_logprobs=3)
    check(again, prompt, 3)
    assert scored.cached_tokens == 0
    fewer, cached = ask(it, prompt, 1, prompt_logprobs=1)
    check(fewer, prompt, 1)
    assert cached.cached_tokens == len(prompt) - 2
    more, fresh = ask(it, prompt, 1, prompt_logprobs=4)
    check(more, prompt, 4)
    assert fresh.cached_tokens == 0
    plain, shared = ask(it, prompt, 1)
    plain.final()
    assert shared.cached_tokens == len(prompt) - 1
    it.close()


def test_a_failing_score_ends_its_request_only() -> None:
    it, runner = engine()
    score = runner.logprob

    def fail(row: int, token: int, n_top: int, sampler: object = None) -> TokenLogprob:
        if token == 13:
            raise ValueError("no")
        return score(row, token, n_top)

    runner.logprob = fail  # type: ignore[method-assign]
    bad, new = ask(it, [1, 2, 13, 4], 5, prompt_logprobs=0)
    good, _ = ask(it, [1, 2, 3], 5, prompt_logprobs=0)
    assert bad.final().finish_reason is FinishReason.ERROR
    check(good, [1, 2, 3], 0)
    assert closed_once(new)
    it.close()


def test_who_scores_a_prompt_is_told_of_the_stop_token_too() -> None:
    """Harnesses ask for one token more than they score and cut the last entry off."""
    it, _ = engine()
    prompt = list(range(20))
    [end] = expected(prompt, 1)
    told, _ = ask(it, prompt, 1, logprobs=1, prompt_logprobs=1, stop_tokens=[end])
    check(told, prompt, 1)
    final = told.final()
    assert final.finish_reason is FinishReason.STOP
    assert [entry.token for entry in final.logprobs] == [end]
    assert told.tokens() == []
    untold, _ = ask(it, prompt, 1, logprobs=1, stop_tokens=[end])
    assert untold.final().logprobs == ()
    it.close()
