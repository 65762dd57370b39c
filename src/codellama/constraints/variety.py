"""How many different values a goal certainly has: items that must differ need enough of them."""

from __future__ import annotations

from math import prod

from codellama.constraints.cases import BooleanSlot, Slot
from codellama.constraints.containers import ArraySlot, Goal, ObjectSlot
from codellama.constraints.regex_tree import Alt, Chars, Repeat, Seq, Tree, lengths
from codellama.constraints.scalars import NumberSlot, StringSlot
from codellama.constraints.writing import Writing

_MANY = 10**9
"""Stands for any number that no answer reaches."""
_DEPTH = 4


def has_free_strings(goal: Goal, size: int, writing: Writing) -> bool:
    """Whether the goal allows strings of more than `size` characters, which may be any."""
    return any(
        isinstance(slot, StringSlot)
        and slot.values is None
        and (slot.most is None or slot.most > size)
        and not (slot.all_of or slot.none_of)
        for slot in writing.cases(goal).get("string", ())
    )


def variety(goal: Goal, writing: Writing, depth: int = _DEPTH) -> int:
    """A lower bound of the number of values that satisfy the goal."""
    if depth == 0:
        return 1
    kinds = writing.cases(goal).values()
    counts = [max(_of_slot(slot, writing, depth) for slot in slots) for slots in kinds if slots]
    return min(_MANY, sum(counts))


def _of_slot(slot: Slot, writing: Writing, depth: int) -> int:
    if isinstance(slot, BooleanSlot):
        return len(slot)
    if isinstance(slot, NumberSlot):
        return _of_numbers(slot)
    if isinstance(slot, StringSlot):
        return _of_strings(slot)
    inner: list[Goal] = []
    if isinstance(slot, ObjectSlot):
        inner = [slot.value(name) for name in slot.required]
    elif isinstance(slot, ArraySlot):
        if slot.most is None and not (slot.contains or slot.unique):
            return 1 if writing.is_empty(slot.rest) else _MANY
        inner = [slot.item(i) for i in range(min(slot.least, 8))]
    return max((variety(goal, writing, depth - 1) for goal in inner), default=1)


def _of_numbers(slot: NumberSlot) -> int:
    if slot.values is not None:
        return len(slot.values)
    if slot.low is None or slot.high is None:
        return _MANY
    if slot.multiple() is not None:
        step = slot.multiple() or 1
        count = (slot.high // step) - (-(-slot.low // step)) + 1
        count -= 2 * (slot.low_open or slot.high_open)
    elif slot.whole:
        low, high = slot.whole_bounds()
        count = (high or 0) - (low or 0) + 1
    else:
        count = int((slot.high - slot.low) * 1000) - 1 if slot.high < 10**12 else 1
    return max(1, count - len(slot.not_values))


def _of_strings(slot: StringSlot) -> int:
    if slot.values is not None:
        return len(slot.values)
    if not (slot.all_of or slot.none_of):
        return 1 if slot.most == 0 else _MANY
    is_plain = len(slot.all_of) == 1 and not (slot.none_of or slot.least or slot.most is not None)
    if not is_plain or slot.all_of[0].conditions > 1:
        return 1
    return max(1, _of_tree(slot.all_of[0].whole) - len(slot.not_values))


def _of_tree(tree: Tree) -> int:
    """Texts that a pattern certainly matches."""
    if lengths(tree)[1] is None:
        return _MANY
    match tree:
        case Chars(ranges):
            return sum(high - low + 1 for low, high in ranges)
        case Alt(parts):
            return max(map(_of_tree, parts))
        case Seq(parts):
            # parts of one length each cannot be read in two ways; of the others the best alone
            fixed = [_of_tree(part) for part in parts if len(set(lengths(part))) == 1]
            others = [_of_tree(part) for part in parts if len(set(lengths(part))) == 2]
            return min(_MANY, max([prod(fixed), *others]))
        case Repeat(part, least, most):
            is_even = len(set(lengths(part))) == 1
            times = min(most or 0, 30) if is_even else min(least, 1)
            return min(_MANY, int(_of_tree(part) ** times))
    return 1
