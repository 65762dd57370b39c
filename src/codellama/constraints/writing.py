"""What the writers of arrays and objects need: rules to write into, and what stands inside a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from codellama.constraints.cases import Cases
from codellama.constraints.containers import Goal
from codellama.constraints.patterns import Pattern
from codellama.constraints.rules import Rules


class Spelling(IntEnum):
    """In how many ways a value may be written, white space aside."""

    FREE = 0
    """In any way that JSON has."""
    ONE = 1
    """In one way, so that values are equal if their texts are: keys are the schema's, in its order."""
    SORTED = 2
    """The same with sorted keys, for places where alternatives may name the same keys in different orders."""


@dataclass(frozen=True)
class Written:
    """A grammar in llguidance's Lark syntax, and the patterns in it with their places in a schema."""

    text: str
    patterns: dict[Pattern, str] = field(default_factory=dict)


class Writing(Protocol):
    """A grammar that is being written."""

    rules: Rules

    def rule(self, goal: Goal, spelling: Spelling = Spelling.FREE) -> str:
        """The name of the rule for values that satisfy the goal."""

    def cases(self, goal: Goal) -> Cases:
        """All values that satisfy the goal."""

    def is_empty(self, goal: Goal) -> bool:
        """Whether it is clear at once that no value satisfies the goal."""
