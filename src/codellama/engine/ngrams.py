"""Where a text already said what it says now: pure lookups over token ids, at a constant cost per token."""

from __future__ import annotations

# Lengths of the remembered n-grams, the best first: the more tokens agree, the surer is what follows.
ORDERS = (12, 6, 3)
# Who copies with a change is soon back: so many tokens later at most, and as far away at most.
REACH = 16
# Tokens of earlier answers that are remembered, in two halves: the older is dropped when the newer is full.
PAST_TOKENS = 1 << 15


class NgramIndex:
    """Where in a growing list of tokens each n-gram ended last; a new token costs O(1).

    Keys are hashes: two n-grams with one hash only lead to a wrong guess.
    """

    def __init__(self) -> None:
        self._ends: list[dict[int, int]] = [{} for _ in ORDERS]
        self._last: list[int] = []  # keys of the n-grams that the tokens end with
        self._length = 0

    @property
    def keys(self) -> list[int]:
        """The keys of the n-grams that the text ended with at the latest `find`, longest first; empty
        for a text shorter than the longest."""
        return self._last

    def find(self, tokens: list[int]) -> tuple[int, int] | None:
        """(order, position) of what followed the longest n-gram that `tokens` ends with, if it stood
        there before. `tokens` may only have grown since the last call."""
        if len(tokens) == self._length + 1 and self._last:
            for ends, key in zip(self._ends, self._last, strict=True):
                ends[key] = self._length
        elif len(tokens) > self._length:
            _remember(self._ends, tokens, self._length)
        self._length = len(tokens)
        self._last = []
        if self._length >= ORDERS[0]:
            self._last = [hash(tuple(tokens[-n:])) for n in ORDERS]
            return _longest(self._ends, self._last)
        return self._find_short(tokens)

    def _find_short(self, tokens: list[int]) -> tuple[int, int] | None:
        for n, ends in zip(ORDERS, self._ends, strict=True):
            position = ends.get(hash(tuple(tokens[-n:]))) if len(tokens) > n else None
            if position is not None:
                return n, position
        return None


class Past:
    """The latest answers of all requests, and where in them each n-gram ended last."""

    def __init__(self, n_tokens: int = PAST_TOKENS) -> None:
        self._half = n_tokens // 2
        self._newer = _Half()
        self._older = _Half()

    def add(self, tokens: list[int]) -> None:
        """Remember an answer with the tokens before it; of a very long one its end."""
        tokens = tokens[-self._half :]
        if len(self._newer.tokens) + len(tokens) > self._half:
            self._older, self._newer = self._newer, _Half()
        self._newer.add(tokens)

    def find(self, keys: list[int]) -> tuple[int, tuple[list[int], int]] | None:
        """(order, (tokens, position)) of what followed the longest n-gram with one of these `keys`."""
        for half in (self._newer, self._older):
            found = _longest(half.ends, keys)
            if found is not None:
                order, position = found
                return order, (half.tokens, position)
        return None


class _Half:
    """Tokens of several texts, one after the other."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ends: list[dict[int, int]] = [{} for _ in ORDERS]

    def add(self, text: list[int]) -> None:
        _remember(self.ends, text, at=len(self.tokens))
        self.tokens += text


def _remember(ends: list[dict[int, int]], tokens: list[int], start: int = 0, at: int = 0) -> None:
    """Where each n-gram of `tokens` ended that something from position `start` on follows; the first
    of the tokens stands at position `at`."""
    for n, known in zip(ORDERS, ends, strict=True):
        first = max(n, start)
        if first < len(tokens):
            columns = [tokens[first - n + i : len(tokens) - n + i] for i in range(n)]
            keys = map(hash, zip(*columns, strict=True))
            known.update(zip(keys, range(at + first, at + len(tokens)), strict=True))


def _longest(ends: list[dict[int, int]], keys: list[int]) -> tuple[int, int] | None:
    """(order, position) of the longest of the n-grams with these `keys` that is known."""
    for n, known, key in zip(ORDERS, ends, keys, strict=False):
        if key in known:
            return n, known[key]
    return None


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
