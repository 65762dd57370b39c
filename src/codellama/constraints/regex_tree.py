"""A regular expression as a tree that can be matched and measured.

Characters are ranges of code points, so nothing depends on an engine's idea of `\\d`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Ranges = tuple[tuple[int, int], ...]
HIGHEST = 0x10FFFF


@dataclass(frozen=True)
class Chars:
    """One character out of sorted ranges of code points."""

    ranges: Ranges


@dataclass(frozen=True)
class Seq:
    """One part after the other."""

    parts: tuple[Tree, ...] = ()


@dataclass(frozen=True)
class Alt:
    """One of the parts."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True)
class Repeat:
    """A part `least` to `most` times; None is without end."""

    part: Tree
    least: int
    most: int | None


@dataclass(frozen=True)
class Anchor:
    """`^` or `$`."""

    start: bool


@dataclass(frozen=True)
class Look:
    """A lookahead."""

    part: Tree
    negative: bool


@dataclass(frozen=True)
class Meet:
    """`whole`, which goes to the end of the text, if `part` matches that too (or does not, if `negative`)."""

    whole: Tree
    part: Tree
    negative: bool


Tree = Chars | Seq | Alt | Repeat | Anchor | Look | Meet


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The ranges sorted and joined, without surrogates, which no text holds."""
    result: list[tuple[int, int]] = []
    for low, high in sorted(_without_surrogates(ranges)):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return tuple(result)


def _without_surrogates(ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for low, high in ranges:
        if low < 0xD800:
            yield low, min(high, 0xD7FF)
        if high > 0xDFFF:
            yield max(low, 0xE000), high


def inverse(ranges: Ranges) -> Ranges:
    """All other characters."""
    result, position = [], 0
    for low, high in ranges:
        if low > position:
            result.append((position, low - 1))
        position = high + 1
    if position <= HIGHEST:
        result.append((position, HIGHEST))
    return normal(result)


ALL = normal([(0, HIGHEST)])
ANYTHING = Repeat(Chars(ALL), 0, None)


def full_match(tree: Tree, text: str) -> bool:
    """Whether the tree matches all of the text; takes polynomial time whatever the tree is."""
    return len(text) in _ends(tree, text, frozenset([0]))


def _ends(tree: Tree, text: str, starts: frozenset[int]) -> frozenset[int]:
    match tree:
        case Chars(ranges):
            return frozenset(i + 1 for i in starts if i < len(text) and _within(text[i], ranges))
        case Seq(parts):
            for part in parts:
                starts = _ends(part, text, starts)
            return starts
        case Alt(parts):
            return frozenset().union(*(_ends(part, text, starts) for part in parts))
        case Repeat(part, least, most):
            return _repeated(part, least, most, text, starts)
        case Meet(whole, part, negative):
            met = (
                s for s in starts if (len(text) in _ends(part, text, frozenset([s]))) != negative
            )
            return _ends(whole, text, frozenset(met))
    raise AssertionError(tree)


def _repeated(
    part: Tree, least: int, most: int | None, text: str, starts: frozenset[int]
) -> frozenset[int]:
    reached: frozenset[int] = starts if least == 0 else frozenset()
    count = 0
    while starts and (most is None or count < most):
        further = _ends(part, text, starts)
        count += 1
        if count >= least:
            reached |= further
        if further == starts:  # it stays like this however often the part is repeated
            return reached | starts
        starts = further
    return reached


def _within(char: str, ranges: Ranges) -> bool:
    code = ord(char)
    low, high = 0, len(ranges)
    while low < high:
        middle = (low + high) // 2
        if ranges[middle][1] < code:
            low = middle + 1
        else:
            high = middle
    return low < len(ranges) and ranges[low][0] <= code


def lengths(tree: Tree) -> tuple[int, int | None]:
    """The shortest and the longest text that the tree can match; None is without end."""
    match tree:
        case Chars(ranges):
            return (1, 1) if ranges else (1, 0)
        case Seq(parts):
            pairs = [lengths(part) for part in parts]
            most = None if any(high is None for _, high in pairs) else sum(h or 0 for _, h in pairs)
            return sum(low for low, _ in pairs), most
        case Alt(parts):
            pairs = [lengths(part) for part in parts]
            highs = [high for _, high in pairs]
            return min(low for low, _ in pairs), (
                None if None in highs else max(h or 0 for h in highs)
            )
        case Repeat(part, least, most):
            low, high = lengths(part)
            if most == 0 or high == 0:
                return (0, 0)
            return low * least, None if high is None or most is None else high * most
        case Meet(whole, _, _):
            return lengths(whole)
    return 0, 0


def size(tree: Tree) -> int:
    """How many parts the tree has, each counted as often as it is repeated."""
    match tree:
        case Seq(parts) | Alt(parts):
            return 1 + sum(size(part) for part in parts)
        case Repeat(part, least, most):
            return 1 + size(part) * max(1, least, most or 0)
        case Look(part, _):
            return 1 + size(part)
        case Meet(whole, part, _):
            return 1 + size(whole) + size(part)
    return 1
