"""Sets of JSON values as alternatives for each type, and their union and intersection.

`Cases` maps a type to its alternatives: a value of the type that satisfies one of them is in the set. A
type that is not there has no value in the set.
"""

from __future__ import annotations

from codellama.constraints import limits
from codellama.constraints.containers import ArraySlot, ObjectSlot
from codellama.constraints.refusal import refusal
from codellama.constraints.scalars import NumberSlot, StringSlot


class NullSlot:
    """The null."""

    def meet(self, other: NullSlot) -> NullSlot:
        """The null."""
        return self

    def opposites(self) -> list[NullSlot]:
        """Nothing: there is one null."""
        return []


class BooleanSlot(frozenset[bool]):
    """Some of true and false."""

    def meet(self, other: BooleanSlot) -> BooleanSlot | None:
        """What both allow."""
        kept = BooleanSlot(self & other)
        return kept if kept else None

    def opposites(self) -> list[BooleanSlot]:
        """The other ones."""
        rest = BooleanSlot({True, False} - self)
        return [rest] if rest else []


Slot = NullSlot | BooleanSlot | NumberSlot | StringSlot | ArraySlot | ObjectSlot
Cases = dict[str, tuple[Slot, ...]]

NULL = NullSlot()
ALL_OF_TYPE: dict[str, Slot] = {
    "null": NULL,
    "boolean": BooleanSlot({True, False}),
    "number": NumberSlot(),
    "string": StringSlot(),
    "array": ArraySlot(),
    "object": ObjectSlot(),
}
EVERYTHING: Cases = {kind: (slot,) for kind, slot in ALL_OF_TYPE.items()}
NONE: Cases = {}


class Combiner:
    """Unites and intersects sets of values, and stops where a schema unfolds to too much."""

    def __init__(self) -> None:
        self._steps = 0

    def union(self, sets: list[Cases], pointer: str) -> Cases:
        """Values of any of the sets."""
        if len(sets) == 1:
            return sets[0]
        result: Cases = {}
        for kind, whole in ALL_OF_TYPE.items():
            found: dict[Slot, None] = {}
            for cases in sets:
                found.update(dict.fromkeys(cases.get(kind, ())))
            if whole in found:
                found = {whole: None}
            united = _united(list(found))
            self._count(len(united), pointer, len(found))
            if united:
                result[kind] = united
        return result

    def meet(self, first: Cases, second: Cases, pointer: str) -> Cases:
        """Values of both sets."""
        if first is EVERYTHING or second is EVERYTHING:
            return second if first is EVERYTHING else first
        result: Cases = {}
        for kind in first:
            if kind not in second:
                continue
            left, right = first[kind], second[kind]
            whole = ALL_OF_TYPE[kind]
            if left == (whole,) or right == (whole,):
                result[kind] = right if left == (whole,) else left
                continue
            effort = sum(map(_effort, left)) * len(right) + sum(map(_effort, right)) * len(left)
            self._count(0, pointer, effort)
            met = (a.meet(b) for a in left for b in right)  # type: ignore[arg-type]
            found = dict.fromkeys(slot for slot in met if slot is not None)
            self._count(len(found), pointer)
            if found:
                result[kind] = tuple(found)
        return result

    def spend(self, steps: int, pointer: str) -> None:
        """Count work done elsewhere for what stands at `pointer`."""
        self._count(0, pointer, steps)

    def _count(self, alternatives: int, pointer: str, steps: int = 0) -> None:
        self._steps += max(alternatives, steps)
        if alternatives > limits.COMBINATIONS or self._steps > limits.STEPS:
            raise refusal(
                pointer,
                "this combines to more than {most} alternatives",
                "use fewer branches, or make them differ in a required const property",
                most=limits.COMBINATIONS,
            )


def _effort(slot: Slot) -> int:
    """How long it takes to look at a slot, compared with a small one."""
    if isinstance(slot, ArraySlot):
        return 1 + len(slot.prefix)
    if isinstance(slot, ObjectSlot):
        return 1 + len(slot.clauses) // 4
    return 1


def _united(slots: list[Slot]) -> tuple[Slot, ...]:
    """The alternatives, with those that only name values made one."""
    texts: list[StringSlot] = []
    numbers: list[NumberSlot] = []
    result: list[Slot] = []
    for slot in slots:
        if isinstance(slot, StringSlot) and slot.values is not None:
            texts.append(slot)
        elif isinstance(slot, NumberSlot) and slot.values is not None:
            numbers.append(slot)
        else:
            result.append(slot)
    booleans = [s for s in slots if isinstance(s, BooleanSlot)]
    if len(booleans) > 1:
        result = [BooleanSlot({True, False})]
    if texts:
        result.append(StringSlot(values=frozenset().union(*(s.values or () for s in texts))))
    if numbers:
        result.append(NumberSlot(values=frozenset().union(*(s.values or () for s in numbers))))
    return tuple(result)


def types(names: list[str]) -> Cases:
    """All values of the types named as in `type`."""
    result: Cases = {kind: (ALL_OF_TYPE[kind],) for kind in ALL_OF_TYPE if kind in names}
    if "integer" in names and "number" not in names:
        result["number"] = (NumberSlot(whole=True),)
    return result


def without_types(names: list[str]) -> Cases:
    """All values of none of the types named as in `type`."""
    result: Cases = {kind: (ALL_OF_TYPE[kind],) for kind in ALL_OF_TYPE if kind not in names}
    if "integer" in names and "number" not in names:
        result["number"] = (NumberSlot(whole=False),)
    return result


def only(kind: str, slot: Slot) -> Cases:
    """A constraint on one type: values of other types are free."""
    return {**EVERYTHING, kind: (slot,)}
