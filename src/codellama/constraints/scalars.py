"""Constraints on strings and numbers: what two of them leave in common, and what one of them forbids.

`meet` gives None where nothing is left. `opposites` gives the constraints that together allow exactly what
this one forbids, within its type.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, gcd

from codellama.constraints.patterns import Pattern


def lower(a: int | None, b: int | None) -> int | None:
    """The smaller of two upper bounds, where None is none."""
    return b if a is None else a if b is None else min(a, b)


@dataclass(frozen=True)
class StringSlot:
    """Strings of `least` to `most` characters that match all of some patterns and none of others."""

    least: int = 0
    most: int | None = None
    all_of: tuple[Pattern, ...] = ()
    none_of: tuple[Pattern, ...] = ()
    values: frozenset[str] | None = None
    """Only these; the other fields are then free."""
    not_values: frozenset[str] = frozenset()

    def has(self, text: str) -> bool:
        """Whether the string is allowed."""
        if self.values is not None:
            return text in self.values
        return (
            self.least <= len(text)
            and (self.most is None or len(text) <= self.most)
            and text not in self.not_values
            and all(pattern.matches(text) for pattern in self.all_of)
            and not any(pattern.matches(text) for pattern in self.none_of)
        )

    def meet(self, other: StringSlot) -> StringSlot | None:
        """Strings that both allow."""
        if self.values is not None or other.values is not None:
            first, second = (self, other) if self.values is not None else (other, self)
            kept = frozenset(text for text in first.values or () if second.has(text))
            return StringSlot(values=kept) if kept else None
        slot = StringSlot(
            max(self.least, other.least),
            lower(self.most, other.most),
            _joined(self.all_of, other.all_of),
            _joined(self.none_of, other.none_of),
            None,
            self.not_values | other.not_values,
        )
        return slot if slot.may_exist() else None

    def may_exist(self) -> bool:
        """Whether lengths leave room; patterns may still exclude each other."""
        least, most = self.least, self.most
        for pattern in self.all_of:
            shortest, longest = pattern.lengths
            least, most = max(least, shortest), lower(most, longest)
        return (most is None or least <= most) and not set(self.all_of) & set(self.none_of)

    def opposites(self) -> list[StringSlot]:
        """Constraints that allow what this one forbids."""
        if self.values is not None:
            return [StringSlot(not_values=self.values)]
        found = [StringSlot(none_of=(pattern,)) for pattern in self.all_of]
        found += [StringSlot(all_of=(pattern,)) for pattern in self.none_of]
        if self.least:
            found.append(StringSlot(most=self.least - 1))
        if self.most is not None:
            found.append(StringSlot(least=self.most + 1))
        if self.not_values:
            found.append(StringSlot(values=self.not_values))
        return found


@dataclass(frozen=True)
class NumberSlot:
    """Numbers within bounds, whole ones or only those with a fraction, multiples of some numbers."""

    low: Fraction | None = None
    low_open: bool = False
    high: Fraction | None = None
    high_open: bool = False
    whole: bool | None = None
    multiples: frozenset[Fraction] = frozenset()
    values: frozenset[tuple[Fraction, bool]] | None = None
    """Only these, each with whether it may be written with a fraction of zeros (as 1.0)."""
    not_values: frozenset[Fraction] = frozenset()

    def has(self, number: Fraction) -> bool:
        """Whether the number is allowed."""
        if self.values is not None:
            return any(number == value for value, _ in self.values)
        low_ok = self.low is None or number > self.low or (number == self.low and not self.low_open)
        high_ok = (
            self.high is None or number < self.high or (number == self.high and not self.high_open)
        )
        return (
            low_ok
            and high_ok
            and self.whole in (None, number.denominator == 1)
            and all((number / m).denominator == 1 for m in self.multiples)
            and number not in self.not_values
        )

    def meet(self, other: NumberSlot) -> NumberSlot | None:
        """Numbers that both allow."""
        if self.values is not None or other.values is not None:
            first, second = (self, other) if self.values is not None else (other, self)
            kept = frozenset(v for v in first.values or () if second.has(v[0]))
            if second.whole and second.values is None:
                kept = frozenset((number, False) for number, _ in kept)
            return NumberSlot(values=kept) if kept else None
        if self.whole is not None and other.whole is not None and self.whole != other.whole:
            return None
        low, low_open = _tighter((self.low, self.low_open), (other.low, other.low_open), True)
        high, high_open = _tighter(
            (self.high, self.high_open), (other.high, other.high_open), False
        )
        slot = NumberSlot(
            low,
            low_open,
            high,
            high_open,
            self.whole if other.whole is None else other.whole,
            self.multiples | other.multiples,
            None,
            self.not_values | other.not_values,
        )
        return slot if slot.may_exist() else None

    def may_exist(self) -> bool:
        """Whether the bounds leave room."""
        if self.whole:
            low, high = self.whole_bounds()
            return low is None or high is None or low <= high
        if self.low is None or self.high is None:
            return True
        return self.low < self.high or (
            self.low == self.high and not (self.low_open or self.high_open)
        )

    def whole_bounds(self) -> tuple[int | None, int | None]:
        """The smallest and the largest whole number allowed."""
        low = None if self.low is None else ceil(self.low)
        high = None if self.high is None else floor(self.high)
        if low is not None and self.low_open and low == self.low:
            low += 1
        if high is not None and self.high_open and high == self.high:
            high -= 1
        return low, high

    def opposites(self) -> list[NumberSlot] | None:
        """Constraints that allow what this one forbids; None where that cannot be said."""
        if self.multiples:
            return None
        if self.values is not None:
            return [NumberSlot(not_values=frozenset(number for number, _ in self.values))]
        found = []
        if self.low is not None:
            found.append(NumberSlot(high=self.low, high_open=not self.low_open))
        if self.high is not None:
            found.append(NumberSlot(low=self.high, low_open=not self.high_open))
        if self.whole is not None:
            found.append(NumberSlot(whole=not self.whole))
        if self.not_values:
            found.append(NumberSlot(values=frozenset((n, False) for n in self.not_values)))
        return found

    def multiple(self) -> Fraction | None:
        """The one number of which all allowed numbers are multiples."""
        numbers = (
            {*self.multiples, Fraction(1)} if self.whole and self.multiples else self.multiples
        )
        result: Fraction | None = None
        for number in numbers:
            result = number if result is None else _common(result, number)
        return result


def _common(a: Fraction, b: Fraction) -> Fraction:
    top = a.numerator * b.denominator
    other = b.numerator * a.denominator
    return Fraction(top * other // gcd(top, other), a.denominator * b.denominator)


def _joined(a: tuple[Pattern, ...], b: tuple[Pattern, ...]) -> tuple[Pattern, ...]:
    return a + tuple(pattern for pattern in b if pattern not in a)


_Bound = tuple[Fraction | None, bool]


def _tighter(a: _Bound, b: _Bound, is_lower: bool) -> _Bound:
    """The narrower of two lower or upper bounds, each with whether it is open."""
    if a[0] is None or b[0] is None:
        return b if a[0] is None else a
    if a[0] == b[0]:
        return a[0], a[1] or b[1]
    return a if (a[0] > b[0]) == is_lower else b
