"""Looks at a GBNF grammar before llama.cpp parses it: size, nesting, repetitions and what they unroll to.

llama.cpp's parser recurses over nested groups and writes repetitions out, so their sizes are bounded here.
Whatever else is wrong in a grammar is left for llama.cpp to find.
"""

from __future__ import annotations

from dataclasses import dataclass

from codellama.constraints import limits
from codellama.errors import GrammarError


@dataclass
class _Part:
    """A group that is open: symbols in it so far, and those of its last element."""

    symbols: int = 0
    last: int = 0

    def add(self, symbols: int) -> None:
        """Put one more element behind the others."""
        self.symbols += symbols
        self.last = symbols


def check_gbnf(text: str, param: str = "grammar") -> None:
    """Raises GrammarError, which names `param`, if the grammar passes one of the bounds."""
    if not isinstance(text, str):
        raise GrammarError("{param} must be a string", param)
    if len(text.encode("utf-8", "surrogatepass")) > limits.GBNF_BYTES:
        raise GrammarError(
            "{param} is larger than {most} bytes",
            param,
            "send a smaller one",
            most=limits.GBNF_BYTES,
        )
    if "\0" in text:  # where a text ends for llama.cpp
        raise GrammarError("{param} has a null character", param, "write it as \\x00")
    _Scanner(text, param).scan()


class _Scanner:
    def __init__(self, text: str, param: str) -> None:
        self._text = text
        self._param = param
        self._at = 0
        self._open = [_Part()]

    def scan(self) -> None:
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "#":
                self._skip_line()
            elif char in '"[':
                self._skip_quoted('"' if char == '"' else "]")
            elif char == "(":
                self._enter()
            elif char == ")":
                self._leave()
            elif char in "*+?":
                self._at += 1
                self._repeat(2)
            elif char == "{":
                self._repeat(self._bounds())
            elif char.isspace() or char == "|":
                self._at += 1
            else:
                self._word()

    def _skip_line(self) -> None:
        end = self._text.find("\n", self._at)
        self._at = len(self._text) if end < 0 else end + 1

    def _skip_quoted(self, end: str) -> None:
        start = self._at
        self._at += 1
        while self._at < len(self._text) and self._text[self._at] != end:
            self._at += 2 if self._text[self._at] == "\\" else 1
        self._at += 1
        self._add(self._at - start if end == '"' else 1)

    def _word(self) -> None:
        start = self._at
        while self._at < len(self._text) and self._text[self._at] not in '#"[(){}*+?| \t\r\n':
            self._at += 1
        self._at += self._at == start
        self._add(1)

    def _enter(self) -> None:
        self._at += 1
        self._open.append(_Part())
        if len(self._open) > limits.GBNF_DEPTH + 1:
            raise self._error(
                f"nests groups deeper than {limits.GBNF_DEPTH}",
                "give inner groups names of their own",
            )

    def _leave(self) -> None:
        self._at += 1
        if len(self._open) == 1:
            raise self._error("has a ) without its (")
        inner = self._open.pop()
        self._add(inner.symbols + 1)

    def _add(self, symbols: int) -> None:
        self._open[-1].add(symbols)
        self._check_total()

    def _repeat(self, times: int) -> None:
        part = self._open[-1]
        extra = part.last * max(0, times - 1)
        part.symbols += extra
        part.last += extra
        self._check_total()

    def _check_total(self) -> None:
        if sum(part.symbols for part in self._open) > limits.GBNF_SYMBOLS:
            raise self._error(
                f"has repetitions that unroll to more than {limits.GBNF_SYMBOLS} symbols",
                "repeat less, or use * and +",
            )

    def _bounds(self) -> int:
        """The larger count of a repetition in braces; leaves what is no repetition to llama.cpp."""
        end = self._text.find("}", self._at)
        inner = self._text[self._at + 1 : end] if end > 0 else ""
        low, comma, high = (part.strip() for part in inner.partition(","))
        self._at = end + 1 if end > 0 else len(self._text)
        if not (low.isascii() and low.isdigit()) or (
            high and not (high.isascii() and high.isdigit())
        ):
            raise self._error(
                "has the repetition {" + inner[:40] + "}",
                "write {{m}}, {{m,}} or {{m,n}}",
            )
        if max(len(low), len(high)) > 6 or int(high or low) > limits.GBNF_REPEATS:
            raise self._error(
                f"repeats something more than {limits.GBNF_REPEATS} times",
                "use * or +, or repeat less",
            )
        if high and int(high) < int(low):
            raise self._error(
                "has the repetition {" + inner[:40] + "} whose bounds are in the wrong order",
            )
        return max(int(low), int(high or 0)) + bool(comma and not high)

    def _error(self, reason: str, remedy: str = "") -> GrammarError:
        return GrammarError("{param} {reason}", self._param, remedy, reason=reason)
