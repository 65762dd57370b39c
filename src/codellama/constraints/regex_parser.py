"""Reads the text of an ECMA-262 regular expression into the tree of `regex_tree`."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from codellama.constraints import limits
from codellama.constraints.regex_tree import (
    HIGHEST,
    Alt,
    Anchor,
    Chars,
    Look,
    Ranges,
    Repeat,
    Seq,
    Tree,
    inverse,
    normal,
)

_DIGIT: Ranges = ((48, 57),)
_WORD = normal([(48, 57), (65, 90), (95, 95), (97, 122)])
_SPACE = normal(
    [(9, 13), (32, 32), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)]
    + [(0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)]
)
_NEWLINES = normal([(10, 10), (13, 13), (0x2028, 0x2029)])
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
_CATEGORIES = {
    "Letter": "L",
    "Lowercase_Letter": "Ll",
    "Uppercase_Letter": "Lu",
    "Mark": "M",
    "Number": "N",
    "Decimal_Number": "Nd",
    "Punctuation": "P",
    "Symbol": "S",
    "Separator": "Z",
    "digit": "Nd",
    "punct": "P",
    "Titlecase_Letter": "Lt",
    "Other": "C",
    "Control": "Cc",
}


class PatternError(Exception):
    """What cannot be read or enforced in a regular expression."""


def parse(source: str) -> Tree:
    """The tree of the expression; PatternError says what stands in the way."""
    return _Parser(source).all()


@lru_cache(maxsize=64)
def _category(name: str) -> Ranges:
    short = _CATEGORIES.get(name, name)
    if not (
        1 <= len(short) <= 2 and short[0] in "LMNPSZC" and short[1:].islower() | (not short[1:])
    ):
        raise PatternError(f"the Unicode property {name}")
    codes = (c for c in range(HIGHEST + 1) if unicodedata.category(chr(c)).startswith(short))
    return normal((code, code) for code in codes)


class _Parser:
    def __init__(self, source: str) -> None:
        self.text = source
        self.at = 0
        self.depth = 0

    def all(self) -> Tree:
        tree = self.alternatives()
        if self.at < len(self.text):
            raise PatternError("a ) without its (")
        return tree

    def peek(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def take(self, text: str) -> bool:
        if self.peek(text):
            self.at += len(text)
            return True
        return False

    def next(self) -> str:
        if self.at >= len(self.text):
            raise PatternError("an end in the middle of an escape, a class or a group")
        self.at += 1
        return self.text[self.at - 1]

    def alternatives(self) -> Tree:
        self.depth += 1
        if self.depth > limits.PATTERN_DEPTH:
            raise PatternError(f"groups nested deeper than {limits.PATTERN_DEPTH}")
        branches = [self.sequence()]
        while self.take("|"):
            branches.append(self.sequence())
        self.depth -= 1
        return branches[0] if len(branches) == 1 else Alt(tuple(branches))

    def sequence(self) -> Tree:
        parts: list[Tree] = []
        while self.at < len(self.text) and not self.peek("|") and not self.peek(")"):
            parts.append(self.quantified(self.atom()))
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def atom(self) -> Tree:
        char = self.next()
        match char:
            case "^" | "$":
                return Anchor(char == "^")
            case ".":
                return Chars(inverse(_NEWLINES))
            case "(":
                return self.group()
            case "[":
                return Chars(self.char_class())
            case "\\":
                return self.escape()
            case "*" | "+" | "?":
                raise PatternError(f"a {char} with nothing before it")
        code = ord(char)
        if 0xD800 <= code <= 0xDFFF:
            raise PatternError("half of a surrogate pair")
        return Chars(((code, code),))

    def group(self) -> Tree:
        negative = self.peek("?!")
        if self.take("?=") or self.take("?!"):
            tree: Tree = Look(self.alternatives(), negative)
        elif self.peek("?<=") or self.peek("?<!"):
            raise PatternError("lookbehind")
        else:
            if self.take("?<") or self.take("?P<"):
                end = self.text.find(">", self.at)
                if end < 0:
                    raise PatternError("a group's name without its end")
                self.at = end + 1
            elif not self.take("?:") and self.peek("?"):
                raise PatternError(f"the group (?{self.text[self.at + 1 : self.at + 2]}")
            tree = self.alternatives()
        if not self.take(")"):
            raise PatternError("a ( without its )")
        return tree

    def quantified(self, tree: Tree) -> Tree:
        bounds = self.bounds()
        if bounds is None:
            return tree
        if isinstance(tree, Look) or (isinstance(tree, Anchor) and bounds != (1, 1)):
            raise PatternError("a repeated ^, $ or lookahead")
        self.take("?")  # lazy or not, the same strings match
        if self.bounds() is not None:
            raise PatternError("two quantifiers in a row")
        least, most = bounds
        if most is not None and most < least:
            raise PatternError(
                f"the repetition {{{least},{most}}} whose bounds are in the wrong order"
            )
        return Repeat(tree, least, most)

    def bounds(self) -> tuple[int, int | None] | None:
        for sign, pair in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(sign):
                return pair
        if not self.peek("{"):
            return None
        end = self.text.find("}", self.at)
        inner = self.text[self.at + 1 : end] if end > 0 else ""
        low, comma, high = inner.partition(",")
        if not (
            low.isascii() and low.isdigit() and (not high or high.isascii() and high.isdigit())
        ):
            return None  # a brace that stands for itself
        if max(len(low), len(high)) > 6 or int(high or low) > limits.PATTERN_SIZE:
            raise PatternError(f"a repetition of more than {limits.PATTERN_SIZE}")
        self.at = end + 1
        least = int(low)
        return (least, least) if not comma else (least, int(high) if high else None)

    def escape(self) -> Tree:
        char = self.next()
        if char in "bB":
            raise PatternError(f"the word boundary \\{char}")
        if char == "k" or char in "123456789":
            raise PatternError(f"the back reference \\{char}")
        return Chars(self.escaped(char))

    def escaped(self, char: str) -> Ranges:
        """The characters of an escape whose letter is `char`."""
        if char in _CLASSES:
            return _CLASSES[char]
        if char.lower() in _CLASSES:
            return inverse(_CLASSES[char.lower()])
        if char in "pP" and self.take("{"):
            end = self.text.find("}", self.at)
            if end < 0:
                raise PatternError("\\p{ without its }")
            name = self.text[self.at : end].removeprefix("General_Category=").removeprefix("gc=")
            self.at = end + 1
            return _category(name) if char == "p" else inverse(_category(name))
        code = self.code(char)
        return normal([(code, code)])

    def code(self, char: str) -> int:
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "x":
            return self.hexadecimal(2)
        if char == "c":
            return ord(self.next()) % 32
        if char == "u":
            if self.take("{"):
                end = self.text.find("}", self.at)
                if end < 0:
                    raise PatternError("\\u{ without its }")
                digits, self.at = self.text[self.at : end], end + 1
                return self.number(digits)
            high = self.hexadecimal(4)
            if 0xD800 <= high < 0xDC00 and self.take("\\u"):
                return 0x10000 + ((high - 0xD800) << 10) + (self.hexadecimal(4) - 0xDC00)
            return high
        if char.isascii() and char.isalnum() and char not in "aZz":
            raise PatternError(f"the escape \\{char}")
        if char in "aZz":
            raise PatternError(f"the escape \\{char}, which JSON Schema's expressions do not have")
        return ord(char)

    def hexadecimal(self, count: int) -> int:
        digits, self.at = self.text[self.at : self.at + count], self.at + count
        if len(digits) != count:
            raise PatternError("an escape without its digits")
        return self.number(digits)

    def number(self, digits: str) -> int:
        try:
            code = int(digits, 16)
        except ValueError:
            raise PatternError(f"the digits {digits!r} in an escape") from None
        if not 0 <= code <= HIGHEST:
            raise PatternError(f"the code point {digits}")
        return code

    def char_class(self) -> Ranges:
        negated = self.take("^")
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            low = self.class_atom()
            is_range = self.peek("-") and not self.peek("-]")
            if not is_range:
                ranges += low
                continue
            self.at += 1
            high = self.class_atom()
            if (
                len(low) != 1
                or len(high) != 1
                or low[0][0] != low[0][1]
                or high[0][0] != high[0][1]
            ):
                ranges += [*low, (45, 45), *high]
                continue
            if low[0][0] > high[0][0]:
                raise PatternError("a range of characters in the wrong order")
            ranges.append((low[0][0], high[0][0]))
        return inverse(normal(ranges)) if negated else normal(ranges)

    def class_atom(self) -> Ranges:
        char = self.next()
        if char != "\\":
            return ((ord(char), ord(char)),)
        char = self.next()
        return ((8, 8),) if char == "b" else self.escaped(char)
