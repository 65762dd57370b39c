"""Keeps items of an array or keys of an object different while they are written, where a grammar cannot.

Such an item or key has one spelling, white space aside, so two are equal if their texts are. Which arrays and
objects are meant is asked of the grammar itself: in it a mark, a control character that no answer may hold,
could stand before each item. A token is forbidden if it completes an item that has been there, or if from
then on every way to complete the item would. That is looked up in the grammar, byte by byte, and only where
the item so far begins like an earlier one.

Doing so for all tokens that come into question takes milliseconds. Who can draw again asks `permits` of what
was drawn, and `hopeless` what falls with it. Only who needs a whole mask asks `forbid`.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from codellama.constraints import limits
from codellama.constraints.byte_table import ByteTable, Ids
from codellama.constraints.place import BLANK, FREE_MARK, KEY_MARK, MARK, VARIED_MARK, Place

ROOM = 32
"""Strings of so many characters may be any, where the mark is `FREE_MARK` or `KEY_MARK`."""
MARKS = bytes((VARIED_MARK, FREE_MARK, MARK, KEY_MARK))
"""The first of them that could stand somewhere counts."""
_COMMA = ord(",")
_KEPT = 64
"""Tokens that can be taken back: each place before one holds a list of its own."""
_ENDS = frozenset(b',]}"')
_HELPFUL = b'e0"]'
"""Bytes by which an item often becomes another one."""


def marked(mark: int) -> str:
    """The terminal of a mark."""
    return rf"/\x{{{mark}}}/"


def has_marks(grammar: str) -> bool:
    """Whether answers of this Lark grammar have to be watched."""
    return any(f": {marked(mark)}\n" in grammar for mark in MARKS)


class Unique:
    """Watches one answer. `state` is always the grammar's state before the token in question."""

    def __init__(self, table: ByteTable) -> None:
        self._table = table
        self._places = deque([Place()], maxlen=_KEPT + 1)
        self._words = np.zeros((len(table.pieces) + 31) // 32, np.uint32)
        self._helpful = deque(_HELPFUL, maxlen=len(_HELPFUL))

    def copy(self) -> Unique:
        """One in the same place, which goes its own way from here."""
        other = Unique(self._table)
        other._places = self._places.copy()
        return other

    def permits(self, state: LLMatcher, token: int) -> bool:
        """Whether this token, which fits the grammar, may come next."""
        place = self._after(state, token)
        if place is None:
            return False
        return not place.may_repeat or self._can_differ(place, _moved(state, token))

    def accept(self, state: LLMatcher, token: int) -> None:
        """Take the token as the next one."""
        self._places.append(self._after(state, token) or Place())

    def rollback(self, count: int) -> bool:
        """Forget the last `count` tokens; False if they are not remembered."""
        if count >= len(self._places):
            return False
        for _ in range(count):
            self._places.pop()
        return True

    def forbid(self, state: LLMatcher, allowed: npt.NDArray[np.bool_]) -> None:
        """Take away what is not permitted from the tokens that the grammar allows."""
        allowed[self._table.marked] = False
        for token in self._doubtful(allowed):
            if allowed[token] and not self.permits(state, int(token)):
                allowed[token] = False

    def hopeless(self, state: LLMatcher, token: int) -> Ids:
        """The tokens that are not permitted for the same reason as this one: they begin like it."""
        piece = self._table.pieces[token]
        size = self._walked(state, piece)[1]
        return self._table.starting_with(piece[: size + 1])

    def _after(self, state: LLMatcher, token: int) -> Place | None:
        """The place behind a token; None if an item repeats another, or if the token has a mark."""
        piece = self._table.pieces[token]
        place, size = self._walked(state, piece)
        return place if size == len(piece) else None

    def _walked(self, state: LLMatcher, piece: bytes) -> tuple[Place, int]:
        """The place behind as much of a token as does not make an item repeat another, and that length."""
        place = self._places[-1].copy()

        def probe(index: int) -> int:
            ahead = _moved(state, *(self._table.of_byte[byte] for byte in piece[: index + 1]))
            for mark in MARKS:
                if ahead.validate_tokens([self._table.of_byte[mark]]):
                    return mark
            return 0

        for index, byte in enumerate(piece):
            if byte in MARKS or not place.take(byte, index, probe):
                return place, index
        return place, len(piece)

    def _doubtful(self, allowed: npt.NDArray[np.bool_]) -> Ids | set[int]:
        """Tokens that may not be permitted; all others are."""
        place, table = self._places[-1], self._table
        commas = table.string_ends if place.string else table.commas
        if not place.may_repeat:
            return commas
        if not place.string:
            ids = np.flatnonzero(allowed)
            first = sorted(_ENDS | BLANK | place.used.bytes_after(place.item))
            return np.union1d(ids[np.isin(table.first[ids], first)], commas)
        found: set[int] = set()
        for before, tokens in table.quoting.items():
            if not before or place.used.continues(place.item + before + b'"'):
                found.update(tokens)
        if not _is_roomy(place, table.longest):
            for rest in place.used.after(place.item):
                found.update(table.beginning(rest))
        return found.union(commas.tolist())

    def _can_differ(self, place: Place, state: LLMatcher) -> bool:
        """Whether an item that begins like an earlier one can become another one.

        After `UNIQUE_STEPS` bytes looked at, that is taken for granted.
        """
        if _is_roomy(place) or self._soon_differs(place, state):
            return True
        path = [(place, state, self._next_bytes(place, state))]
        for _ in range(limits.UNIQUE_STEPS):
            here, at, choices = path[-1]
            known = here.used.verdicts
            if known.get(here.beginning):
                break
            if here.beginning in known or not choices:
                known[here.beginning] = False
                path.pop()
                if not path:
                    return False
                continue
            byte = choices.pop()
            ahead = here.copy()
            if not ahead.take(byte, 0, lambda _: 0):
                continue
            if not ahead.may_repeat or _is_roomy(ahead):
                self._helpful.append(byte)
                break
            after = _moved(at, self._table.of_byte[byte])
            if self._soon_differs(ahead, after):
                break
            path.append((ahead, after, self._next_bytes(ahead, after)))
        for here, _, _ in path:
            here.used.verdicts[here.beginning] = True
        return True

    def _soon_differs(self, place: Place, state: LLMatcher) -> bool:
        """Whether one of the bytes that often help makes the item another one; much quicker than a mask."""
        for byte in self._helpful:
            if not place.used.continues(place.item + bytes((byte,))) and state.validate_tokens(
                [self._table.of_byte[byte]]
            ):
                ahead = place.copy()
                if ahead.take(byte, 0, lambda _: 0) and not ahead.may_repeat:
                    return True
        return False

    def _next_bytes(self, place: Place, state: LLMatcher) -> list[int]:
        """The bytes that the grammar allows next, the best last: those that no earlier item has there, and
        then those that few have, since little has to be looked at there."""
        state.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        found = set(self._table.bytes_in(self._words)).difference(MARKS)
        if not place.string:
            found -= BLANK
        old = place.used.bytes_after(place.item)
        few = sorted(found & old, key=lambda b: -place.used.count(place.item + bytes((b,))))
        return [*few, *sorted(found - old, key=lambda b: b != _COMMA)]


def _is_roomy(place: Place, more: int = 0) -> bool:
    """Whether the item is a string that may go on with any character, also after so many `more` bytes."""
    is_string = place.item[:1] in (b"", b'"')
    return place.mark in (FREE_MARK, KEY_MARK) and is_string and len(place.item) + more <= ROOM


def _moved(state: LLMatcher, *tokens: int) -> LLMatcher:
    ahead = state.deep_copy()
    ahead.consume_tokens(list(tokens))
    return ahead
