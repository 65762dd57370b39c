"""Writes the grammar of a schema: a rule for each goal, made of what `unfold` says that it allows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from codellama.constraints import limits
from codellama.constraints.arrays import ArrayWriter
from codellama.constraints.cases import NONE, BooleanSlot, Cases, Combiner, NullSlot, Slot
from codellama.constraints.containers import ANY, ArraySlot, Goal, ObjectSlot
from codellama.constraints.document import Document
from codellama.constraints.numbers import json_schema_of, spelled_number
from codellama.constraints.objects import ObjectWriter
from codellama.constraints.patterns import Pattern
from codellama.constraints.refusal import refusal, unsatisfiable
from codellama.constraints.regex_text import CONTENT, FREE
from codellama.constraints.rules import Alternative, Many, Rules
from codellama.constraints.scalars import NumberSlot, StringSlot
from codellama.constraints.strings import spelled_string
from codellama.constraints.unfold import Unfolder
from codellama.constraints.writing import Spelling

_Place = tuple[Goal, Spelling]


class Emitter:
    """Writes the rules of one document; `text` gives the grammar.

    Documents of one grammar share `rules` and `sets`, which counts the steps that all of them take.
    """

    def __init__(self, document: Document, rules: Rules, sets: Combiner) -> None:
        self._unfolder = Unfolder(document, sets)
        self.rules = rules
        self._names: dict[_Place, str] = {}
        self._waiting: list[_Place] = []

    def text(self, root: Goal, is_empty: Callable[[str], bool]) -> str:
        """The Lark grammar of the values that satisfy the root; GrammarError if there is none.

        `is_empty` tells whether the expression of a terminal matches nothing.
        """
        text = self.rules.text(self.rules_of(root), is_empty)
        if text is None:
            raise unsatisfiable()
        return text

    def rules_of(self, root: Goal) -> str:
        """The name of the rule for values that satisfy the root; all that it needs has been written."""
        start = self.rule(root)
        while self._waiting:
            place = self._waiting.pop()
            self.rules.define(self._names[place], self._alternatives(*place))
        return start

    def rule(self, goal: Goal, spelling: Spelling = Spelling.FREE) -> str:
        """The name of the rule for values that satisfy the goal."""
        place = (goal, spelling)
        if place not in self._names:
            if len(self._names) > limits.GOALS:
                raise refusal("#", "the schema unfolds to too many places", "make it simpler")
            if goal == ANY:
                make = partial(self._anything, spelling > 0)
                self._names[place] = self.rules.once(f"any {spelling > 0}", make)
            else:
                self._names[place] = self.rules.name()
                self._waiting.append(place)
        return self._names[place]

    def is_empty(self, goal: Goal) -> bool:
        """Whether it is clear at once that no value satisfies the goal."""
        return self.cases(goal) == NONE

    def cases(self, goal: Goal) -> Cases:
        """All values that satisfy the goal."""
        return self._unfolder.cases(goal)

    def _anything(self, one: bool) -> str:
        """A JSON value of bounded depth; if it is to have `one` spelling, its objects have one member."""
        string = self.rules.terminal(f'/"{CONTENT if one else FREE}*"/')
        number = self.rules.terminal(spelled_number(NumberSlot(), one) or "")
        plain: list[Alternative] = [('"null"',), ('"true"',), ('"false"',), (string,), (number,)]
        below = self.rules.rule(plain)
        for _ in range(limits.ANY_DEPTH):
            member = (string, '":"', below)
            array: Alternative = ('"["', below, Many(('","', below), 0, None), '"]"')
            further = () if one else (Many(('","', *member), 0, None),)
            whole: Alternative = ('"{"', *member, *further, '"}"')
            empty: list[Alternative] = [('"["', '"]"'), ('"{"', '"}"')]
            below = self.rules.rule([*plain, *empty, array, whole])
        return below

    def _alternatives(self, goal: Goal, spelling: Spelling) -> list[Alternative]:
        where = goal[0][0].pointer
        found: list[Alternative] = []
        strings: list[str] = []
        numbers: list[str] = []
        cases = self.cases(goal)
        spelling = _spelling(cases, spelling)
        for slot in (slot for slots in cases.values() for slot in slots):
            self.rules.patterns |= dict.fromkeys(_patterns(slot), where)
            if isinstance(slot, StringSlot):
                if sum(pattern.conditions for pattern in slot.all_of) > limits.PATTERNS:
                    raise refusal(
                        where,
                        "a string cannot be held to so many patterns at once",
                        f"use at most {limits.PATTERNS}, lookaheads included",
                    )
                strings.append(spelled_string(slot, exact=spelling > 0))
            elif isinstance(slot, NumberSlot):
                numbers += self._number(slot, spelling, found, where)
            elif isinstance(slot, ArraySlot):
                found.append((ArrayWriter(self).write(slot, where, spelling),))
            elif isinstance(slot, ObjectSlot):
                found += [(name,) for name in ObjectWriter(self).write(slot, where, spelling)]
            else:
                found += _literals(slot)
        found += [(self.rules.terminal(_joined(texts)),) for texts in (strings, numbers) if texts]
        return found

    def _number(
        self, slot: NumberSlot, spelling: Spelling, found: list[Alternative], where: str
    ) -> list[str]:
        text = spelled_number(slot, spelling > 0)
        if text is not None:
            return [text]
        if slot.multiple() is None:
            return []
        schema = None if spelling else json_schema_of(slot)
        if schema is None:
            raise refusal(
                where,
                "this multipleOf, or what stands beside it, cannot be enforced",
                f"use at most {limits.MULTIPLE}, or a round number such as 0.01, 0.25 or 5000",
            )
        found.append((self.rules.given(f"{{name}}: %json {schema}"),))
        return []


def _patterns(slot: Slot) -> list[Pattern]:
    """The patterns of strings, or of an object's keys."""
    texts = [slot] if isinstance(slot, StringSlot) else []
    if isinstance(slot, ObjectSlot):
        texts = [text for keys, _ in (*slot.clauses, *slot.some) for text in keys.slots]
    return [pattern for text in texts for pattern in (*text.all_of, *text.none_of)]


def _joined(expressions: list[str]) -> str:
    if len(expressions) == 1:
        return expressions[0]
    return " | ".join(f"({text})" for text in dict.fromkeys(expressions))


def _spelling(cases: Cases, spelling: Spelling) -> Spelling:
    """How values inside are spelled: alternatives may come to the same place by different ways."""
    ways = len(cases.get("array", ())) + len(cases.get("object", ()))
    return Spelling.SORTED if spelling and ways > 1 else spelling


def _literals(slot: Slot) -> list[Alternative]:
    if isinstance(slot, NullSlot):
        return [('"null"',)]
    assert isinstance(slot, BooleanSlot)
    return [('"true"' if value else '"false"',) for value in sorted(slot)]
