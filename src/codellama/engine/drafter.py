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
# Who copies with a change is soon back: so many tokens later at most, and as far away at most.
REACH = 16


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
    """Continues as the prompt or the answer did after the same last tokens; and where a copy is left for
    a change, near the place where it was left."""

    seconds_per_token = 0.0

    # Code that is being edited is mostly copied; these only matter until something has been measured.
    _OUTLOOKS = {
        12: Outlook("ngram-12", 0.85),
        6: Outlook("ngram-6", 0.7),
        3: Outlook("ngram-3", 0.5),
    }
    _NEAR = Outlook("ngram-near", 0.4)

    def __init__(self) -> None:
        self._indices: dict[Sequence, NgramIndex] = {}
        self._next: dict[Sequence, int] = {}  # where the latest outlook would copy from
        self._copied: dict[
            Sequence, tuple[int, int]
        ] = {}  # the latest n-gram's, and the length then

    def outlook(self, sequence: Sequence) -> Outlook | None:
        """The kind of the longest n-gram that the text ends with and held before, or of a change."""
        index = self._indices.get(sequence)
        if index is None:
            index = self._indices[sequence] = NgramIndex()
        tokens = sequence.tokens
        found = index.find(tokens)
        if found is not None:
            order, position = found
            self._next[sequence] = position
            self._copied[sequence] = position, len(tokens)
            return self._OUTLOOKS[order]
        copied = self._copied.get(sequence)
        near = None if copied is None else after_change(tokens, *copied)
        if near is None:
            return None
        self._next[sequence] = near
        return self._NEAR

    def draft(self, wishes: Many[Wish]) -> list[list[int]]:
        """What stands where the latest `outlook` found it."""
        return [
            continuation(wish.sequence.tokens, self._next[wish.sequence], wish.length)
            for wish in wishes
        ]

    def forget(self, sequence: Sequence) -> None:
        """Drop the sequence's index."""
        self._indices.pop(sequence, None)
        self._next.pop(sequence, None)
        self._copied.pop(sequence, None)

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


def after_change(tokens: list[int], position: int, length: int) -> int | None:
    """Where a copy may go on that was begun from `position` when there were `length` tokens, and left
    since: behind the same token as the last one if that stands near, else as if tokens had only been
    replaced. None if that was too long ago.
    """
    new = tokens[length:]
    pairs = zip(new, tokens[position : position + len(new)], strict=False)
    kept = next((i for i, (mine, theirs) in enumerate(pairs) if mine != theirs), len(new))
    left = position + kept
    changed = len(new) - kept
    if changed > REACH:
        return None
    near = tokens[left : min(left + REACH, len(tokens) - 1)]
    if changed and tokens[-1] in near:
        return left + near.index(tokens[-1]) + 1
    return min(left + changed, len(tokens) - 1)
