"""A grammar in llguidance's Lark syntax while it is being made: terminals, rules, and what can never match.

A symbol is written as in Lark: the name of a rule or terminal, a literal in quotes, or `Many`. Rules from
which no text can be made are left out, so that no answer runs into a dead end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from codellama.constraints import limits
from codellama.constraints.patterns import Pattern
from codellama.constraints.refusal import refusal
from codellama.constraints.regex_text import CONTENT, NO_CHARACTER
from codellama.constraints.whitespace import WHITESPACE

FREE_TOKENS = '%llguidance {"no_forcing": true}\n'
"""The model chooses among the tokens that spell what has to come; otherwise one spelling is prescribed."""
HEAD = '%llguidance {"ignore_once": true, "no_forcing": true}\n%ignore /' + WHITESPACE + "/\n"
ONE_LINE = '%llguidance {"ignore_once": true, "no_forcing": true}\n%ignore / /\n'
"""The head of a grammar whose texts have no line breaks between tokens of JSON."""


@dataclass(frozen=True)
class Many:
    """Symbols one after the other, `least` to `most` times; None is without end."""

    symbols: tuple[str, ...]
    least: int
    most: int | None


Symbol = str | Many
Alternative = tuple[Symbol, ...]


class Rules:
    """The rules and terminals of one grammar."""

    def __init__(self) -> None:
        self._rules: dict[str, list[Alternative]] = {}
        self._terminals: dict[str, str] = {}
        self._given: dict[str, str] = {}
        self._count = 0
        self._made_once: dict[str, str] = {}
        self.patterns: dict[Pattern, str] = {}
        """The patterns that were written, and a place in the schema for each."""

    def terminal(self, expression: str) -> str:
        """The name of the terminal with this expression."""
        return self._terminals.setdefault(expression, f"T{len(self._terminals)}")

    def name(self) -> str:
        """A name for a new rule; GrammarError if there are too many."""
        self._count += 1
        if self._count > limits.RULES:
            raise refusal(
                "#",
                "the schema unfolds to more than {most} rules",
                "make it simpler, or split it",
                most=limits.RULES,
            )
        return f"r{self._count}"

    def define(self, name: str, alternatives: list[Alternative]) -> str:
        """Give a rule its alternatives; returns its name."""
        self._rules[name] = alternatives
        return name

    def rule(self, alternatives: list[Alternative]) -> str:
        """The name of a new rule."""
        return self.define(self.name(), alternatives)

    def once(self, what: str, make: Callable[[], str]) -> str:
        """The name of the rule that `make` writes when `what` is first asked for."""
        if what not in self._made_once:
            self._made_once[what] = make()
        return self._made_once[what]

    def given(self, body: str) -> str:
        """The name of a new rule whose text is in Lark already; `{name}` in it is the rule's own name."""
        name = self.name()
        self._given[name] = body.replace("{name}", name)
        return name

    def text(self, start: str, is_empty: Callable[[str], bool], head: str = HEAD) -> str | None:
        """The grammar from `start` on, behind `head`; None if no text can be made from it.

        `is_empty` tells whether a terminal's expression matches nothing; it is asked where that may be.
        """
        rules = self._productive(is_empty)
        if start not in rules and start not in self._given:
            return None
        lines = [f"start: {start}"]
        reached, waiting = {start}, [start]
        while waiting:
            name = waiting.pop()
            if name in self._given:
                lines.append(self._given[name])
                continue
            lines.append(f"{name}: " + " | ".join(_written(alt) for alt in rules[name]))
            for symbol in (s for alt in rules[name] for s in _used(alt)):
                if symbol[0] == "r" and symbol not in reached:
                    reached.add(symbol)
                    waiting.append(symbol)
        used = {s for name in reached for alt in rules.get(name, ()) for s in _used(alt)}
        given = " ".join(self._given[name] for name in reached & self._given.keys())
        lines += [
            f"{name}: {expression}"
            for expression, name in self._terminals.items()
            if name in used or name in given
        ]
        return head + "\n".join(lines) + "\n"

    def lacking(self, names: Iterable[str], is_empty: Callable[[str], bool]) -> list[str]:
        """Those of these rules from which no text can be made; they have alternatives."""
        productive = self._productive(is_empty)
        return [name for name in names if name not in productive]

    def _productive(self, is_empty: Callable[[str], bool]) -> dict[str, list[Alternative]]:
        """The rules from which text can be made, without alternatives from which none can."""
        known = set(self._given)
        known |= {
            name
            for expression, name in self._terminals.items()
            if not (_is_doubtful(expression) and is_empty(expression))
        }
        users: dict[str, list[str]] = {}
        for name, alternatives in self._rules.items():
            for symbol in {s for alt in alternatives for s in _needed(alt)}:
                users.setdefault(symbol, []).append(name)
        waiting = list(self._rules)
        while waiting:
            name = waiting.pop()
            if name in known:
                continue
            if any(_is_made(alt, known) for alt in self._rules[name]):
                known.add(name)
                waiting += users.get(name, ())
        return {
            name: [_trimmed(alt, known) for alt in alternatives if _is_made(alt, known)]
            for name, alternatives in self._rules.items()
            if name in known
        }


def _is_doubtful(expression: str) -> bool:
    """Whether a terminal may match nothing: one of several conditions that may exclude each other."""
    if " & " not in expression:
        return NO_CHARACTER in expression
    first, *others = expression.split(" & ")
    all_but_some = len(others) == 1 and others[0].startswith('~/"')
    return not (first == f'/"{CONTENT}*"/' and all_but_some)


def _used(alternative: Alternative) -> list[str]:
    found: list[str] = []
    for symbol in alternative:
        found += symbol.symbols if isinstance(symbol, Many) else (symbol,)
    return [symbol.split("::")[0] for symbol in found]


def _needed(alternative: Alternative) -> list[str]:
    needed = tuple(s for s in alternative if not (isinstance(s, Many) and s.least == 0))
    return [symbol for symbol in _used(needed) if symbol[0] in "rT"]


def _is_made(alternative: Alternative, known: set[str]) -> bool:
    return all(symbol in known for symbol in _needed(alternative))


def _trimmed(alternative: Alternative, known: set[str]) -> Alternative:
    """The alternative without repetitions of what cannot be made."""
    return tuple(
        symbol
        for symbol in alternative
        if not isinstance(symbol, Many)
        or (symbol.most != 0 and _is_made((Many(symbol.symbols, 1, 1),), known))
    )


def _written(alternative: Alternative) -> str:
    return " ".join(_symbol(symbol) for symbol in alternative) or '""'


def _symbol(symbol: Symbol) -> str:
    if isinstance(symbol, str):
        return symbol
    inner = " ".join(symbol.symbols)
    match symbol.least, symbol.most:
        case 0, None:
            return f"({inner})*"
        case 1, None:
            return f"({inner})+"
        case 0, 1:
            return f"({inner})?"
    least, most = symbol.least, symbol.most
    return f"({inner}){{{least},{'' if most is None else most}}}"
