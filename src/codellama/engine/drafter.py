"""Guesses at the tokens that come next. They are checked by the model in one step, so a wrong guess costs
a row of a batch and never changes an answer.

A `Drafter` says for each sequence what kind of guess it could make (`outlook`), and makes those that are
wanted (`draft`). `NgramDrafter` looks for the latest place where the text already said what it says now.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

from codellama.engine.sequence import Sequence

# Lengths of the remembered n-grams, the best first: the more tokens agree, the surer is what follows.
ORDERS = (12, 6, 3)


@dataclass(frozen=True)
class Outlook:
    """A kind of guess, and the chance that a token of it is right as long as nothing was measured."""

    kind: str
    chance: float


@dataclass(frozen=True)
class Wish:
    """A draft of up to `length` tokens is wanted for `sequence`."""

    sequence: Sequence
    length: int


class Drafter(Protocol):
    """Something that guesses. Only the engine's thread calls it."""

    @property
    def seconds_per_token(self) -> float:
        """What one more token costs, for all sequences of a `draft` together."""

    def outlook(self, sequence: Sequence) -> Outlook | None:
        """What kind of guess can be made after the sequence's tokens; None: no idea."""

    def draft(self, wishes: Many[Wish]) -> list[list[int]]:
        """A guess per wish; it may be shorter than wished, or empty."""

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended, or its older tokens have changed."""

    def reset(self) -> None:
        """Start afresh after a failed step."""

    def close(self) -> None:
        """Free everything."""


class NgramIndex:
    """Where in a growing list of tokens each n-gram ended last; a new token costs O(1).

    Keys are hashes: two n-grams with one hash only lead to a wrong guess.
    """

    def __init__(self) -> None:
        self._ends: list[dict[int, int]] = [{} for _ in ORDERS]
        self._last: list[int] = []  # keys of the n-grams that the tokens end with
        self._length = 0

    def find(self, tokens: list[int]) -> tuple[int, int] | None:
        """(order, position) of what followed the longest n-gram that `tokens` ends with, if it stood
        there before. `tokens` may only have grown since the last call."""
        if len(tokens) == self._length + 1 and self._last:
            for ends, key in zip(self._ends, self._last, strict=True):
                ends[key] = self._length
        elif len(tokens) > self._length:
            self._add(tokens)
        self._length = len(tokens)
        self._last = []
        if self._length >= ORDERS[0]:
            self._last = [hash(tuple(tokens[-n:])) for n in ORDERS]
            for n, ends, key in zip(ORDERS, self._ends, self._last, strict=True):
                if key in ends:
                    return n, ends[key]
            return None
        return self._find_short(tokens)

    def _find_short(self, tokens: list[int]) -> tuple[int, int] | None:
        for n, ends in zip(ORDERS, self._ends, strict=True):
            position = ends.get(hash(tuple(tokens[-n:]))) if len(tokens) > n else None
            if position is not None:
                return n, position
        return None

    def _add(self, tokens: list[int]) -> None:
        """All n-grams that something follows, from the end of the last call on."""
        for n, ends in zip(ORDERS, self._ends, strict=True):
            first = max(n, self._length)
            if first < len(tokens):
                columns = [tokens[first - n + i : len(tokens) - n + i] for i in range(n)]
                hashes = map(hash, zip(*columns, strict=True))
                ends.update(zip(hashes, range(first, len(tokens)), strict=True))


class NgramDrafter:
    """Continues as the prompt or the answer did after the same last tokens."""

    seconds_per_token = 0.0

    # Code that is being edited is mostly copied; these only matter until something has been measured.
    _OUTLOOKS = {
        12: Outlook("ngram-12", 0.85),
        6: Outlook("ngram-6", 0.7),
        3: Outlook("ngram-3", 0.5),
    }

    def __init__(self) -> None:
        self._indices: dict[Sequence, NgramIndex] = {}
        self._found: dict[Sequence, int] = {}

    def outlook(self, sequence: Sequence) -> Outlook | None:
        """The kind of the longest n-gram that the text ends with and held before."""
        index = self._indices.get(sequence)
        if index is None:
            index = self._indices[sequence] = NgramIndex()
        found = index.find(sequence.tokens)
        if found is None:
            return None
        order, self._found[sequence] = found
        return self._OUTLOOKS[order]

    def draft(self, wishes: Many[Wish]) -> list[list[int]]:
        """What stands after the n-grams that the latest `outlook` found."""
        return [
            continuation(wish.sequence.tokens, self._found[wish.sequence], wish.length)
            for wish in wishes
        ]

    def forget(self, sequence: Sequence) -> None:
        """Drop the sequence's index."""
        self._indices.pop(sequence, None)
        self._found.pop(sequence, None)

    def reset(self) -> None:
        """Nothing depends on a step."""

    def close(self) -> None:
        """Nothing is held."""


def continuation(tokens: list[int], position: int, length: int) -> list[int]:
    """`length` tokens from `position` on; where the text ends it is taken to repeat from there."""
    period = len(tokens) - position
    found = tokens[position : position + length]
    while len(found) < length:
        found += found[-period:][: length - len(found)]
    return found
