"""Writes the rules of arrays: first items, the rest, how many, what they contain, and unique short lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from itertools import product

from codellama.constraints import limits
from codellama.constraints.cases import BooleanSlot, NullSlot
from codellama.constraints.containers import ArraySlot, Contains, Goal, both, failed
from codellama.constraints.numbers import spelled_number
from codellama.constraints.place import FREE_MARK, MARK, VARIED_MARK
from codellama.constraints.refusal import refusal
from codellama.constraints.rules import Alternative, Many, Rules
from codellama.constraints.scalars import NumberSlot, StringSlot, lower
from codellama.constraints.strings import spelled_values
from codellama.constraints.unique import ROOM, marked
from codellama.constraints.variety import has_free_strings, variety
from codellama.constraints.writing import Spelling, Writing

_Hits = tuple[int, ...]
_Item = Callable[[Goal], str]
"""Gives the rule of an item that satisfies a goal."""


class ArrayWriter:
    """Writes arrays into the grammar that is being written."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._rules = writing.rules

    def write(self, slot: ArraySlot, where: str, spelling: Spelling) -> str:
        """The name of the rule for the arrays of a slot; `where` is the place in the schema."""
        slot = self._shortened(slot)
        item: _Item = partial(self._writing.rule, spelling=spelling)
        if slot.most is not None and slot.least > slot.most:
            return self._rules.rule([])
        contains = tuple(some for some in slot.contains if some.least or some.most is not None)
        slot = replace(slot, contains=contains)
        values = None
        if slot.unique and (slot.most is None or slot.most > 1):
            values = None if slot.prefix or contains else self._finite(slot.rest)
            if values is None:
                item = self._tracked(slot, spelling)
        if values is not None:
            inner = self._listed(slot, values)
        elif contains:
            inner = _Counted(self._rules, item, slot, where).rule()
        else:
            inner = self._plain(slot, item)
        return self._rules.rule([('"["', inner, '"]"')])

    def _shortened(self, slot: ArraySlot) -> ArraySlot:
        """The slot with the length that its items leave possible."""
        for i, goal in enumerate(slot.prefix):
            if self._writing.is_empty(goal):
                return replace(slot, prefix=slot.prefix[:i], most=lower(slot.most, i))
        if self._writing.is_empty(slot.rest):
            return replace(slot, most=lower(slot.most, len(slot.prefix)))
        return slot

    def _plain(self, slot: ArraySlot, rule: _Item) -> str:
        count = len(slot.prefix) if slot.most is None else min(len(slot.prefix), slot.most)
        after = self._rules.rule(
            [self._tail(slot, count, rule)] if count else self._whole(slot, rule)
        )
        for i in reversed(range(count)):
            item = rule(slot.prefix[i])
            here: list[Alternative] = [('","', item, after) if i else (item, after)]
            after = self._rules.rule(here if i < slot.least else [*here, ()])
        return after

    def _whole(self, slot: ArraySlot, rule: _Item) -> list[Alternative]:
        if slot.most == 0:
            return [()]
        item = rule(slot.rest)
        most = None if slot.most is None else slot.most - 1
        some: Alternative = (item, Many(('","', item), max(0, slot.least - 1), most))
        return [some] if slot.least else [some, ()]

    def _tail(self, slot: ArraySlot, count: int, rule: _Item) -> Alternative:
        most = None if slot.most is None else slot.most - count
        if most == 0:
            return ()
        item = rule(slot.rest)
        return (Many(('","', item), max(0, slot.least - count), most),)

    def _tracked(self, slot: ArraySlot, spelling: Spelling) -> _Item:
        """The rule of an item whose array `Unique` watches: a mark may stand before it, and tells so."""
        if spelling:
            raise refusal(
                slot.unique,
                "uniqueItems cannot be enforced inside of items that have to differ themselves",
                "leave one of the two out, or give the inner items an enum of at most {most} values",
                most=limits.UNIQUE_VALUES,
            )
        if len(slot.contains) > 1:
            raise refusal(
                slot.unique,
                "uniqueItems cannot be enforced beside more than one contains",
                "leave one of them out",
            )
        _check_variety(slot, self._writing)

        def item(goal: Goal) -> str:
            inner = self._writing.rule(goal, Spelling.ONE)
            varied = bool(slot.contains) or goal != slot.rest
            is_free = not varied and has_free_strings(goal, ROOM, self._writing)
            mark = VARIED_MARK if varied else FREE_MARK if is_free else MARK
            return self._rules.rule([(inner,), (self._rules.terminal(marked(mark)), inner)])

        return cache(item)

    def _listed(self, slot: ArraySlot, values: list[str]) -> str:
        """Different ones of a few values: the grammar keeps a bit for each."""
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


def _check_variety(slot: ArraySlot, writing: Writing) -> None:
    """Raises GrammarError if the items that an array must have might run out of different values."""
    size = len(slot.prefix)
    # what has to be contained may have its place only behind the first items
    least = max(slot.least, *(max(size, some.start) for some in slot.contains), 0)
    wanted = [(slot.item(i), i + 1) for i in range(min(least, size))]
    wanted += [(slot.rest, least)] if least > size else []
    for some in slot.contains:
        for index in range(some.start, max(size, some.start) + 1):
            item = slot.item(index)
            wanted.append((both(item, some.goal), some.least))
            if some.most is not None and slot.least > some.most:
                wanted.append((both(item, failed(some.goal)), slot.least))
    for goal, least in wanted:
        if least > 1 and variety(goal, writing) < least:
            raise refusal(
                slot.unique,
                "uniqueItems cannot be enforced: it is not certain that {least} items can differ",
                "ask for fewer items, or allow more values",
                least=least,
            )


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

    def __init__(self, rules: Rules, item: _Item, slot: ArraySlot, where: str) -> None:
        self._item = item
        self._rules = rules
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
            item = self._item(goal)
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
