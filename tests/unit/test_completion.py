"""A completion with more candidates than are kept."""

from __future__ import annotations

import math

import pytest

from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason, Timings, Usage
from codellama.params import Prompt
from codellama.running.completion import Completion, Mailbox, mean_logprob


def finished(*logprobs: float) -> Delta:
    tokens = tuple(range(len(logprobs)))
    return Delta(
        tokens=tokens,
        logprobs=tuple(TokenLogprob(i, value) for i, value in enumerate(logprobs)),
        finish_reason=FinishReason.LENGTH,
        usage=Usage(2, len(logprobs)),
        timings=Timings(),
    )


def test_the_likeliest_are_kept_in_order() -> None:
    mailbox = Mailbox()
    for index, delta in enumerate([finished(-2, -2), finished(), finished(-1, -3.5), finished(-1)]):
        mailbox.put(index, delta)
    result = Completion(Prompt((1, 2)), 4, mailbox, lambda: None, keep=3).result()
    assert [len(choice.tokens) for choice in result.choices] == [1, 2, 2]
    assert [choice.logprobs[0].logprob for choice in result.choices] == [-1, -2, -1]
    assert [choice.index for choice in result.choices] == [0, 1, 2]
    assert result.usage == Usage(2, 5)


@pytest.mark.parametrize("text", ["ab", ""])
def test_a_scored_prompt_does_not_count(text: str) -> None:
    mailbox = Mailbox()
    scored = (TokenLogprob(1, math.nan), TokenLogprob(2, -50.0))
    for index, delta in enumerate([finished(-2, -2), finished(-1, -1)]):
        mailbox.put(index, Delta(logprobs=scored))
        mailbox.put(index, delta)
    result = Completion(Prompt((1, 2)), 2, mailbox, lambda: None, text, keep=1).result()
    assert [choice.logprobs[2].logprob for choice in result.choices] == [-1]


@pytest.mark.parametrize(
    ("n", "first", "mean"), [(0, 0, -math.inf), (2, 0, -2.0), (1, 2, -7.0), (1, 0, -1.0)]
)
def test_mean(n: int, first: int, mean: float) -> None:
    logprobs = [TokenLogprob(0, value) for value in (-1.0, -3.0, -7.0)]
    assert mean_logprob(n, logprobs, first) == mean


def test_events_can_be_handed_on() -> None:
    mailbox, ended = Mailbox(), []
    completion = Completion(Prompt((1, 2)), 2, mailbox, lambda: ended.append(True), "ab")
    mailbox.put(0, Delta(text="c"))
    got: list[tuple[int, str]] = []
    completion.forward(lambda index, delta: got.append((index, delta.text)))
    mailbox.put(1, Delta(text="d"))
    assert got == [(0, "ab"), (1, "ab"), (0, "c"), (1, "d")]
    mailbox.put(0, finished(-1))
    completion.cancel()
    assert ended == [True], "one choice is open"
    mailbox.put(1, finished(-1))
    completion.cancel()
    assert ended == [True]
