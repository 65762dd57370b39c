"""Spells a regular expression's tree in llguidance's syntax: as it is, or as the inside of a JSON string.

In a JSON string each character has one spelling here: itself, `\\n` and its like for the controls that have a
letter, `\\u00xx` for the others. So the complement of an expression is the complement of its spelling.
"""

from __future__ import annotations

from functools import lru_cache

from codellama.constraints.regex_tree import ALL, Alt, Chars, Meet, Ranges, Repeat, Seq, Tree

_LETTERS = {0x22: '\\"', 0x5C: "\\\\", 8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
CONTENT = r'(?:[^"\\\x{0}-\x{1f}]|\\["\\bfnrt]|\\u00(?:0[0-7bef]|1[0-9a-f]))'
"""One character of a JSON string, in the spellings of this module."""
NO_CHARACTER = r"[^\x{0}-\x{10ffff}]"
FREE = (
    r'(?:[^"\\\x{0}-\x{1f}]|\\["\\\/bfnrt]|\\u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}'
    r"|[dD][0-7][0-9a-fA-F]{2}|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)
"""One character of a JSON string in any spelling."""


def char(code: int) -> str:
    """One character, so that it means itself in a regular expression between slashes."""
    text = chr(code)
    return (
        text
        if text.isascii() and (text.isalnum() or text in " _,:;=@%\"'<>!#~`")
        else f"\\x{{{code:x}}}"
    )


def _class(ranges: Ranges) -> str:
    if ranges == ALL:
        return "(?s:.)"
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return char(ranges[0][0])
    inner = "".join(f"\\x{{{a:x}}}" if a == b else f"\\x{{{a:x}}}-\\x{{{b:x}}}" for a, b in ranges)
    return f"[{inner}]" if ranges else NO_CHARACTER


@lru_cache(maxsize=4096)
def _quoted_class(ranges: Ranges) -> str:
    if ranges == ALL:
        return CONTENT
    plain = [(max(a, 0x20), b) for a, b in ranges if b >= 0x20]
    plain = [piece for pair in plain for piece in _without(pair, 0x22, 0x5C)]
    options = [_class(tuple(plain))] if plain else []
    for low, high in ranges:
        for code in range(low, min(high, 0x5C) + 1):
            if code in _LETTERS:
                options.append("".join(char(ord(c)) for c in _LETTERS[code]))
            elif code < 0x20:
                options.append(rf"\x{{5c}}u00{code:02x}")
    if not options:
        return _class(())
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"


def _without(pair: tuple[int, int], *codes: int) -> list[tuple[int, int]]:
    low, high = pair
    pieces = []
    for code in codes:
        if low <= code <= high:
            if low < code:
                pieces.append((low, code - 1))
            low = code + 1
    return [*pieces, (low, high)] if low <= high else pieces


def expression(tree: Tree, quoted: bool) -> str:
    """The tree as a terminal's expression; `quoted` for a JSON string."""
    if not quoted:
        return _joined(tree, False) if _has_meet(tree) else f"/{spelled(tree, False)}/"
    if not _has_meet(tree):
        return f'/"(?:{spelled(tree, True)})"/'
    return f'(/"/ {_joined(tree, True)} /"/)'


def _has_meet(tree: Tree) -> bool:
    match tree:
        case Meet():
            return True
        case Seq(parts) | Alt(parts):
            return any(map(_has_meet, parts))
    return False


def _joined(tree: Tree, quoted: bool) -> str:
    """An expression made of smaller ones, as far as there are conditions in it."""
    if not _has_meet(tree):
        return f"/(?:{spelled(tree, quoted)})/"
    match tree:
        case Seq(parts):
            return " ".join(_joined(part, quoted) for part in parts if part != Seq())
        case Alt(parts):
            return f"({' | '.join(_joined(part, quoted) for part in parts)})"
        case Meet(whole, part, negative):
            sign = "~" if negative else ""
            return f"(({_joined(whole, quoted)}) & {sign}({_joined(part, quoted)}))"
    raise AssertionError(tree)


def spelled(tree: Tree, quoted: bool) -> str:
    """The text of a tree without conditions; `quoted` for the inside of a JSON string."""
    match tree:
        case Chars(ranges):
            return _quoted_class(ranges) if quoted else _class(ranges)
        case Seq(parts):
            return "".join(
                f"(?:{spelled(part, quoted)})" if isinstance(part, Alt) else spelled(part, quoted)
                for part in parts
            )
        case Alt(parts):
            return "|".join(spelled(part, quoted) for part in parts)
        case Repeat(part, least, most):
            return f"(?:{spelled(part, quoted)}){_count(least, most)}"
    raise AssertionError(tree)


def _count(least: int, most: int | None) -> str:
    match least, most:
        case 0, None:
            return "*"
        case 1, None:
            return "+"
        case 0, 1:
            return "?"
    if least == most:
        return f"{{{least}}}"
    return f"{{{least},{'' if most is None else most}}}"


def spelled_text(text: str) -> str:
    """A fixed text as the inside of a JSON string."""
    return "".join(_quoted_class(((ord(c), ord(c)),)) for c in text)
