"""Token bytes in, text that is safe to show out.

Half a UTF-8 character is held back until its rest arrives, and so is any end of the text that may begin
a stop string. When a stop string is complete, the text before it is the last there is.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable


class Detokenizer:
    """Turns one answer's tokens into text.

    `piece` gives a token's bytes. `stop` are the stop strings; the first one found is in `stopped`
    from then on. `drop_leading_space` removes one space at the very beginning. A line after the
    first that begins with fewer than `min_indent` spaces or tabs ends the text: `outdented`. From
    `no_stop_from` on, which is part of the text, stop strings count no more.
    """

    def __init__(
        self,
        piece: Callable[[int], bytes],
        stop: tuple[str, ...] = (),
        drop_leading_space: bool = False,
        min_indent: int = 0,
        no_stop_from: str | None = None,
    ) -> None:
        self.stopped: str | None = None
        self.outdented = False
        self._min_indent = min_indent
        self._indent: int | None = None  # of the line that has just begun
        self._piece = piece
        self._stop = (*stop, no_stop_from) if stop and no_stop_from is not None else stop
        self._no_stop_from = no_stop_from
        self._drop_space = drop_leading_space
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""

    def push(self, token: int) -> str:
        """Take the next token; return the text that is now certain."""
        return self._indented(self._take(self._decode(self._piece(token))))

    def flush(self) -> str:
        """The answer is over: return what was held back (nothing after a stop string)."""
        if self.stopped is not None or self.outdented:
            return ""
        text = self._take(self._decode(b"", True))
        held, self._held = self._held, ""
        return "" if self.stopped is not None else self._indented(text + held)

    def _indented(self, text: str) -> str:
        """`text` up to the first character of a line that is not indented enough."""
        if not self._min_indent:
            return text
        for i, character in enumerate(text):
            if self._indent is not None and character in " \t":
                self._indent += 1
            elif self._indent is not None and self._indent < self._min_indent:
                self.outdented = True
                return text[:i]
            else:
                self._indent = 0 if character == "\n" else None
        return text

    def _take(self, text: str) -> str:
        if text and self._drop_space:
            self._drop_space = False
            text = text.removeprefix(" ")
        if self.stopped is not None:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        found = find_stop(text, self._stop)
        if found is not None:
            position, string = found
            self._held = ""
            if string == self._no_stop_from:
                self._stop = ()
                return text
            self.stopped = string
            return text[:position]
        safe = len(text) - partial_stop(text, self._stop)
        self._held = text[safe:]
        return text[:safe]


def find_stop(text: str, stop: tuple[str, ...]) -> tuple[int, str] | None:
    """Position and string of the earliest stop string in `text`; of two at one place, the longer."""
    hits = [(text.find(s), -len(s), s) for s in stop if s in text]
    if not hits:
        return None
    position, _, string = min(hits)
    return position, string


def partial_stop(text: str, stop: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that a stop string begins with, but is not all of it."""
    longest = 0
    for s in stop:
        for n in range(min(len(s) - 1, len(text)), longest, -1):
            if text.endswith(s[:n]):
                longest = n
                break
    return longest
