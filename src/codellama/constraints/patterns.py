"""Regular expressions of JSON Schema (ECMA-262) as matches of a whole string.

An unanchored expression is a search, as JSON Schema says. `Pattern` holds it as a tree that matches the whole
string. In it a lookahead is a condition on all that follows.

What finite automata cannot do is refused by name: lookbehind, back references, repeated lookaheads, `\\b`.
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
    Meet,
    Repeat,
    Seq,
    Tree,
    full_match,
    lengths,
    size,
)
from codellama.errors import GrammarError


@dataclass(frozen=True)
class Pattern:
    """An expression that a string's content is searched for."""

    source: str
    whole: Tree = field(compare=False)
    """Matches the whole string."""
    conditions: int = field(default=1, compare=False)
    """How many expressions it stands for: itself and its lookaheads."""

    @cached_property
    def lengths(self) -> tuple[int, int | None]:
        """The shortest and the longest text that it may match; None is without end."""
        return lengths(self.whole)

    def matches(self, text: str) -> bool:
        """Whether the text satisfies the pattern."""
        return full_match(self.whole, text)


def _has(tree: Tree, *kinds: type) -> bool:
    if isinstance(tree, kinds):
        return True
    match tree:
        case Seq(parts) | Alt(parts):
            return any(_has(part, *kinds) for part in parts)
        case Repeat(part, _, _) | Look(part, _):
            return _has(part, *kinds)
        case Meet(whole, part, _):
            return _has(whole, *kinds) or _has(part, *kinds)
    return False


def _opened(tree: Tree, start: bool, fill: Tree) -> Tree:
    """The tree with `fill` before it (after it, if not `start`), except where its edge is anchored."""
    match tree:
        case Anchor(is_start) if is_start == start:
            return Seq()
        case Seq((Look() as look, *rest)) if start and rest and _begins(rest[0]):
            return Seq((look, _opened(Seq(tuple(rest)), True, fill)))
        case Seq((*others, Anchor(False))) if not start:
            return _opened(Seq(tuple(others)), False, Seq())
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


def _begins(tree: Tree) -> bool:
    """Whether the tree is a ^, perhaps behind lookaheads."""
    if isinstance(tree, Seq):
        return bool(tree.parts) and _begins(tree.parts[0])
    return tree == Anchor(True)


def _with_looks(tree: Tree, rest: Tree, at_start: bool) -> Tree:
    """The tree and what follows it to the end of the string, where lookaheads become conditions on that.

    `at_start`: whether the tree stands at the beginning of the string.
    """
    if not _has(tree, Look):
        return Seq((tree, rest))
    match tree:
        case Look(part, negative):
            if not at_start and _has(_opened(part, False, Seq()), Anchor):
                raise PatternError("a ^ in a lookahead that is not at the beginning")
            condition = _opened(_opened(part, True, Seq()), False, ANYTHING)
            return Meet(rest, _with_looks(condition, Seq(), at_start), negative)
        case Seq(parts):
            end = len(
                parts
            )  # of the parts without lookaheads that have been passed: not one in another
            for i in (i for i in reversed(range(end)) if _has(parts[i], Look)):
                is_first = all(part == Seq() or isinstance(part, Look) for part in parts[:i])
                rest = Seq((*parts[i + 1 : end], rest))
                rest = _with_looks(parts[i], rest, at_start and is_first)
                end = i
            return Seq((*parts[:end], rest))
        case Alt(parts):
            return Alt(tuple(_with_looks(part, rest, at_start) for part in parts))
        case Repeat(part, 0, 1):
            return Alt((_with_looks(part, rest, at_start), rest))
        case Repeat(part, 1, 1):
            return _with_looks(part, rest, at_start)
    raise PatternError("a lookahead that is repeated")


def _looks(tree: Tree) -> int:
    """How many lookaheads there are."""
    match tree:
        case Seq(parts) | Alt(parts):
            return sum(map(_looks, parts))
        case Repeat(part, _, _):
            return _looks(part)
        case Look(part, _):
            return 1 + _looks(part)
    return 0


@lru_cache(maxsize=1024)
def compiled(source: str, search: bool = True, longest: int = limits.PATTERN_CHARS) -> Pattern:
    """The pattern of an expression, which is searched for or matches all; raises PatternError."""
    if len(source) > longest:
        raise PatternError(f"more than {longest} characters")
    tree = parse(source)
    count = _looks(tree)
    if count >= limits.PATTERNS:
        raise PatternError(f"{limits.PATTERNS} lookaheads or more")
    fill = ANYTHING if search else Seq()
    whole = _with_looks(_opened(_opened(tree, True, fill), False, fill), Seq(), True)
    if _has(whole, Anchor):
        raise PatternError("^ or $ in the middle of the expression")
    if size(whole) > limits.PATTERN_SIZE:
        raise PatternError(f"repetitions that unroll to more than {limits.PATTERN_SIZE} parts")
    return Pattern(source, whole, 1 + count)


def pattern(source: str, pointer: str, longest: int = limits.PATTERN_CHARS) -> Pattern:
    """The pattern of an expression that stands at `pointer`; GrammarError says what is wrong in it."""
    try:
        return compiled(source, True, longest)
    except PatternError as error:
        raise cannot_be_enforced(source, pointer, str(error)) from None


def cannot_be_enforced(source: str, pointer: str, reason: str) -> GrammarError:
    """The error for a regular expression that `reason` stands in the way of."""
    return refusal(
        pointer,
        "the regular expression {source!r} cannot be enforced because it has {reason}",
        "write it without",
        source=source if len(source) <= 80 else source[:77] + "...",
        reason=reason,
    )
