"""Whether two goals certainly have no value in common, so that one of `oneOf` need not exclude the other."""

from __future__ import annotations

from collections.abc import Callable

from codellama.constraints.cases import Cases, Slot
from codellama.constraints.containers import ArraySlot, Goal, ObjectSlot

_DEPTH = 4
_ITEMS = 8
"""How many first items of arrays are compared."""


class Apart:
    """Compares goals through what `cases` says of them; what is found out of a pair goes into `known`."""

    def __init__(
        self, cases: Callable[[Goal], Cases], known: dict[tuple[Goal, Goal], bool]
    ) -> None:
        self._cases = cases
        self._known = known

    def are_apart(self, first: Goal, second: Goal, depth: int = _DEPTH) -> bool:
        """Whether it is certain that no value satisfies both goals."""
        pair = (first, second)
        if pair not in self._known:
            self._known[pair] = False  # while it is being found out
            left, right = self._cases(first), self._cases(second)
            self._known[pair] = all(
                self._slots_apart(a, b, depth)
                for kind in left.keys() & right.keys()
                for a in left[kind]
                for b in right[kind]
            )
        return self._known[pair]

    def _slots_apart(self, a: Slot, b: Slot, depth: int) -> bool:
        if isinstance(a, ObjectSlot) and isinstance(b, ObjectSlot):
            return a.is_apart(b) or (
                depth > 0
                and any(
                    self.are_apart(a.value(name), b.value(name), depth - 1)
                    for name in dict.fromkeys(a.required + b.required)
                )
            )
        if isinstance(a, ArraySlot) and isinstance(b, ArraySlot):
            met = a.meet(b)
            return met is None or (
                depth > 0
                and any(
                    self.are_apart(a.item(i), b.item(i), depth - 1)
                    for i in range(min(met.least, _ITEMS))
                )
            )
        return a.meet(b) is None  # type: ignore[arg-type]
