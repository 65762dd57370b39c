"""Keeps items of an array or keys of an object different while they are written, where a grammar cannot.

Such an item or key has one spelling, white space aside, so two are equal if their texts are. Which arrays and
objects are meant is asked of the grammar itself: in it a mark, a control character that no answer may hold,
could stand before each item. A token is forbidden if it completes an item that has been there, or if from
then on every way to complete the item would. That is looked up in the grammar, byte by byte, and only where
the item so far begins like an earlier one.

Doing so for all tokens that come into question takes milliseconds. Who can draw again asks `permits` of what
was drawn, and `hopeless` what falls with it. Only who needs a whole mask asks `forbid`.

The grammar is asked in a copy whose tokens are bytes, which follows the answer: there it takes microseconds
to tell what may come next. An item that is complete leaves beginnings behind it that lead nowhere any more.
They are found a few at each token that follows, so that no token waits until a domain is looked through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from codellama.constraints import limits
from codellama.constraints.byte_table import ByteTable, Ids
from codellama.constraints.place import (
    BLANK,
    FREE_MARK,
    KEY_MARK,
    MARK,
    VARIED_MARK,
    Place,
    unmarked,
)

ROOM = 32
"""Strings of so many characters may be any, where the mark is `FREE_MARK` or `KEY_MARK`."""
MARKS = bytes((VARIED_MARK, FREE_MARK, MARK, KEY_MARK))
"""The first of them that could stand somewhere counts."""
_COMMA = ord(",")
_KEPT = 64
"""Tokens that can be taken back: each place before one holds a list of its own."""
_CHORES = 8
"""Steps of a chore that are done with each token: a tenth of a millisecond."""
_LONGEST_CHORE = 256
"""Items of more bytes are left alone: a domain of such is hardly ever used up."""
_ENDS = frozenset(b',]}"')
_BITS = [[bit for bit in range(8) if byte >> bit & 1] for byte in range(256)]


def marked(mark: int) -> str:
    """The terminal of a mark."""
    return rf"/\x{{{mark}}}/"


def has_marks(grammar: str) -> bool:
    """Whether answers of this Lark grammar have to be watched."""
    return any(f": {marked(mark)}\n" in grammar for mark in MARKS)


class Unique:
    """Watches one answer, token by token."""

    def __init__(self, state: LLMatcher, table: ByteTable) -> None:
        """`state` is before the answer in a grammar of bytes; from now on it is this object's."""
        self._state = state
        self._table = table
        self._places = deque([Place()], maxlen=_KEPT + 1)
        self._sizes: deque[int] = deque(maxlen=_KEPT)
        self._chore: Iterator[None] = iter(())
        self._walk: tuple[bytes, Place, int] | None = None

    def copy(self) -> Unique:
        """One in the same place, which goes its own way from here."""
        other = Unique(self._state.deep_copy(), self._table)
        other._places, other._sizes = self._places.copy(), self._sizes.copy()
        return other

    @property
    def error(self) -> str:
        """What went wrong in llguidance, if anything."""
        return str(self._state.get_error())

    def permits(self, token: int) -> bool:
        """Whether this token, which fits the grammar, may come next."""
        piece = self._table.pieces[token]
        place, size = self._walked(piece)
        if size < len(piece):
            return False
        if not place.may_repeat:
            return True
        moved = self._state.try_consume_tokens(list(piece))
        permitted = moved == size and self._can_differ(place, self._state)
        self._state.rollback(moved)
        return permitted

    def accept(self, token: int, ends: bool = False) -> bool:
        """Take the token as the next one, or as the one that `ends` the answer and has no text.

        False if the grammar does not let it come.
        """
        piece = b"" if ends else self._table.pieces[token]
        place, size = self._walked(piece)
        place = place if size == len(piece) else Place()
        accepted = bool(self._state.consume_tokens(list(piece)))
        if place.watched and place.used.latest and place.used is not self._places[-1].used:
            self._chore = self._close_off(place)
        self._places.append(place)
        self._sizes.append(len(piece))
        self._walk = None
        for _ in islice(self._chore, _CHORES):
            pass
        return accepted

    def rollback(self, count: int) -> bool:
        """Forget the last `count` tokens; False if they are not remembered."""
        if count >= len(self._places):
            return False
        self._walk, self._chore = None, iter(())
        for _ in range(count):
            self._places.pop()
        return bool(self._state.rollback(sum(self._sizes.pop() for _ in range(count))))

    def forbid(self, allowed: npt.NDArray[np.bool_]) -> None:
        """Take away what is not permitted from the tokens that the grammar allows."""
        allowed[self._table.marked] = False
        for token in self._doubtful(allowed):
            if allowed[token] and not self.permits(int(token)):
                allowed[token] = False

    def hopeless(self, token: int) -> Ids:
        """The tokens that are not permitted for the same reason as this one: they begin like it."""
        piece = self._table.pieces[token]
        return self._table.starting_with(piece[: self._walked(piece)[1] + 1])

    def _walked(self, piece: bytes) -> tuple[Place, int]:
        """The place behind as much of a token as does not make an item repeat another, and that length."""
        if self._walk is not None and self._walk[0] == piece:
            return self._walk[1:]
        place, moved = self._places[-1].copy(), 0

        def probe(index: int) -> int:
            nonlocal moved
            moved += self._state.try_consume_tokens(list(piece[moved : index + 1]))
            marks = (mark for mark in MARKS if self._state.validate_tokens([mark]))
            return next(marks, 0)

        size = 0
        for size, byte in enumerate(piece):
            if byte in MARKS or not place.take(byte, size, probe):
                break
        else:
            size = len(piece)
        self._state.rollback(moved)
        self._walk = piece, place, size
        return place, size

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
        if not _is_roomy(place.mark, place.item, table.longest):
            for rest in place.used.after(place.item):
                found.update(table.beginning(rest))
        return found.union(commas.tolist())

    def _close_off(self, place: Place) -> Iterator[None]:
        """Find out which beginnings of the latest item lead nowhere now, the longest first; step by step."""
        item, places = place.used.latest, [place.before_item()]
        if len(item) > _LONGEST_CHORE or _is_roomy(place.mark, item):
            return
        state = self._state.deep_copy()
        state.rollback(place.since)
        for index, byte in enumerate(item):
            after = places[-1].copy()
            if not (after.take(byte, 0, unmarked) and state.try_consume_tokens([byte])):
                break
            places.append(after)
            if index % 8 == 7:
                yield
        while places and not self._can_differ(places[-1], state):
            places.pop()
            state.rollback(1)
            yield
        place.used.alive.update(before.beginning for before in places)

    def _can_differ(self, place: Place, state: LLMatcher) -> bool:
        """Whether an item that begins like an earlier one can become another one.

        After `UNIQUE_STEPS` bytes looked at, that is taken for granted. `state` moves on and comes back.
        """
        if place.beginning in place.used.dead:
            return False
        if _is_alive(place):
            return True
        path = [(place, self._next_bytes(place, state))]
        for _ in range(limits.UNIQUE_STEPS):
            here, choices = path[-1]
            if not choices:
                here.used.dead.add(here.beginning)
                path.pop()
                if not path:
                    return False
                state.rollback(1)
                continue
            byte = choices.pop()
            ahead = here.copy()
            if not ahead.take(byte, 0, unmarked) or ahead.beginning in ahead.used.dead:
                continue
            if not ahead.may_repeat or _is_alive(ahead):
                break
            state.consume_tokens([byte])
            path.append((ahead, self._next_bytes(ahead, state)))
        place.used.alive.update(here.beginning for here, _ in path)
        state.rollback(len(path) - 1)
        return True

    def _next_bytes(self, place: Place, state: LLMatcher) -> list[int]:
        """The bytes that the grammar allows next, the best last: those that no earlier item has there, and
        then those that few have, since little has to be looked at there."""
        mask = state.compute_bitmask()[:32]
        found = {8 * at + bit for at, bits in enumerate(mask) if bits for bit in _BITS[bits]}
        found.difference_update(MARKS)
        if not place.string:
            found -= BLANK
        old = place.used.bytes_after(place.item)
        few = sorted(found & old, key=lambda b: -place.used.count(place.item + bytes((b,))))
        fresh = found - old
        return [*few, *fresh - {_COMMA}, *fresh & {_COMMA}]


def _is_alive(place: Place) -> bool:
    """Whether it is known that the item can become another one."""
    return place.beginning in place.used.alive or _is_roomy(place.mark, place.item)


def _is_roomy(mark: int, item: bytes, more: int = 0) -> bool:
    """Whether the item is a string that may go on with any character, also after so many `more` bytes."""
    is_string = item[:1] in (b"", b'"')
    return mark in (FREE_MARK, KEY_MARK) and is_string and len(item) + more <= ROOM
