"""A vocabulary's tokens by their bytes, for looking at JSON inside of tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.intp]


class ByteTable:
    """Made once for a vocabulary, of all its tokens' bytes."""

    def __init__(self, pieces: Sequence[bytes], marks: bytes) -> None:
        self.pieces = pieces
        self.longest = max(map(len, pieces), default=1)
        self._ids: dict[bytes, list[int]] = {}
        for token, piece in enumerate(pieces):
            self._ids.setdefault(piece, []).append(token)
        order = sorted(range(len(pieces)), key=lambda token: pieces[token])
        self._sorted = [pieces[token] for token in order]
        self._order = np.array(order, np.intp)
        self.first = np.array([piece[0] if piece else 0 for piece in pieces], np.uint8)
        self.marked = self._those(lambda piece: any(mark in piece for mark in marks))
        """Tokens with a control character that is used as a mark."""
        self.quoting: dict[bytes, list[int]] = {}
        """Tokens with a quotation mark, by what stands before it; by nothing, if that has an escape."""
        for token in self._those(lambda piece: b'"' in piece).tolist():
            before = pieces[token].partition(b'"')[0]
            self.quoting.setdefault(b"" if b"\\" in before else before, []).append(token)
        self.commas = self._those(lambda piece: b"," in piece)
        self.string_ends = self._those(lambda piece: b"," in piece.partition(b'"')[2])
        """Tokens that may end a string and begin the next item."""

    def _those(self, has: Callable[[bytes], bool]) -> Ids:
        return np.array([t for t, piece in enumerate(self.pieces) if has(piece)], np.intp)

    def beginning(self, text: bytes) -> list[int]:
        """The tokens that the text begins with."""
        found: list[int] = []
        for size in range(1, min(len(text), self.longest) + 1):
            found += self._ids.get(text[:size], ())
        return found

    def starting_with(self, text: bytes) -> Ids:
        """The tokens whose bytes begin with the text."""
        first = bisect_left(self._sorted, text)
        behind = bisect_left(
            self._sorted, True, first, key=lambda piece: not piece.startswith(text)
        )
        return self._order[first:behind]
