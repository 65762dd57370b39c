"""What the writers of arrays and objects need: rules to write into, and what stands inside a value."""

from __future__ import annotations

from typing import Protocol

from codellama.constraints.cases import Cases
from codellama.constraints.containers import Goal
from codellama.constraints.rules import Rules


class Writing(Protocol):
    """A grammar that is being written."""

    rules: Rules

    def rule(self, goal: Goal) -> str:
        """The name of the rule for values that satisfy the goal."""

    def cases(self, goal: Goal) -> Cases:
        """All values that satisfy the goal."""

    def is_empty(self, goal: Goal) -> bool:
        """Whether it is clear at once that no value satisfies the goal."""
