"""Guesses at the tokens that come next. They are checked by the model in one step, so a wrong guess costs
a row of a batch. An answer it changes only where two tokens are so close that rounding decides.

A `Drafter` says for each request what kind of guess it could make (`outlook`), and makes those that are
wanted (`draft`). `FormDrafter` knows what a schema or grammar demands, `NgramDrafter` looks for the latest
place where the text already said what it says now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from codellama.engine.ngrams import ORDERS, NgramIndex, Past, after_change, continuation
from codellama.engine.request import Request


@dataclass(frozen=True)
class Outlook:
    """A kind of guess, and the chance that a token of it is right as long as nothing was measured."""

    kind: str
    chance: float


@dataclass(frozen=True)
class Wish:
    """A draft of up to `length` tokens is wanted for `request`."""

    request: Request
    length: int


class Drafter(Protocol):
    """Something that guesses. Only the engine's thread calls it."""

    @property
    def steady(self) -> bool:
        """Whether its guesses for a request follow from that request alone, each time in the same way."""

    @property
    def seconds_per_token(self) -> float:
        """What one more token costs, for all requests of a `draft` together."""

    def outlook(self, request: Request) -> Outlook | None:
        """What kind of guess can be made after the request's tokens; None: no idea."""

    def draft(self, wishes: Sequence[Wish]) -> list[list[int]]:
        """A guess per wish; it may be shorter than wished, or empty."""

    def forget(self, request: Request) -> None:
        """The request has ended, or its older tokens have changed."""

    def reset(self) -> None:
        """Start afresh after a failed step."""

    def close(self) -> None:
        """Free everything."""


class FormDrafter:
    """Names of properties, quotes and commas: what an answer's form leaves no choice about."""

    steady = True
    seconds_per_token = 0.0

    # Of the forced tokens of 40 objects with usual names, all were those that the vocabulary spells.
    _FORCED = Outlook("forced", 0.95)

    def __init__(self) -> None:
        self._found: dict[Request, list[int]] = {}

    def outlook(self, request: Request) -> Outlook | None:
        """Whether anything is forced."""
        found = request.sampler.forced()
        if not found:
            return None
        self._found[request] = found
        return self._FORCED

    def draft(self, wishes: Sequence[Wish]) -> list[list[int]]:
        """What the latest `outlook` found."""
        return [self._found[wish.request][: wish.length] for wish in wishes]

    def forget(self, request: Request) -> None:
        """Drop what was found."""
        self._found.pop(request, None)

    def reset(self) -> None:
        """Nothing depends on a step."""

    def close(self) -> None:
        """Nothing is held."""


class NgramDrafter:
    """Continues as the prompt or the answer did after the same last tokens; where a copy is left for a
    change, as it did near that place; and else as the latest answers to other requests did."""

    steady = False
    seconds_per_token = 0.0

    # Code that is being edited is mostly copied; these only matter until something has been measured.
    _OWN = {
        12: Outlook("ngram-12", 0.85),
        6: Outlook("ngram-6", 0.7),
        3: Outlook("ngram-3", 0.5),
    }
    _NEAR = Outlook("ngram-near", 0.4)
    _PAST = {
        12: Outlook("ngram-past-12", 0.7),
        6: Outlook("ngram-past-6", 0.5),
        3: Outlook("ngram-past-3", 0.3),
    }

    def __init__(self) -> None:
        self._indices: dict[Request, NgramIndex] = {}
        self._past = Past()
        # What the latest outlook would copy from: tokens and where in them.
        self._source: dict[Request, tuple[list[int], int]] = {}
        # Where the latest n-gram was copied from, and how many tokens there were then.
        self._copied: dict[Request, tuple[int, int]] = {}

    def outlook(self, request: Request) -> Outlook | None:
        """The kind of the longest n-gram that the text ends with and held before, or of another guess."""
        index = self._indices.get(request)
        if index is None:
            index = self._indices[request] = NgramIndex()
        tokens = request.tokens
        found = index.find(tokens)
        if found is not None:
            order, position = found
            self._source[request] = tokens, position
            self._copied[request] = position, len(tokens)
            return self._OWN[order]
        copied = self._copied.get(request)
        near = None if copied is None else after_change(tokens, *copied)
        if near is not None:
            self._source[request] = tokens, near
            return self._NEAR
        past = self._past.find(index.keys)
        if past is not None:
            order, self._source[request] = past
            return self._PAST[order]
        return None

    def draft(self, wishes: Sequence[Wish]) -> list[list[int]]:
        """What stands where the latest `outlook` found it."""
        return [continuation(*self._source[wish.request], wish.length) for wish in wishes]

    def forget(self, request: Request) -> None:
        """Drop the request's index, but remember how its prompt ended and what was answered."""
        if self._indices.pop(request, None) is not None:
            answer = request.generated + ORDERS[0]
            self._past.add(request.tokens[-answer:])
        self._source.pop(request, None)
        self._copied.pop(request, None)

    def reset(self) -> None:
        """Nothing depends on a step."""

    def close(self) -> None:
        """Nothing is held."""
