"""Where in its JSON an answer is, and what has been there of items or keys that have to differ."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

BLANK = frozenset(b" \n\t\r")
_QUOTE, _BACKSLASH, _COMMA = b'"\\,'
_OPENING, _CLOSING = frozenset(b"[{"), frozenset(b"]}")

MARK, FREE_MARK, KEY_MARK, VARIED_MARK = 1, 2, 3, 4
"""What stands for a watched array in its grammar, for a watched object's keys, and for an array whose items
are not all of one kind; see `unique`."""

Probe = Callable[[int], int]
"""Which mark could stand behind the byte of a token at this index; 0 for none."""
Beginning = tuple[bytes, bool]


def unmarked(_: int) -> int:
    """A `Probe` for bytes inside of an item."""
    return 0


class Used:
    """The texts of an array's items so far. They are never changed: `more` makes new ones."""

    def __init__(
        self, texts: list[bytes], latest: bytes = b"", dead: set[Beginning] | None = None
    ) -> None:
        self._texts = texts
        self.latest = latest
        """The item before."""
        self.dead = dead or set()
        """Beginnings of the next item (see `Place.beginning`) that are known to lead to none that is new."""
        self.alive: set[Beginning] = set()
        """Beginnings that are known to lead to one."""

    def __contains__(self, text: bytes) -> bool:
        at = bisect_left(self._texts, text)
        return at < len(self._texts) and self._texts[at] == text

    def continues(self, start: bytes) -> bool:
        """Whether one of the texts begins like this."""
        at = bisect_left(self._texts, start)
        return at < len(self._texts) and self._texts[at].startswith(start)

    def count(self, start: bytes) -> int:
        """How many of the texts begin like this; `start` ends with a byte of UTF-8."""
        end = start[:-1] + bytes((start[-1] + 1,))
        return bisect_left(self._texts, end) - bisect_left(self._texts, start)

    def after(self, start: bytes) -> Iterator[bytes]:
        """What comes after this beginning, in each of the texts that has it."""
        for at in range(bisect_left(self._texts, start), len(self._texts)):
            if not self._texts[at].startswith(start):
                break
            yield self._texts[at][len(start) :]

    def bytes_after(self, start: bytes) -> set[int]:
        """The bytes that come next in the texts that begin like this."""
        found: set[int] = set()
        texts, size = self._texts, len(start)
        at = bisect_left(texts, start)
        while at < len(texts) and texts[at].startswith(start):
            if len(texts[at]) == size:
                at += 1
                continue
            byte = texts[at][size]
            found.add(byte)
            if byte == 255:
                break
            at = bisect_left(texts, start + bytes((byte + 1,)), at)
        return found

    def more(self, text: bytes, same_kind: bool = True) -> Used:
        """These texts and one more. What led nowhere before still does, if items are of the `same_kind`."""
        texts = self._texts.copy()
        insort(texts, text)
        return Used(texts, text, self.dead.copy() if same_kind else None)


NO_ITEMS = Used([])


class Place:
    """The state after some bytes of an answer. `take` moves it on by one byte.

    An array's items are watched, or an object's keys: below, an item may be such a key. What is around the
    outermost of them does not matter, and need not be JSON. Depths are counted from there.
    """

    __slots__ = ("_depth", "_outer", "blank", "item", "mark", "since", "string", "used", "watched")

    def __init__(self) -> None:
        self._depth = 0
        self._outer: tuple[tuple[int, int, Used], ...] = ()
        """Objects whose keys are watched, while a value is written in them: depth, mark, keys so far."""
        self.string = 0
        """1 inside a string, 2 behind a backslash in it."""
        self.blank = False
        """Whether white space was the last byte, behind which a number cannot go on."""
        self.watched = 0
        """The depth of the array or object that is watched; 0 for none."""
        self.mark = 0
        """The mark that could stand before the present item."""
        self.item = b""
        """That item so far, without white space."""
        self.since = 0
        """How many bytes ago that item began, white space included."""
        self.used = NO_ITEMS

    def copy(self) -> Place:
        """The same place, which goes its own way from here."""
        place = Place.__new__(Place)
        place._depth, place._outer, place.string = self._depth, self._outer, self.string
        place.watched, place.mark, place.item = self.watched, self.mark, self.item
        place.used, place.blank, place.since = self.used, self.blank, self.since
        return place

    def before_item(self) -> Place:
        """The place before the first byte of the present item."""
        place = self.copy()
        place._depth, place.string, place.blank = self.watched, 0, False
        place.item, place.since = b"", 0
        return place

    @property
    def beginning(self) -> Beginning:
        """All that matters for how the item may go on."""
        return self.item, self.blank

    @property
    def may_repeat(self) -> bool:
        """Whether the item begins like an earlier one, so that it might become the same."""
        return self.watched > 0 and self.used.continues(self.item)

    def take(self, byte: int, index: int, probe: Probe) -> bool:
        """Move on by a byte, the one at `index` of its token. False if an item repeats an earlier one."""
        self.since += 1
        if not (self.watched or self._outer):
            if byte in _OPENING:
                self._depth = 1
                self._watch(probe(index))
            return True
        if self.string:
            self._keep(byte)
            return self._in_string(byte)
        return self._between_strings(byte, index, probe)

    def _between_strings(self, byte: int, index: int, probe: Probe) -> bool:
        self.blank = byte in BLANK
        if self.blank:
            return not self._repeats()
        if byte == _COMMA or byte in _CLOSING:
            self._resume()
            if byte != _COMMA:
                return self._close(byte)
            if self._depth == self.watched:
                return self._next(index, probe)
        self._keep(byte)
        if byte == _QUOTE:
            self.string = 1
        elif byte in _OPENING:
            self._depth += 1
            if not self.watched:
                self._watch(probe(index))
        return True

    def _keep(self, byte: int) -> None:
        if self.watched:
            self.item += bytes((byte,))

    def _repeats(self) -> bool:
        return self.watched > 0 and self._depth == self.watched and self.item in self.used

    def _in_string(self, byte: int) -> bool:
        if self.string == 2:
            self.string = 1
        elif byte == _BACKSLASH:
            self.string = 2
        elif byte == _QUOTE:
            self.string = 0
            if self._repeats():
                return False
            if self.mark == KEY_MARK and self._depth == self.watched:
                kept = (self._depth, self.mark, self.used.more(self.item))
                self._outer = (*self._outer, kept)
                self._watch(0)
        return True

    def _resume(self) -> None:
        """Watch keys again if this ends a value beside them."""
        if self._outer and not self.watched and self._depth == self._outer[-1][0]:
            self.watched, self.mark, self.used = self._outer[-1]
            self._outer = self._outer[:-1]

    def _next(self, index: int, probe: Probe) -> bool:
        before = self.mark
        if before != KEY_MARK and self._repeats():
            return False
        self.mark = probe(index)
        if before != KEY_MARK:
            self.used = self.used.more(self.item, before == self.mark != VARIED_MARK)
        self.item, self.since = b"", 0
        if not self.mark:  # what came so far was of another array or object that begins the same
            self._watch(0)
        return True

    def _close(self, byte: int) -> bool:
        if self._depth == self.watched:
            repeats = self._repeats()
            self._watch(0)
        else:
            self._keep(byte)
            repeats = False
        self._depth -= 1
        return not (repeats or self._repeats())

    def _watch(self, mark: int) -> None:
        """Begin to watch the array or object that has just been opened; with 0, watch none."""
        self.watched = self._depth if mark else 0
        self.mark, self.item, self.since, self.used = mark, b"", 0, NO_ITEMS
