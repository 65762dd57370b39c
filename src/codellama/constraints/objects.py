"""Writes the rules of objects: keys in the schema's order, then all others, counted where that matters."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, product

from codellama.constraints import limits
from codellama.constraints.containers import ANY, Goal, Keys, ObjectSlot, both, key
from codellama.constraints.place import KEY_MARK
from codellama.constraints.refusal import refusal
from codellama.constraints.regex_text import CONTENT, FREE, spelled_text
from codellama.constraints.rules import Alternative, Many
from codellama.constraints.scalars import lower
from codellama.constraints.strings import spelled_keys, spelled_values
from codellama.constraints.unique import marked
from codellama.constraints.writing import Spelling, Writing

_Wanted = tuple[Keys, Goal]


class ObjectWriter:
    """Writes objects into the grammar that is being written."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._rules = writing.rules

    def write(self, slot: ObjectSlot, where: str, spelling: Spelling) -> list[str]:
        """The names of rules that together make the objects of a slot."""
        return [
            _Members(self._writing, variant, special, where, spelling).rule()
            for variant, special in _variants(slot, where)
        ]


def _variants(slot: ObjectSlot, where: str) -> list[tuple[ObjectSlot, _Wanted | None]]:
    """The slot without `some`: each of them is a key that is spelled out, or one of the others."""
    if not slot.some:
        return [(slot, None)]
    named = slot.names()
    choices: list[list[str | None]] = []
    for keys, _ in slot.some:
        spelled = [name for name in named if keys.has(name)]
        choices.append([*spelled, *([None] if keys.names is None else [])])
    found: list[tuple[ObjectSlot, _Wanted | None]] = []
    for chosen in product(*choices):
        special: list[_Wanted] = []
        variant = replace(slot, some=())
        for name, (keys, goal) in zip(chosen, slot.some, strict=True):
            if name is None:
                special.append((keys, goal))
            else:
                clause = ((key(name), goal),)
                required = () if name in variant.required else (name,)
                variant = replace(
                    variant,
                    clauses=variant.clauses + clause,
                    required=variant.required + required,
                )
        if len(special) > 1 or len(found) > 64:
            raise refusal(
                where,
                "it needs more than one further key, each of a certain kind",
                "name the keys under properties",
            )
        # keys that are spelled out stay so in every variant
        shown = tuple((key(name), ANY) for name in named)
        variant = replace(variant, clauses=variant.clauses + shown)
        found.append((variant, special[0] if special else None))
    return found


class _Members:
    """The members of one object, as a rule for each key and number of members so far."""

    def __init__(
        self,
        writing: Writing,
        slot: ObjectSlot,
        special: _Wanted | None,
        where: str,
        spelling: Spelling,
    ) -> None:
        self._writing = writing
        self._rules = writing.rules
        self._slot = slot
        self._special = special
        self._where = where
        self._spelling = spelling
        self._names = [n for n in slot.names() if n in slot.required or not self._is_banned(n)]
        if spelling is Spelling.SORTED:
            self._names.sort()
        self._taken = slot.names()
        self._watched = slot.least > 1 and not spelling and _are_free(slot)
        """Whether `Unique` keeps the keys that are not spelled out different, since they are counted."""
        self._cap = max(1, slot.least, -1 if slot.most is None else slot.most + 1)
        if self._cap > 1 and (len(self._names) + 1) * (self._cap + 1) > limits.STATES:
            raise refusal(
                where,
                "minProperties or maxProperties needs too many rules with so many properties",
                "make the properties required instead",
            )

    def _is_banned(self, name: str) -> bool:
        return self._writing.is_empty(self._slot.value(name))

    def rule(self) -> str:
        """The name of the object's rule."""
        self._open = self._few_members() if self._spelling else self._open_members()
        following = [self._rules.rule(self._tail(count)) for count in range(self._cap + 1)]
        for name in reversed(self._names):
            member = self._member(name)
            required = name in self._slot.required
            following = [
                self._rules.rule(self._step(member, required, following, count))
                for count in range(min(self._cap, len(self._names)) + 1)
            ] + following[min(self._cap, len(self._names)) + 1 :]
        return self._rules.rule([('"{"', following[0], '"}"')])

    def _step(
        self, member: Alternative, required: bool, following: list[str], count: int
    ) -> list[Alternative]:
        found: list[Alternative] = []
        if self._slot.most is None or count < self._slot.most:
            comma: Alternative = ('","',) if count else ()
            found.append((*comma, *member, following[min(count + 1, self._cap)]))
        return found if required else [*found, (following[count],)]

    def _member(self, name: str) -> Alternative:
        plain = name.isascii() and name.isprintable() and not set(name) & {'"', "\\"}
        spelled = (
            json.dumps(f'"{name}"') if plain else self._rules.terminal(f'/"{spelled_text(name)}"/')
        )
        return (spelled, '":"', self._writing.rule(self._slot.value(name), self._spelling))

    def _tail(self, count: int) -> list[Alternative]:
        """What may follow the keys that are spelled out, after `count` members."""
        slot = self._slot
        needed = max(0, slot.least - count)
        room = None if slot.most is None else slot.most - count
        if room is not None and room < 0:
            return []
        if self._special is not None:
            return self._special_tail(count, needed, room)
        if not self._open or room == 0:
            return [] if needed else [()]
        if needed > 1 and not self._watched:
            self._check_countable(needed)
            return []
        member = self._rules.rule(self._open)
        if self._watched:
            mark = self._rules.terminal(marked(KEY_MARK))
            member = self._rules.rule([(member,), (mark, member)])
        if count:
            return [(Many(('","', member), needed, room),)]
        more = None if room is None else room - 1
        some: Alternative = (member, Many(('","', member), max(0, needed - 1), more))
        return [some] if needed else [some, ()]

    def _special_tail(self, count: int, needed: int, room: int | None) -> list[Alternative]:
        """The other keys, and last the one of a certain kind: a key may come twice, and the last counts."""
        if needed > 1:
            self._check_countable(needed)
            return []
        special = self._open_members(self._special)
        if not special or room == 0:
            return []
        last = self._rules.rule(special)
        before: Alternative = ()
        if self._open and room != 1:
            repeated = self._rules.rule(self._open)
            before = (Many((repeated, '","'), 0, None if room is None else room - 1),)
        comma: Alternative = ('","',) if count else ()
        return [(*comma, *before, last)]

    def _check_countable(self, needed: int) -> None:
        if len(self._names) < self._slot.least - 1:
            raise refusal(
                self._where,
                "minProperties {least} cannot be enforced for keys that are not spelled out",
                "name the keys under properties, or use minProperties 1",
                least=self._slot.least,
            )

    def _few_members(self) -> list[Alternative]:
        """Members of an object that has one spelling: several keys in any order would have many."""
        if self._special is not None:
            raise refusal(
                self._where,
                "an object that needs a key of a certain kind cannot be an item under uniqueItems",
                "name the key under properties",
            )
        if self._names:
            return []
        self._slot = replace(self._slot, most=lower(self._slot.most, 1))
        self._cap = min(self._cap, 2)
        return self._open_members()

    def _open_members(self, special: _Wanted | None = None) -> list[Alternative]:
        """Members whose keys are not spelled out, one alternative for each kind of key."""
        clauses: dict[Keys, Goal] = {}
        for keys, goal in self._slot.clauses:
            if keys.names is None:
                clauses[keys] = both(clauses.get(keys, ANY), goal)
        if len(clauses) > limits.OPEN_CLASSES:
            raise refusal(
                self._where,
                "{count} kinds of keys from patternProperties and the like are too many to combine",
                f"use at most {limits.OPEN_CLASSES}",
                count=len(clauses),
            )
        kinds = list(clauses)
        found: list[Alternative] = []
        for size in range(len(kinds) + 1):
            for inside in combinations(kinds, size):
                outside = [keys for keys in kinds if keys not in inside]
                if not _is_possible(inside, outside, self._taken):
                    continue
                wanted: Goal = special[1] if special else ANY
                for keys in inside:
                    wanted = both(wanted, clauses[keys])
                if not self._writing.is_empty(wanted):
                    extra = (special[0],) if special else ()
                    terminal = self._rules.terminal(self._key((*inside, *extra), outside))
                    found.append((terminal, '":"', self._writing.rule(wanted, self._spelling)))
        return found

    def _key(self, inside: tuple[Keys, ...], outside: list[Keys]) -> str:
        every = not any(keys.slots for keys in (*inside, *outside))
        if every and not self._taken:
            return f'/"{CONTENT if self._watched or self._spelling else FREE}*"/'
        parts = list(dict.fromkeys(spelled_keys(keys) for keys in inside))
        if not parts:
            parts = [spelled_keys(Keys((), others=True))]
        parts += [f"~{spelled_keys(keys)}" for keys in outside]
        if self._taken:
            parts.append(f"~/{spelled_values(self._taken)}/")
        return " & ".join(parts)


def _are_free(slot: ObjectSlot) -> bool:
    """Whether the keys that are not spelled out may be any others."""
    return all(
        keys.others and all(inner.values is not None for inner in keys.slots)
        for keys, _ in slot.clauses
        if keys.names is None
    )


def _is_possible(inside: tuple[Keys, ...], outside: list[Keys], taken: list[str]) -> bool:
    """Whether a key may be in the first sets and in none of the others, as far as is clear at once."""
    plain = {
        slot for keys in inside if not keys.others and len(keys.slots) == 1 for slot in keys.slots
    }
    for keys in inside:
        if keys.others and plain & set(keys.slots):
            return False
    gone = {slot for keys in outside if not keys.others for slot in keys.slots}
    for keys in outside:
        if keys.others and all(
            slot in gone or (slot.values is not None and slot.values <= set(taken))
            for slot in keys.slots
        ):
            return False
    return True
