"""Writes the rules of arrays: first items, the rest, how many, what they contain, and unique short lists."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product

from codellama.constraints import limits
from codellama.constraints.cases import BooleanSlot, NullSlot
from codellama.constraints.containers import ArraySlot, Contains, Goal, both, failed
from codellama.constraints.numbers import spelled_number
from codellama.constraints.refusal import refusal
from codellama.constraints.rules import Alternative, Many
from codellama.constraints.scalars import NumberSlot, StringSlot, lower
from codellama.constraints.strings import spelled_values
from codellama.constraints.writing import Writing

_Hits = tuple[int, ...]


class ArrayWriter:
    """Writes arrays into the grammar that is being written."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._rules = writing.rules

    def write(self, slot: ArraySlot, where: str) -> str:
        """The name of the rule for the arrays of a slot; `where` is the place in the schema."""
        slot = self._shortened(slot)
        if slot.most is not None and slot.least > slot.most:
            return self._rules.rule([])
        contains = tuple(some for some in slot.contains if some.least or some.most is not None)
        slot = replace(slot, contains=contains)
        if slot.unique and (slot.most is None or slot.most > 1):
            inner = self._unique(slot)
        elif contains:
            inner = _Counted(self._writing, slot, where).rule()
        else:
            inner = self._plain(slot)
        return self._rules.rule([('"["', inner, '"]"')])

    def _shortened(self, slot: ArraySlot) -> ArraySlot:
        """The slot with the length that its items leave possible."""
        for i, goal in enumerate(slot.prefix):
            if self._writing.is_empty(goal):
                return replace(slot, prefix=slot.prefix[:i], most=lower(slot.most, i))
        if self._writing.is_empty(slot.rest):
            return replace(slot, most=lower(slot.most, len(slot.prefix)))
        return slot

    def _plain(self, slot: ArraySlot) -> str:
        count = len(slot.prefix) if slot.most is None else min(len(slot.prefix), slot.most)
        after = self._rules.rule([self._tail(slot, count)] if count else self._whole(slot))
        for i in reversed(range(count)):
            item = self._writing.rule(slot.prefix[i])
            here: list[Alternative] = [('","', item, after) if i else (item, after)]
            after = self._rules.rule(here if i < slot.least else [*here, ()])
        return after

    def _whole(self, slot: ArraySlot) -> list[Alternative]:
        if slot.most == 0:
            return [()]
        item = self._writing.rule(slot.rest)
        most = None if slot.most is None else slot.most - 1
        some: Alternative = (item, Many(('","', item), max(0, slot.least - 1), most))
        return [some] if slot.least else [some, ()]

    def _tail(self, slot: ArraySlot, count: int) -> Alternative:
        most = None if slot.most is None else slot.most - count
        if most == 0:
            return ()
        item = self._writing.rule(slot.rest)
        return (Many(('","', item), max(0, slot.least - count), most),)

    def _unique(self, slot: ArraySlot) -> str:
        values = self._finite(slot.rest)
        if values is None or slot.prefix or slot.contains:
            raise refusal(
                slot.unique,
                "uniqueItems can be enforced only where items are a short list of values",
                f"give items an enum of at most {limits.UNIQUE_VALUES} values, or leave uniqueItems out",
            )
        names = [self._rules.terminal(text) for text in values]
        bits = f"[0:{len(names)}]"
        most = len(names) if slot.most is None else min(slot.most, len(names))
        lines = [f'{{name}}::_: "" %if bit_count_ge({bits}, {slot.least})']
        lines += [
            f'  | "," {name} {{name}}::set_bit({k}) %if and(bit_clear({k}), bit_count_lt({bits}, {most}))'
            for k, name in enumerate(names)
        ]
        more = self._rules.given("\n".join(lines))
        first: list[Alternative] = [(name, f"{more}::{1 << k}") for k, name in enumerate(names)]
        if slot.least > len(names):
            return self._rules.rule([])
        return self._rules.rule(first if slot.least else [*first, ()])

    def _finite(self, goal: Goal) -> list[str] | None:
        """Terminals for each value that satisfies the goal, if they are few plain ones."""
        found: list[str] = []
        for slots in self._writing.cases(goal).values():
            for slot in slots:
                if isinstance(slot, NullSlot):
                    found.append("/null/")
                elif isinstance(slot, BooleanSlot):
                    found += [f"/{str(value).lower()}/" for value in sorted(slot)]
                elif isinstance(slot, StringSlot) and slot.values is not None:
                    found += [f"/{spelled_values([text])}/" for text in sorted(slot.values)]
                elif isinstance(slot, NumberSlot):
                    found += _numbers(slot) or ["/"] * (limits.UNIQUE_VALUES + 1)
                else:
                    return None
        found = list(dict.fromkeys(found))
        return found if len(found) <= limits.UNIQUE_VALUES and "/" not in found else None


def _numbers(slot: NumberSlot) -> list[str] | None:
    if slot.values is not None:
        numbers = {number for number, _ in slot.values}
        texts = [
            spelled_number(NumberSlot(values=frozenset([(n, False)]))) for n in sorted(numbers)
        ]
        return [text for text in texts if text]
    low, high = slot.whole_bounds()
    if not slot.whole or low is None or high is None or high - low >= limits.UNIQUE_VALUES:
        return None
    return [f"/{n}/" for n in range(low, high + 1) if slot.has(Fraction(n))]


class _Counted:
    """An array of which it is counted how many items satisfy something; a rule for each state."""

    def __init__(self, writing: Writing, slot: ArraySlot, where: str) -> None:
        self._writing = writing
        self._rules = writing.rules
        self._slot = slot
        starts = max(some.start for some in slot.contains)
        self._last = max(1, len(slot.prefix), slot.least, slot.most or 0, starts)
        self._caps = [max(some.least, (some.most or 0) + 1) for some in slot.contains]
        states = self._last + 1
        for cap in self._caps:
            states *= cap + 1
        if states > limits.STATES or len(slot.contains) > 3:
            raise refusal(
                where,
                "contains or minContains together with these bounds needs too many rules",
                "use smaller bounds, or an enum of a few arrays",
            )
        self._names: dict[tuple[int, _Hits], str] = {}
        self._waiting: list[tuple[int, _Hits]] = []

    def rule(self) -> str:
        """The name of the rule for what stands between the brackets."""
        start = self._state(0, (0,) * len(self._slot.contains))
        while self._waiting:
            position, hits = self._waiting.pop()
            self._rules.define(self._names[position, hits], self._alternatives(position, hits))
        return start

    def _state(self, position: int, hits: _Hits) -> str:
        place = (min(position, self._last), hits)
        if place not in self._names:
            self._names[place] = self._rules.name()
            self._waiting.append(place)
        return self._names[place]

    def _may_end(self, position: int, hits: _Hits) -> bool:
        return position >= self._slot.least and all(
            some.least <= count and (some.most is None or count <= some.most)
            for some, count in zip(self._slot.contains, hits, strict=True)
        )

    def _alternatives(self, position: int, hits: _Hits) -> list[Alternative]:
        slot = self._slot
        found: list[Alternative] = [()] if self._may_end(position, hits) else []
        loop: Alternative = ()
        if slot.most is not None and position >= slot.most:
            return found
        for next_hits, goal in self._items(position, hits):
            item = self._writing.rule(goal)
            stays = next_hits == hits and position == self._last
            if stays:  # only one: nothing counts
                loop = (Many(('","', item), 0, None),)
            else:
                comma: Alternative = ('","',) if position else ()
                found.append((*comma, item, self._state(position + 1, next_hits)))
        return [(*loop, *rest) for rest in found]

    def _items(self, position: int, hits: _Hits) -> list[tuple[_Hits, Goal]]:
        """What the next item may be, and how often each thing has been seen then."""
        choices = [
            self._choices(some, cap, position, count)
            for some, cap, count in zip(self._slot.contains, self._caps, hits, strict=True)
        ]
        found = []
        for combined in product(*choices):
            goal = self._slot.item(position)
            for _, wanted in combined:
                goal = both(goal, wanted)
            found.append((tuple(count for count, _ in combined), goal))
        return found

    def _choices(
        self, some: Contains, cap: int, position: int, count: int
    ) -> list[tuple[int, Goal]]:
        if position < some.start or (some.most is None and count >= some.least):
            return [(count, ())]
        if some.most is not None and count >= some.most:
            return [(count, failed(some.goal))]
        miss = failed(some.goal) if some.most is not None else ()
        return [(count + 1, some.goal), (count, miss)]
