"""What a subschema allows, as alternatives for each type: schemas put together and taken apart.

`Unfolder.cases` answers for a goal, which is a set of subschemas to be fulfilled or failed at the same place.
Only the outermost value is unfolded; what stands inside it stays a goal, so recursive schemas are no trouble.
Everything is exact: a keyword whose opposite cannot be said is refused where the opposite is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations

from codellama.constraints import limits
from codellama.constraints.apart import Apart
from codellama.constraints.cases import (
    EVERYTHING,
    NONE,
    Cases,
    Combiner,
    Slot,
    only,
    types,
    without_types,
)
from codellama.constraints.constants import constant
from codellama.constraints.containers import (
    ALL_ITEMS,
    ANY,
    NOTHING,
    ArraySlot,
    Goal,
    Keys,
    ObjectSlot,
    key,
)
from codellama.constraints.document import Document, Node
from codellama.constraints.keywords import (
    ANNOTATIONS,
    ASSERTIONS,
    HELPERS,
    check_unknown,
    goal,
    names,
    shaped,
)
from codellama.constraints.refusal import refusal
from codellama.constraints.scalars import StringSlot

_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


class Unfolder:
    """Unfolds the goals of one document, each once."""

    def __init__(self, document: Document, sets: Combiner) -> None:
        self.document = document
        self._sets = sets
        self._goals: dict[Goal, Cases] = {}
        self._nodes: dict[tuple[Node, bool], Cases] = {}
        self._open: set[tuple[Node, bool]] = set()
        self._apart: dict[tuple[Goal, Goal], bool] = {}

    def cases(self, wanted: Goal) -> Cases:
        """All values that satisfy the goal."""
        if wanted not in self._goals:
            if len(self._goals) > limits.GOALS:
                raise refusal("#", "the schema unfolds to too many places", "make it simpler")
            result = EVERYTHING
            for node, fulfilled in wanted:
                result = self._sets.meet(result, self._node(node, fulfilled), node.pointer)
            self._goals[wanted] = result
        return self._goals[wanted]

    def _node(self, node: Node, fulfilled: bool) -> Cases:
        place = (node, fulfilled)
        if place in self._nodes:
            return self._nodes[place]
        if place in self._open:
            raise refusal(
                node.pointer,
                "it refers to itself without a value in between",
                "refer to it from a property or from items",
            )
        self._open.add(place)
        try:
            if isinstance(node.schema, bool):
                result = EVERYTHING if node.schema == fulfilled else NONE
            else:
                check_unknown(node)
                result = self._fulfilled(node) if fulfilled else self._failed(node)
        finally:
            self._open.discard(place)
        self._nodes[place] = result
        return result

    def _keywords(self, node: Node) -> list[str]:
        if "$ref" in node.schema and node.old:
            return ["$ref"]
        last = ("unevaluatedProperties", "unevaluatedItems")
        found = [k for k in node.schema if k not in last and k not in ANNOTATIONS | HELPERS]
        return found + [k for k in last if k in node.schema]

    def _fulfilled(self, node: Node) -> Cases:
        result = EVERYTHING
        for keyword in self._keywords(node):
            if keyword == "unevaluatedProperties":
                result = self._rest_of_object(node, result)
            elif keyword == "unevaluatedItems":
                result = self._rest_of_array(node, result)
            else:
                result = self._sets.meet(
                    result, self._keyword(node, keyword, True), f"{node.pointer}/{keyword}"
                )
        return result

    def _failed(self, node: Node) -> Cases:
        parts = [self._keyword(node, keyword, False) for keyword in self._keywords(node)]
        return _unseen(self._sets.union(parts, node.pointer)) if parts else NONE

    def _keyword(self, node: Node, keyword: str, fulfilled: bool) -> Cases:
        if keyword in ASSERTIONS:
            kind, make = ASSERTIONS[keyword]
            return self._assertion(node, keyword, kind, make(node), fulfilled)
        combine = _COMBINERS.get(keyword)
        if combine is None:  # an unknown keyword is an annotation
            return EVERYTHING if fulfilled else NONE
        return combine(self, node, keyword, fulfilled)

    def _assertion(self, node: Node, keyword: str, kind: str, slot: Slot, fulfilled: bool) -> Cases:
        if not fulfilled:
            opposites = slot.opposites()
            if opposites is None:
                raise _no_opposite(node, keyword)
            return {kind: tuple(opposites)} if opposites else NONE
        if not self.document.unevaluated:
            slot = _without_traces(slot)
        return only(kind, slot)

    def _type(self, node: Node, _: str, fulfilled: bool) -> Cases:
        value = node.schema["type"]
        listed = [value] if isinstance(value, str) else names(node, "type")
        for name in listed:
            if name not in _TYPES:
                raise refusal(
                    f"{node.pointer}/type",
                    "unknown type {name!r}",
                    "use one of " + ", ".join(_TYPES),
                    name=name,
                )
        return types(listed) if fulfilled else without_types(listed)

    def _values(self, node: Node, keyword: str, fulfilled: bool) -> Cases:
        if keyword == "const":
            found = {"const": node.schema["const"]}
        else:
            listed = shaped(node, "enum", list, "a list of values")
            if len(listed) > limits.ENUM_VALUES:
                raise refusal(
                    f"{node.pointer}/enum",
                    "{count} values are too many",
                    f"use {limits.ENUM_VALUES} or fewer",
                    count=len(listed),
                )
            found = {f"enum/{i}": value for i, value in enumerate(listed)}
        slots: dict[str, list[Slot]] = {}
        for step, value in found.items():
            kind, slot = constant(Node(f"={node.pointer}/{step}", None), value)
            slots.setdefault(kind, []).append(slot)
        where = f"{node.pointer}/{keyword}"
        united = self._sets.union([{k: tuple(s) for k, s in slots.items()}, NONE], where)
        if fulfilled:
            return united
        result = EVERYTHING
        for kind, alternatives in united.items():
            for slot in alternatives:
                others = {k: v for k, v in EVERYTHING.items() if k != kind}
                opposites = slot.opposites()
                assert opposites is not None
                rest: Cases = {**others, kind: tuple(opposites)} if opposites else others
                result = self._sets.meet(result, rest, where)
        return result

    def _branches(self, node: Node, keyword: str) -> list[Node]:
        listed = shaped(node, keyword, list, "a list of schemas")
        if not listed:
            raise refusal(f"{node.pointer}/{keyword}", "{keyword} is empty", keyword=keyword)
        return [node.child(keyword, i) for i in range(len(listed))]

    def _all_or_any(self, node: Node, keyword: str, fulfilled: bool) -> Cases:
        branches = self._branches(node, keyword)
        if (keyword == "allOf") == fulfilled:
            return self.cases(tuple((branch, fulfilled) for branch in branches))
        parts = [self._node(branch, fulfilled) for branch in branches]
        return self._sets.union(parts, f"{node.pointer}/{keyword}")

    def _one_of(self, node: Node, _: str, fulfilled: bool) -> Cases:
        """Exactly one branch: where two may overlap, the others have to fail."""
        branches = self._branches(node, "oneOf")
        where = f"{node.pointer}/oneOf"
        self._sets.spend(len(branches) ** 2 * 2, where)
        apart = Apart(self.cases, self._apart)
        overlaps = [
            (i, j)
            for i, j in combinations(range(len(branches)), 2)
            if not apart.are_apart(((branches[i], True),), ((branches[j], True),))
        ]
        parts = []
        if fulfilled:
            for i, branch in enumerate(branches):
                others = (j if i == k else k for k, j in overlaps if i in (k, j))
                failing = tuple((branches[j], False) for j in others)
                parts.append(self.cases(((branch, True), *failing)))
        else:
            parts.append(self.cases(tuple((branch, False) for branch in branches)))
            for i, j in overlaps:
                parts.append(self.cases(((branches[i], True), (branches[j], True))))
        return self._sets.union(parts, where)

    def _condition(self, node: Node, _: str, fulfilled: bool) -> Cases:
        condition = node.child("if")
        parts = []
        for word, holds in (("then", True), ("else", False)):
            if word in node.schema:
                parts.append(self.cases(((condition, holds), (node.child(word), fulfilled))))
            elif fulfilled and (
                len(node.schema.keys() & {"then", "else"}) or self.document.unevaluated
            ):
                parts.append(self.cases(((condition, holds),)))
        if not parts:
            return EVERYTHING if fulfilled else NONE
        return self._sets.union(parts, f"{node.pointer}/if")

    def _reference(self, node: Node, keyword: str, fulfilled: bool) -> Cases:
        target = self.document.resolve(node, keyword)
        if keyword == "$dynamicRef":
            anchor = (
                target.schema.get("$dynamicAnchor") if isinstance(target.schema, dict) else None
            )
            if len(self.document.dynamic.get(anchor or "", ())) > 1:
                raise refusal(
                    f"{node.pointer}/$dynamicRef",
                    "it has more than one possible target",
                    "use $ref",
                )
        return self._node(target, fulfilled)

    def _property_names(self, node: Node, _: str, fulfilled: bool) -> Cases:
        found = self.cases(((node.child("propertyNames"), True),)).get("string", ())
        slots = tuple(slot for slot in found if isinstance(slot, StringSlot))
        slot = ObjectSlot(((Keys(slots, others=True), NOTHING),))
        return self._assertion(node, "propertyNames", "object", slot, fulfilled)

    def _dependent(self, node: Node, keyword: str, fulfilled: bool) -> Cases:
        found = shaped(node, keyword, dict, "an object")
        where = f"{node.pointer}/{keyword}"
        result, failures = EVERYTHING, [NONE]
        for name in found:
            then = self._dependency(node, keyword, name, fulfilled)
            present = self._sets.meet({"object": (ObjectSlot(required=(name,)),)}, then, where)
            if fulfilled:
                absent = only("object", ObjectSlot(((key(name), NOTHING),)))
                either = self._sets.union([absent, present], where)
                result = self._sets.meet(result, either, where)
            else:
                failures.append(present)
        return result if fulfilled else self._sets.union(failures, where)

    def _dependency(self, node: Node, keyword: str, name: str, fulfilled: bool) -> Cases:
        """What must hold (not hold) of an object that has the key `name`."""
        found = node.schema[keyword]
        if not isinstance(found[name], list):
            return self.cases(((node.child(keyword, name), fulfilled),))
        slot = ObjectSlot(required=tuple(names(Node(f"{node.pointer}/{keyword}", found), name)))
        return only("object", slot) if fulfilled else {"object": tuple(slot.opposites() or ())}

    def _not(self, node: Node, _: str, fulfilled: bool) -> Cases:
        return self.cases(((node.child("not"), not fulfilled),))

    def _unevaluated_failed(self, node: Node, keyword: str, _: bool) -> Cases:
        raise _no_opposite(node, keyword)

    def _rest_of_object(self, node: Node, cases: Cases) -> Cases:
        wanted = goal(node, "unevaluatedProperties")
        slots = []
        for slot in cases.get("object", ()):
            assert isinstance(slot, ObjectSlot)
            clause = (Keys(slot.evaluated, others=True), wanted)
            met = slot.meet(ObjectSlot((clause,), evaluated=(StringSlot(),)))
            slots += [met] if met else []
        return {**cases, "object": tuple(slots)} if slots else _minus(cases, "object")

    def _rest_of_array(self, node: Node, cases: Cases) -> Cases:
        wanted = goal(node, "unevaluatedItems")
        slots: list[Slot] = []
        for slot in cases.get("array", ()):
            assert isinstance(slot, ArraySlot)
            if slot.contains and slot.evaluated != ALL_ITEMS:
                raise refusal(
                    f"{node.pointer}/unevaluatedItems",
                    "unevaluatedItems beside contains cannot be enforced",
                    "use items",
                )
            free = ArraySlot(evaluated=ALL_ITEMS)
            if slot.evaluated != ALL_ITEMS:
                free = ArraySlot((ANY,) * slot.evaluated, wanted, evaluated=ALL_ITEMS)
            met = slot.meet(free)
            slots += [met] if met else []
        return {**cases, "array": tuple(slots)} if slots else _minus(cases, "array")


_COMBINERS: Mapping[str, Callable[[Unfolder, Node, str, bool], Cases]] = {
    "type": Unfolder._type,
    "const": Unfolder._values,
    "enum": Unfolder._values,
    "allOf": Unfolder._all_or_any,
    "anyOf": Unfolder._all_or_any,
    "oneOf": Unfolder._one_of,
    "not": Unfolder._not,
    "if": Unfolder._condition,
    "$ref": Unfolder._reference,
    "$dynamicRef": Unfolder._reference,
    "propertyNames": Unfolder._property_names,
    "dependentRequired": Unfolder._dependent,
    "dependentSchemas": Unfolder._dependent,
    "dependencies": Unfolder._dependent,
    "unevaluatedProperties": Unfolder._unevaluated_failed,
    "unevaluatedItems": Unfolder._unevaluated_failed,
}
"""What becomes of keywords that put schemas together."""


def _no_opposite(node: Node, keyword: str) -> Exception:
    return refusal(
        f"{node.pointer}/{keyword}",
        "{keyword} cannot be enforced under not, oneOf or if",
        "say what is allowed instead",
        keyword=keyword,
    )


def _without_traces(slot: Slot) -> Slot:
    if isinstance(slot, ObjectSlot) and slot.evaluated:
        return replace(slot, evaluated=())
    if isinstance(slot, ArraySlot) and slot.evaluated:
        return replace(slot, evaluated=0)
    return slot


def _unseen(cases: Cases) -> Cases:
    """The cases of a schema that failed, which evaluates nothing."""
    return {kind: tuple(_without_traces(slot) for slot in slots) for kind, slots in cases.items()}


def _minus(cases: Cases, kind: str) -> Cases:
    return {k: v for k, v in cases.items() if k != kind}
