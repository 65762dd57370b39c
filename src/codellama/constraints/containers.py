"""Constraints on arrays and objects: what two of them leave in common, and what one of them forbids.

A `Goal` is what a value inside must satisfy: subschemas, each to be fulfilled (True) or failed (False).
`meet` gives None where nothing is left. `opposites` gives constraints that together allow exactly what this
one forbids, within its type; each is meant for a slot made of one keyword, whose goals have one subschema.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from codellama.constraints.document import Node
from codellama.constraints.scalars import StringSlot, lower

Goal = tuple[tuple[Node, bool], ...]
ANY: Goal = ()
NOTHING: Goal = ((Node("#false", False), True),)
ALL_ITEMS = -1
"""All items of an array have been evaluated."""


def both(a: Goal, b: Goal) -> Goal:
    """The goal of a value that must satisfy both."""
    return a + tuple(part for part in b if part not in a)


def failed(goal: Goal) -> Goal:
    """The opposite of a goal with one subschema, or of ANY."""
    if not goal:
        return NOTHING
    (node, wanted), *rest = goal
    assert not rest, goal
    return ((node, not wanted),)


@dataclass(frozen=True)
class Contains:
    """`least` to `most` items from index `start` on satisfy `goal`."""

    goal: Goal
    least: int = 1
    most: int | None = None
    start: int = 0


@dataclass(frozen=True)
class ArraySlot:
    """Arrays: the first items one by one, the rest alike, their number, and what some must be."""

    prefix: tuple[Goal, ...] = ()
    rest: Goal = ANY
    least: int = 0
    most: int | None = None
    contains: tuple[Contains, ...] = ()
    unique: str = ""
    """The pointer of the uniqueItems that holds here."""
    evaluated: int = 0
    """How many items have been looked at by keywords, or ALL_ITEMS; for unevaluatedItems."""

    def item(self, index: int) -> Goal:
        """What the item at this index must satisfy."""
        return self.prefix[index] if index < len(self.prefix) else self.rest

    def meet(self, other: ArraySlot) -> ArraySlot | None:
        """Arrays that both allow."""
        count = max(len(self.prefix), len(other.prefix))
        slot = ArraySlot(
            tuple(both(self.item(i), other.item(i)) for i in range(count)),
            both(self.rest, other.rest),
            max(self.least, other.least),
            lower(self.most, other.most),
            self.contains + tuple(c for c in other.contains if c not in self.contains),
            self.unique or other.unique,
            ALL_ITEMS
            if ALL_ITEMS in (self.evaluated, other.evaluated)
            else max(self.evaluated, other.evaluated),
        )
        return slot if slot.most is None or slot.least <= slot.most else None

    def opposites(self) -> list[ArraySlot] | None:
        """Constraints that allow what this one forbids; None where that cannot be said."""
        if self.unique:
            return None
        found = []
        if self.least:
            found.append(ArraySlot(most=self.least - 1))
        if self.most is not None:
            found.append(ArraySlot(least=self.most + 1))
        for i, goal in enumerate(self.prefix):
            if goal:
                found.append(ArraySlot((*[ANY] * i, failed(goal)), least=i + 1))
        if self.rest:
            found.append(ArraySlot(contains=(Contains(failed(self.rest), start=len(self.prefix)),)))
        for some in self.contains:
            if some.least:
                found.append(
                    ArraySlot(contains=(Contains(some.goal, 0, some.least - 1, some.start),))
                )
            if some.most is not None:
                found.append(
                    ArraySlot(contains=(Contains(some.goal, some.most + 1, None, some.start),))
                )
        return found


@dataclass(frozen=True)
class Keys:
    """A set of keys: those that one of the slots allows, or, if `others`, those that none allows."""

    slots: tuple[StringSlot, ...]
    others: bool = False

    def has(self, name: str) -> bool:
        """Whether the key is in the set."""
        return any(slot.has(name) for slot in self.slots) != self.others

    @cached_property
    def names(self) -> frozenset[str] | None:
        """The keys, if they are a few that are spelled out."""
        if self.others or any(slot.values is None for slot in self.slots):
            return None
        return frozenset(name for slot in self.slots for name in slot.values or ())


def key(name: str) -> Keys:
    """The set of one key."""
    return Keys((StringSlot(values=frozenset([name])),))


EVERY_KEY = Keys((), others=True)


@dataclass(frozen=True)
class ObjectSlot:
    """Objects: what the values of which keys must be, which keys are there, and how many."""

    clauses: tuple[tuple[Keys, Goal], ...] = ()
    required: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None
    some: tuple[tuple[Keys, Goal], ...] = ()
    """For each of these there is a key in the set whose value satisfies the goal."""
    evaluated: tuple[StringSlot, ...] = ()
    """Keys that have been looked at by keywords; for unevaluatedProperties."""

    @cached_property
    def _values(self) -> tuple[dict[str, Goal], list[tuple[Keys, Goal]]]:
        """What clauses of one key say, by key, and the clauses of many keys."""
        single: dict[str, Goal] = {}
        wide = []
        for keys, goal in self.clauses:
            if keys.names is None or len(keys.names) > 1:
                wide.append((keys, goal))
            for name in keys.names or () if keys.names and len(keys.names) == 1 else ():
                single[name] = both(single.get(name, ANY), goal)
        return single, wide

    def value(self, name: str) -> Goal:
        """What the value of this key must satisfy."""
        single, wide = self._values
        goal = single.get(name, ANY)
        for keys, wanted in wide:
            if keys.has(name):
                goal = both(goal, wanted)
        return goal

    def names(self) -> list[str]:
        """The keys that are spelled out, in the order in which they first appear."""
        found: dict[str, None] = {}
        for keys, _ in self.clauses:
            if len(keys.names or ()) == 1:
                found.update(dict.fromkeys(keys.names or ()))
        found.update(dict.fromkeys(self.required))
        for keys, _ in (*self.clauses, *self.some):
            found.update(dict.fromkeys(sorted(_named(keys))))
        return list(found)

    def meet(self, other: ObjectSlot) -> ObjectSlot | None:
        """Objects that both allow."""
        slot = ObjectSlot(
            self.clauses + tuple(c for c in other.clauses if c not in self.clauses),
            self.required + tuple(n for n in other.required if n not in self.required),
            max(self.least, other.least),
            lower(self.most, other.most),
            self.some + tuple(s for s in other.some if s not in self.some),
            self.evaluated + tuple(e for e in other.evaluated if e not in self.evaluated),
        )
        return None if slot._is_overfull else slot

    @property
    def _is_overfull(self) -> bool:
        return self.most is not None and max(self.least, len(self.required)) > self.most

    def is_apart(self, other: ObjectSlot) -> bool:
        """Whether the numbers of members alone leave no object to both."""
        most = lower(self.most, other.most)
        required = len({*self.required, *other.required})
        return most is not None and max(self.least, other.least, required) > most

    def opposites(self) -> list[ObjectSlot] | None:
        """Constraints that allow what this one forbids."""
        found = [ObjectSlot(((key(name), NOTHING),)) for name in self.required]
        if self.least:
            found.append(ObjectSlot(most=self.least - 1))
        if self.most is not None:
            found.append(ObjectSlot(least=self.most + 1))
        for keys, goal in self.clauses:
            if not goal:
                continue
            names = keys.names
            if names is not None and len(names) == 1:
                found.append(ObjectSlot(((keys, failed(goal)),), tuple(names)))
            else:
                found.append(ObjectSlot(some=((keys, failed(goal)),)))
        found += [ObjectSlot(((keys, failed(goal)),)) for keys, goal in self.some]
        return found


def _named(keys: Keys) -> frozenset[str]:
    """Keys that a set spells out, or spells out as the ones that are not in it."""
    return frozenset(name for slot in keys.slots for name in slot.values or ())
