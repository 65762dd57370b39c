"""Writes the grammar of a schema: a rule for each goal, made of what `unfold` says that it allows."""

from __future__ import annotations

from collections.abc import Callable

from codellama.constraints import limits
from codellama.constraints.arrays import ArrayWriter
from codellama.constraints.cases import NONE, BooleanSlot, Cases, Combiner, NullSlot, Slot
from codellama.constraints.containers import ANY, ArraySlot, Goal, ObjectSlot
from codellama.constraints.document import Document
from codellama.constraints.numbers import json_schema_of, spelled_number
from codellama.constraints.objects import ObjectWriter
from codellama.constraints.refusal import refusal
from codellama.constraints.regex_text import FREE
from codellama.constraints.rules import Alternative, Many, Rules
from codellama.constraints.scalars import NumberSlot, StringSlot
from codellama.constraints.strings import spelled_string
from codellama.constraints.unfold import Unfolder


class Emitter:
    """Writes the rules of one document; `text` gives the grammar.

    Documents of one grammar share `rules` and `sets`, which counts the steps that all of them take.
    """

    def __init__(self, document: Document, rules: Rules, sets: Combiner) -> None:
        self._unfolder = Unfolder(document, sets)
        self.rules = rules
        self._names: dict[Goal, str] = {}
        self._waiting: list[Goal] = []
        self._arrays = ArrayWriter(self)
        self._objects = ObjectWriter(self)

    def text(self, root: Goal, is_empty: Callable[[str], bool]) -> str:
        """The Lark grammar of the values that satisfy the root; GrammarError if there is none.

        `is_empty` tells whether the expression of a terminal matches nothing.
        """
        text = self.rules.text(self.rules_of(root), is_empty)
        if text is None:
            raise refusal(
                "#", "no value satisfies this schema", "look for bounds that contradict each other"
            )
        return text

    def rules_of(self, root: Goal) -> str:
        """The name of the rule for values that satisfy the root; all that it needs has been written."""
        start = self.rule(root)
        while self._waiting:
            goal = self._waiting.pop()
            self.rules.define(self._names[goal], self._alternatives(goal))
        return start

    def rule(self, goal: Goal) -> str:
        """The name of the rule for values that satisfy the goal."""
        if goal not in self._names:
            if len(self._names) > limits.GOALS:
                raise refusal("#", "the schema unfolds to too many places", "make it simpler")
            if goal == ANY:
                self._names[ANY] = self.rules.once("any", self._anything)
            else:
                self._names[goal] = self.rules.name()
                self._waiting.append(goal)
        return self._names[goal]

    def is_empty(self, goal: Goal) -> bool:
        """Whether it is clear at once that no value satisfies the goal."""
        return self.cases(goal) == NONE

    def cases(self, goal: Goal) -> Cases:
        """All values that satisfy the goal."""
        return self._unfolder.cases(goal)

    def _anything(self) -> str:
        """A JSON value of bounded depth."""
        string = self.rules.terminal(f'/"{FREE}*"/')
        number = self.rules.terminal(spelled_number(NumberSlot()) or "")
        plain: list[Alternative] = [('"null"',), ('"true"',), ('"false"',), (string,), (number,)]
        below = self.rules.rule(plain)
        for _ in range(limits.ANY_DEPTH):
            member = (string, '":"', below)
            array: Alternative = ('"["', below, Many(('","', below), 0, None), '"]"')
            whole: Alternative = ('"{"', *member, Many(('","', *member), 0, None), '"}"')
            empty: list[Alternative] = [('"["', '"]"'), ('"{"', '"}"')]
            below = self.rules.rule([*plain, *empty, array, whole])
        return below

    def _alternatives(self, goal: Goal) -> list[Alternative]:
        where = goal[0][0].pointer
        found: list[Alternative] = []
        strings: list[str] = []
        numbers: list[str] = []
        for slot in (slot for slots in self.cases(goal).values() for slot in slots):
            if isinstance(slot, StringSlot):
                if sum(1 + len(pattern.ahead) for pattern in slot.all_of) > limits.PATTERNS:
                    raise refusal(
                        where,
                        "a string cannot be held to so many patterns at once",
                        f"use at most {limits.PATTERNS}, lookaheads included",
                    )
                strings.append(spelled_string(slot, exact=False))
            elif isinstance(slot, NumberSlot):
                numbers += self._number(slot, found, where)
            elif isinstance(slot, ArraySlot):
                found.append((self._arrays.write(slot, where),))
            elif isinstance(slot, ObjectSlot):
                found += [(name,) for name in self._objects.write(slot, where)]
            else:
                found += _literals(slot)
        for expressions in (strings, numbers):
            if expressions:
                joined = expressions[0]
                if len(expressions) > 1:
                    joined = " | ".join(f"({text})" for text in dict.fromkeys(expressions))
                found.append((self.rules.terminal(joined),))
        return found

    def _number(self, slot: NumberSlot, found: list[Alternative], where: str) -> list[str]:
        text = spelled_number(slot)
        if text is not None:
            return [text]
        if slot.multiple() is None:
            return []
        schema = json_schema_of(slot)
        if schema is None:
            raise refusal(
                where,
                "this multipleOf, or what stands beside it, cannot be enforced",
                f"use at most {limits.MULTIPLE}, or 1, 2 or 5 times a power of ten",
            )
        found.append((self.rules.given(f"{{name}}: %json {schema}"),))
        return []


def _literals(slot: Slot) -> list[Alternative]:
    if isinstance(slot, NullSlot):
        return [('"null"',)]
    assert isinstance(slot, BooleanSlot)
    return [('"true"' if value else '"false"',) for value in sorted(slot)]
