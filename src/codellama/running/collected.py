"""Answers, collected delta by delta: what all ways of reading one have in common.

`Collected` is one choice as far as it has come. What is said of several together, which of them are the
likeliest and what they have used, is said here too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason, Timings, Usage
from codellama.errors import InvalidRequestError

MOST_CHOICES = 128  # OpenAI's limit for n


@dataclass
class Collected:
    """One choice as far as it has come; `index` is its number among those of its request.

    `usage` and `timings` are complete when there is a `finish_reason`. `stop` is the stop string or token
    id that ended it, if one did; `truncated` says that prompt and answer filled the context.
    """

    index: int = 0
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop: str | int | None = None
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    truncated: bool = False

    def add(self, delta: Delta) -> None:
        """Take in what is new."""
        self.text += delta.text
        self.tokens.extend(delta.tokens)
        self.logprobs.extend(delta.logprobs)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.stop = delta.stop if delta.stop is not None else self.stop
        self.usage = delta.usage or self.usage
        self.timings = delta.timings or self.timings
        self.truncated = delta.truncated


def n_candidates(n: int, best_of: int | None) -> int:
    """How many answers are written so that `n` can be given: `best_of` of them, if that is not None.

    Raises InvalidRequestError for an `n` that is not from 1 to 128, a `best_of` not from `n` to 128.
    """
    for name, value, least in (("n", n, 1), ("best_of", n if best_of is None else best_of, n)):
        if type(value) is not int or not least <= value <= MOST_CHOICES:
            raise InvalidRequestError(
                "{param} must be from {least} to {most}; got {value!r}",
                name,
                least=least,
                most=MOST_CHOICES,
                value=value,
            )
    return n if best_of is None else best_of


def likeliest(answers: Sequence[Collected], n: int, *, scored: bool) -> list[Collected]:
    """The `n` of `answers` with the highest log probability per token, best first.

    `scored` says that their prompt's log probabilities come before their own; those do not count.
    """
    return sorted(
        answers,
        key=lambda a: mean_logprob(
            len(a.tokens), a.logprobs, a.usage.prompt_tokens if scored else 0
        ),
        reverse=True,
    )[:n]


def mean_logprob(n_tokens: int, logprobs: Sequence[TokenLogprob], first: int = 0) -> float:
    """Log probability per token of an answer, by which candidates are ranked; nothing ranks last.

    `n_tokens` count from number `first` on: a scored prompt's come before them, a stop token's after.
    """
    counted = logprobs[first : first + n_tokens]
    return sum(entry.logprob for entry in counted) / n_tokens if n_tokens else -math.inf


def total_usage(answers: Sequence[Collected], n: int) -> Usage:
    """Counts over all answers, `n` per prompt; the prompt of each group counts once.

    Of a group only the first choice decodes the prompt; the others take it over, so the smallest
    number of cached tokens is the one that tells what was reused from earlier requests.
    """
    groups = [answers[i : i + n] for i in range(0, len(answers), n)]
    return Usage(
        prompt_tokens=sum(group[0].usage.prompt_tokens for group in groups),
        completion_tokens=sum(answer.usage.completion_tokens for answer in answers),
        cached_tokens=sum(min(a.usage.cached_tokens for a in group) for group in groups),
    )


def longest(answers: Sequence[Collected]) -> Timings:
    """The timings of the answer that took longest."""
    return max((a.timings for a in answers), key=lambda t: t.prompt_s + t.decode_s)
