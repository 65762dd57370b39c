"""Regular expressions of JSON Schema (ECMA-262) as matches of a whole string.

An unanchored expression is a search, as JSON Schema says. `Pattern` holds it as a tree that matches the whole
string, plus the lookaheads at its beginning, each of which is an expression of its own.

What finite automata cannot do is refused by name: lookbehind, back references, lookahead inside, `\\b`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from codellama.constraints import limits
from codellama.constraints.refusal import refusal
from codellama.constraints.regex_parser import PatternError, parse
from codellama.constraints.regex_tree import (
    ANYTHING,
    Alt,
    Anchor,
    Look,
    Repeat,
    Seq,
    Tree,
    full_match,
    lengths,
    size,
)


@dataclass(frozen=True)
class Pattern:
    """An expression that a string's content is searched for."""

    source: str
    whole: Tree = field(compare=False)
    """Matches the whole string."""
    ahead: tuple[tuple[Tree, bool], ...] = field(default=(), compare=False)
    """Further expressions of the whole string, and whether each is forbidden."""

    @cached_property
    def lengths(self) -> tuple[int, int | None]:
        """The shortest and the longest text that it may match; None is without end."""
        return lengths(self.whole)

    def matches(self, text: str) -> bool:
        """Whether the text satisfies the pattern."""
        return full_match(self.whole, text) and all(
            full_match(tree, text) != forbidden for tree, forbidden in self.ahead
        )


def _has(tree: Tree, *kinds: type) -> bool:
    if isinstance(tree, kinds):
        return True
    match tree:
        case Seq(parts) | Alt(parts):
            return any(_has(part, *kinds) for part in parts)
        case Repeat(part, _, _) | Look(part, _):
            return _has(part, *kinds)
    return False


def _opened(tree: Tree, start: bool, fill: Tree) -> Tree:
    """The tree with `fill` before it (after it, if not `start`), except where its edge is anchored."""
    match tree:
        case Anchor(is_start) if is_start == start:
            return Seq()
        case Seq(parts) if parts and start:
            return Seq((_opened(parts[0], True, fill), *parts[1:]))
        case Seq(parts) if parts:
            return Seq((*parts[:-1], _opened(parts[-1], False, fill)))
        case Alt(parts):
            return Alt(tuple(_opened(part, start, fill) for part in parts))
        case Repeat(part, 0, 1) if _has(part, Anchor):
            return Alt((_opened(part, start, fill), fill))
        case Repeat(part, 1, 1):
            return _opened(part, start, fill)
    return Seq((fill, tree) if start else (tree, fill))


def _leading_looks(tree: Tree, anchored: bool) -> tuple[list[Look], Tree]:
    """Lookaheads at the very beginning of the string, and the tree without them."""
    if isinstance(tree, Look) and anchored:
        return [tree], Seq()
    if not isinstance(tree, Seq):
        return [], tree
    looks: list[Look] = []
    parts = list(tree.parts)
    while parts and (isinstance(parts[0], Look) or parts[0] == Anchor(True)):
        part = parts.pop(0)
        if isinstance(part, Look):
            if not anchored:
                return [], tree
            looks.append(part)
        else:
            anchored = True
    return looks, Seq((Anchor(True), *parts)) if looks else tree


@lru_cache(maxsize=1024)
def compiled(source: str, search: bool = True, longest: int = limits.PATTERN_CHARS) -> Pattern:
    """The pattern of an expression, which is searched for or matches all; raises PatternError."""
    if len(source) > longest:
        raise PatternError(f"more than {longest} characters")
    looks, rest = _leading_looks(parse(source), not search)
    fill = ANYTHING if search else Seq()
    whole = _opened(_opened(rest, True, fill), False, fill)
    ahead = tuple(
        (_opened(_opened(look.part, True, Seq()), False, ANYTHING), look.negative) for look in looks
    )
    for part in (whole, *(tree for tree, _ in ahead)):
        if _has(part, Look):
            raise PatternError("a lookahead that does not stand right after a leading ^")
        if _has(part, Anchor):
            raise PatternError("^ or $ in the middle of the expression")
        if size(part) > limits.PATTERN_SIZE:
            raise PatternError(f"repetitions that unroll to more than {limits.PATTERN_SIZE} parts")
    return Pattern(source, whole, ahead)


def pattern(source: str, pointer: str, longest: int = limits.PATTERN_CHARS) -> Pattern:
    """The pattern of an expression that stands at `pointer`; GrammarError says what is wrong in it."""
    try:
        return compiled(source, True, longest)
    except PatternError as error:
        raise refusal(
            pointer,
            "the regular expression {source!r} cannot be enforced because it has {reason}",
            "write it without",
            source=source if len(source) <= 80 else source[:77] + "...",
            reason=str(error),
        ) from None
