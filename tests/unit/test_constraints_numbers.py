"""The spellings of numbers under bounds, against exact arithmetic."""

from __future__ import annotations

import random
import re
from fractions import Fraction

from codellama.constraints.numbers import spelled_number
from codellama.constraints.scalars import NumberSlot

JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
DIGITS = [0, 1, 2, 5, 9, 10, 11, 12, 19, 25, 50, 99, 100, 101, 123, 250, 505, 1999]


def matches(expression: str, text: str) -> bool:
    """Whether a terminal's expression, which has only & and ~ outside of slashes, matches the text."""
    for part in expression.split(" & "):
        negative = part.startswith("~")
        if (re.fullmatch(part.lstrip("~")[1:-1], text) is not None) == negative:
            return False
    return True


def written(number: Fraction) -> str:
    """A number with up to six decimals, as JSON."""
    scaled = abs(number * 10**6)
    whole, rest = divmod(int(scaled), 10**6)
    digits = f"{rest:06}".rstrip("0")
    return ("-" if number < 0 else "") + str(whole) + ("." + digits if digits else "")


def some_number(rng: random.Random) -> Fraction:
    return Fraction(rng.choice(DIGITS) * rng.choice([1, -1]), rng.choice([1, 1, 10, 100, 1000]))


def some_slot(rng: random.Random) -> NumberSlot:
    low, high = sorted((some_number(rng), some_number(rng)))
    whole = rng.choice([None, None, True, False])
    base = rng.choice([1, 2, 4, 5, 8, 10, 25, 50, 125, 400])
    multiples = frozenset([Fraction(base, rng.choice([1, 10, 100, 1000]))])
    lowest = None if rng.random() < 0.3 else low
    highest = None if rng.random() < 0.3 else high
    return NumberSlot(
        lowest,
        lowest is not None and rng.random() < 0.5,
        highest,
        highest is not None and rng.random() < 0.5,
        whole,
        multiples if rng.random() < 0.3 and whole is not False else frozenset(),
    )


def some_texts(slot: NumberSlot, rng: random.Random) -> set[str]:
    some = next(iter(slot.multiples), Fraction(1, 7))
    steps = [some * rng.randint(-30, 30) for _ in range(12)]
    texts = {written(number) for number in steps} | {written(number) + "0" for number in steps}
    texts |= {"0", "-0", "0.0", "1", "-1", "1.0", "0.5", "00", "01", "1.", ".5", "-.5", "1e3", "+1"}
    for bound in (slot.low, slot.high):
        for step in map(Fraction, ("0", "1/10", "1/1000", "1", "10")):
            for number in ((bound or Fraction(0)) + step, (bound or Fraction(0)) - step):
                text = written(number)
                texts |= {text, text + ("0" if "." in text else ".0")}
    return texts | {written(some_number(rng)) for _ in range(20)}


def test_the_spelling_of_bounds_is_exact() -> None:
    rng = random.Random(1)
    checked = 0
    for _ in range(3000):
        slot = some_slot(rng)
        if not slot.may_exist():
            continue
        expression = spelled_number(slot)
        for text in some_texts(slot, rng):
            is_number = JSON_NUMBER.fullmatch(text) is not None
            allowed = is_number and slot.has(Fraction(text))
            found = expression is not None and matches(expression, text)
            unusual = text.startswith("-0") or "e" in text or (slot.whole and "." in text)
            assert found <= allowed, (slot, text, expression)
            assert found or not allowed or unusual, (slot, text, expression)
            checked += 1
    assert checked > 50_000


def test_forbidden_values_and_wide_bounds() -> None:
    for slot, good, bad in [
        (NumberSlot(not_values=frozenset([Fraction(5)])), ["4", "5.1", "50"], ["5", "5.0", "5.00"]),
        (NumberSlot(whole=True, not_values=frozenset([Fraction(0)])), ["1", "-1"], ["0"]),
        (NumberSlot(whole=True, low=Fraction(10**30)), [str(10**30)], [str(10**30 - 1)]),
        (NumberSlot(low=Fraction(0), low_open=True), ["1e-5", "0.1"], ["0", "0.0", "-1", "0e5"]),
        (
            NumberSlot(high=Fraction(3), high_open=True),
            ["2.999999999"],
            ["2.99999999999999999", "3"],
        ),
    ]:
        expression = spelled_number(slot)
        assert expression is not None
        assert all(matches(expression, text) for text in good), expression
        assert not any(matches(expression, text) for text in bad), expression
