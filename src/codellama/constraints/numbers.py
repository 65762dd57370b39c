"""Spells constraints on numbers as regular expressions over JSON's decimal digits.

Bounds are exact. Where a bound other than zero holds, a number is written without an exponent. Digits are
limited (see `limits`), so that no answer runs on in them.
"""

from __future__ import annotations

import json
from fractions import Fraction

from codellama.constraints import limits
from codellama.constraints.scalars import NumberSlot
from codellama.constraints.whitespace import WHITESPACE

_MORE = limits.INTEGER_DIGITS - 1
_WHOLE = rf"(?:0|[1-9][0-9]{{0,{_MORE}}})"
_FRACTION = rf"\.[0-9]{{1,{limits.FRACTION_DIGITS}}}"
_TAIL = rf"[0-9]{{0,{limits.FRACTION_DIGITS}}}"
_NONZERO_TAIL = rf"[0-9]{{0,{limits.FRACTION_DIGITS}}}[1-9]{_TAIL}"
_DISTINCT = r"/-?(?:[0-9]{1,6}(?:\.[0-9]{1,9})?|[0-9]{7,12}(?:\.[0-9]{1,3})?|[0-9]{13,64})/"
"""Numbers of 15 digits at most, if they have a fraction: a reader may round others to what is forbidden."""
_LAST_PLACES = 6
_MOST_ENDS = 130
"""Of multiples that the last so many digits tell, as many endings are written out at most."""
_EXPONENT = r"(?:[eE][+\-]?[0-9]{1,2})?"
_POSITIVE = rf"(?:[1-9][0-9]{{0,{_MORE}}}(?:{_FRACTION})?|0\.{_NONZERO_TAIL})"


_ONE_SPELLING = r"/0|-?[1-9][0-9]*|-?(?:0|[1-9][0-9]*)\.[0-9]*[1-9]/"


def spelled_number(slot: NumberSlot, one_spelling: bool = False) -> str | None:
    """A terminal's expression for the numbers of a slot; None where nothing fits or json_schema_of must.

    With `one_spelling` each number can be written in one way only, and no two are equal to a reader.
    """
    text = _spelled(slot)
    if text is None or not one_spelling:
        return text
    return f"{text} & {_ONE_SPELLING} & {_DISTINCT}"


def _spelled(slot: NumberSlot) -> str | None:
    if slot.values is not None:
        return f"/{_either([_value(number, floats) for number, floats in sorted(slot.values)])}/"
    multiple = slot.multiple()
    if multiple is not None:
        return _multiples(slot, multiple)
    if slot.whole:
        text = _whole(slot)
        return None if text is None else f"/{text}/"
    free = slot.whole is None and not slot.not_values and slot.low in (None, 0)
    if free and slot.high in (None, 0):
        text = _by_sign(slot)
        return None if text is None else f"/{text}/"
    text = _decimal(slot)
    if text is None:
        return None
    is_open = slot.low_open or slot.high_open or slot.whole is False
    parts = [f"/{text}/"] + ([_DISTINCT] if is_open or slot.not_values else [])
    if slot.not_values:
        others = _either([_any_spelling(number) for number in sorted(slot.not_values)])
        parts.append(f"~/{others}/")
    return " & ".join(parts)


def json_schema_of(slot: NumberSlot) -> str | None:
    """llguidance's own JSON schema for multiples of a number that no short expression describes."""
    multiple = slot.multiple()
    if multiple is None or slot.not_values or slot.whole is False:
        return None
    if _steps(multiple) > limits.MULTIPLE:
        return None
    schema: dict[str, object] = {"type": "integer" if slot.whole else "number"}
    # without an end llguidance lets the digits go on until they happen to be a multiple
    far = limits.MULTIPLES_TO
    low = min(slot.high or 0, 0) - far if slot.low is None else slot.low
    high = max(slot.low or 0, 0) + far if slot.high is None else slot.high
    bounds = (("inimum", low, slot.low_open), ("aximum", high, slot.high_open))
    for name, bound, is_open in bounds:
        start = "exclusiveM" if is_open else "m"
        schema[start + name] = _json(Fraction(bound))
    schema["multipleOf"] = _json(multiple)
    # with the same white space, llguidance makes one lexer of this and what is around it
    schema["x-guidance"] = {"whitespace_pattern": WHITESPACE}
    if any(value is None for value in schema.values()):
        return None
    return json.dumps(schema)


def _steps(number: Fraction) -> int:
    """The number without its point: as many states does an automaton for its multiples have."""
    _, digits = _digits(number)
    return int(number * 10 ** len(digits))


def _json(number: Fraction) -> int | float | None:
    """The number as llguidance reads it, in doubles; None if it would not be the same."""
    value = float(number)
    if Fraction(repr(value)) != number or abs(number) > 2**53:
        return None
    return int(number) if number.denominator == 1 else value


def _either(options: list[str]) -> str:
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"


def _digits(number: Fraction) -> tuple[str, str]:
    """The whole part and the digits after the point of a number of 0 or more; exact."""
    whole, rest = divmod(number, 1)
    digits = ""
    while rest:
        digit, rest = divmod(rest * 10, 1)
        digits += str(digit)
    return str(whole), digits


def _value(number: Fraction, floats: bool) -> str:
    sign = "-" if number < 0 else ""
    whole, digits = _digits(abs(number))
    if digits:
        return rf"{sign}{whole}\.{digits}"
    if (
        floats and abs(number) > 2**53
    ):  # a float, which a reader may not find equal to the whole number
        return rf"{sign}{whole}\.0"
    return rf"{sign}{whole}(?:\.0)?" if floats else f"{sign}{whole}"


def _any_spelling(number: Fraction) -> str:
    sign = "-" if number < 0 else "-?" if number == 0 else ""
    whole, digits = _digits(abs(number))
    return rf"{sign}{whole}\.{digits}0*" if digits else rf"{sign}{whole}(?:\.0*)?"


def _whole(slot: NumberSlot) -> str | None:
    low, high = slot.whole_bounds()
    left_out = sorted(int(n) for n in slot.not_values if n.denominator == 1)
    parts = []
    for value in left_out:
        if (low is None or low <= value) and (high is None or value <= high):
            parts += _signed(low, value - 1)
            low = value + 1
    parts += _signed(low, high)
    return _either(parts) if parts else None


def _signed(low: int | None, high: int | None) -> list[str]:
    """Whole numbers from `low` to `high`; None is without end."""
    parts = []
    if low is None or low < 0:
        top = 1 if high is None or high >= -1 else -high
        bottom = None if low is None else -low
        if bottom is None or top <= bottom:
            parts.append(f"-{_range(top, bottom)}")
    if high is None or high >= 0:
        start = 0 if low is None else max(low, 0)
        if high is None or start <= high:
            parts.append(_range(start, high))
    return parts


def _range(low: int, high: int | None) -> str:
    """Whole numbers of 0 or more, from `low` to `high`."""
    options: list[str] = []
    if high is None:
        digits = str(low)
        longer = max(len(digits), 1)
        if longer <= _MORE:
            options.append(rf"[1-9][0-9]{{{longer},{max(_MORE, longer)}}}")
        options += _same_length(digits, "9" * len(digits)) if low else [r"[0-9]"]
        return _either(options)
    start, end = str(low), str(high)
    for length in range(len(start), len(end) + 1):
        first = start if length == len(start) else "1" + "0" * (length - 1)
        last = end if length == len(end) else "9" * length
        options += _same_length(first, last)
    return _either(options)


def _same_length(first: str, last: str) -> list[str]:
    """Strings of digits between two of the same length."""
    if not first:
        return [""]
    if first[0] == last[0]:
        rest = _same_length(first[1:], last[1:])
        return [first[0] + _either(rest)]
    size = len(first) - 1
    low, high = int(first[0]), int(last[0])
    options = []
    if set(first[1:]) - {"0"}:
        options.append(first[0] + _either(_same_length(first[1:], "9" * size)))
        low += 1
    upper = None
    if set(last[1:]) - {"9"}:
        upper = last[0] + _either(_same_length("0" * size, last[1:]))
        high -= 1
    if low <= high:
        any_digits = rf"[0-9]{{{size}}}" if size else ""
        options.append(_digit(low, high) + any_digits)
    return options + ([upper] if upper is not None else [])


def _digit(low: int, high: int) -> str:
    return str(low) if low == high else f"[{low}-{high}]"


def _decimal(slot: NumberSlot) -> str | None:
    """Numbers with or without a fraction, and without an exponent."""
    low, high = slot.low, slot.high
    parts = []
    if low is None or low < 0:
        top = Fraction(0) if high is None or high >= 0 else -high
        top_open = slot.high_open if high is not None and high < 0 else True
        bottom = None if low is None else -low
        magnitude = _magnitude(top, top_open, bottom, slot.low_open, slot.whole)
        parts += [f"-{magnitude}"] if magnitude else []
    if high is None or high > 0 or (high == 0 and not slot.high_open):
        start, start_open = (Fraction(0), False) if low is None or low < 0 else (low, slot.low_open)
        magnitude = _magnitude(start, start_open, high, slot.high_open, slot.whole)
        parts += [magnitude] if magnitude else []
    return _either(parts) if parts else None


def _by_sign(slot: NumberSlot) -> str | None:
    zero = [] if slot.low_open or slot.high_open else [r"-?0(?:\.0{1,9})?"]
    parts = [] if slot.low is not None else [rf"-{_POSITIVE}{_EXPONENT}"]
    parts += [] if slot.high is not None else [rf"{_POSITIVE}{_EXPONENT}"]
    return _either(parts + zero) if parts + zero else None


def _magnitude(
    low: Fraction, low_open: bool, high: Fraction | None, high_open: bool, whole: bool | None
) -> str | None:
    """Numbers of 0 or more within bounds; the pieces are the whole parts at, between and beyond them."""
    start, after = _digits(low)
    first = int(start)
    end, before = _digits(high) if high is not None else ("", "")
    last = int(end) if high is not None else None
    if last is not None and (first > last or (first == last and low > (high or 0))):
        return None
    fraction = _fraction(whole)
    if first == last:
        inner = _fraction_between(after, low_open, before, high_open, whole)
        return None if inner is None else f"{start}{inner}"
    parts = []
    least = _fraction_between(after, low_open, None, False, whole)
    parts += [f"{start}{least}"] if least is not None else []
    if last is None or first + 1 <= last - 1:
        parts.append(_range(first + 1, None if last is None else last - 1) + fraction)
    if last is not None:
        most = _fraction_between("", False, before, high_open, whole)
        parts += [f"{end}{most}"] if most is not None else []
    return _either(parts) if parts else None


def _fraction(whole: bool | None) -> str:
    return rf"\.{_NONZERO_TAIL}" if whole is False else rf"(?:{_FRACTION})?"


def _fraction_between(
    low: str, low_open: bool, high: str | None, high_open: bool, whole: bool | None
) -> str | None:
    """What may follow a whole part: a fraction from `low` to `high`, given by their digits (None: to 1)."""
    if max(len(low), len(high or "")) > limits.FRACTION_DIGITS:
        return None
    may_be_zero = not low and not low_open and whole is not False
    options = [r"(?:\.0{1,9})?"] if may_be_zero and (high or not high_open) else []
    low_open = low_open or (not low and whole is False)
    if high is None:
        options += [rf"\.{text}" for text in _at_least(low, low_open)]
    elif high:
        options += [rf"\.{text}" for text in _digits_between(low, low_open, high, high_open)]
    options = [text for text in options if text != rf"\.{_TAIL}"] + (
        [_FRACTION] if rf"\.{_TAIL}" in options else []
    )
    return _either(options) if options else None


def _digits_between(low: str, low_open: bool, high: str, high_open: bool) -> list[str]:
    """Digits after a point, at least one, from `low` to `high`."""
    exactly = [f"{low}0{{0,9}}"] if low and not low_open else []
    padded = low.ljust(len(high), "0")
    if padded >= high:
        return exactly if low == high and not high_open else []
    common = next(i for i in range(len(high)) if padded[i] != high[i])
    start, first, last = high[:common], int(padded[common]), int(high[common])
    options = [start + str(first) + text for text in _at_least(padded[common + 1 :], low_open)]
    if first + 1 <= last - 1:
        options.append(start + _digit(first + 1, last - 1) + _TAIL)
    options += [start + str(last) + text for text in _at_most(high[common + 1 :], high_open)]
    return options + exactly


def _at_least(low: str, is_open: bool) -> list[str]:
    """Digits that continue a fraction so that it is at least (above, if open) `low`."""
    options = []
    for i, digit in enumerate(low):
        if digit != "9":
            options.append(low[:i] + _digit(int(digit) + 1, 9) + _TAIL)
    return [*options, low + (_NONZERO_TAIL if is_open else _TAIL)]


def _at_most(high: str, is_open: bool) -> list[str]:
    """Digits that continue a fraction so that it is at most (below, if open) `high`."""
    options = []
    for i, digit in enumerate(high):
        options.append(high[:i])  # it may end here, below `high`
        if digit != "0":
            options.append(high[:i] + _digit(0, int(digit) - 1) + _TAIL)
    return [*options, *([] if is_open else [high + "0{0,9}"])]


def _multiples(slot: NumberSlot, multiple: Fraction) -> str | None:
    """Multiples of a number whose last digits tell, such as 0.01, 0.25, 5 or 400; None for others."""
    if slot.not_values or slot.whole is False:
        return None
    scale, base = _power_of_ten(multiple)
    ends = _last_digits(base)
    if ends is None:
        return None
    if scale >= 0:
        text = _whole(NumberSlot(slot.low, slot.low_open, slot.high, slot.high_open, True))
        if text is None:
            return None
        digits = f"(?:0|{_ending(ends)}{'0' * scale})"
        if slot.whole:
            return f"/{text}/ & /-?{digits}/"
        point = r"(?:\.0{1,9})?"
        return f"/{text}{point}/ & {_DISTINCT} & /-?{digits}{point}/"
    text = _decimal(slot)
    if text is None:
        return None
    return f"/{text}/ & {_DISTINCT} & /-?{_ending_decimal(ends, -scale)}/"


def _last_digits(base: int) -> list[str] | None:
    """How multiples of `base` end, if as many digits as these are enough to tell; None if they are not."""
    places = next((n for n in range(_LAST_PLACES + 1) if base and 10**n % base == 0), None)
    if places is None or 10**places // base > _MOST_ENDS:
        return None
    return [f"{end:0{places}}" if places else "" for end in range(0, 10**places, base)]


def _ending(ends: list[str]) -> str:
    """Whole numbers that end with one of these, all of one length; shorter ones without zeros before."""
    short = sorted({str(int(end)) for end in ends if end})
    return _either([f"[0-9]*{_either(ends)}", *short])


def _ending_decimal(ends: list[str], places: int) -> str:
    """Numbers of which the digits up to this decimal place end with one of these."""
    size = len(ends[0])
    if size > places:  # the last digits before the point count, too
        before: dict[str, list[str]] = {}
        for end in ends:
            before.setdefault(end[: size - places], []).append(end[size - places :])
        return _either(
            [_ending([whole]) + _fraction_of(tails, places) for whole, tails in before.items()]
        )
    return "[0-9]+" + _fraction_of(ends, places)


def _fraction_of(ends: list[str], places: int) -> str:
    """A fraction of so many digits that ends with one of these, without or with zeros behind it."""
    size = len(ends[0])
    free = places - size
    lead = rf"\.[0-9]{{{free}}}" if free else r"\."
    options = [rf"\.[0-9]{{1,{free}}}"] if free and not int(ends[0] or 0) else []
    options += [f"{lead}{end}0{{0,9}}" for end in ends if free or end]
    cut = {end[:n] for end in ends for n in range(1, size) if not int(end[n:])}
    options += [lead + end for end in sorted(cut)]
    return f"(?:{_either(options)}){'' if int(ends[0] or 0) else '?'}"


def _power_of_ten(number: Fraction) -> tuple[int, int]:
    """(n, b) with number = b * 10**n and b not divisible by ten; b is 0 if there are none."""
    scale = 0
    while number.denominator != 1 and scale > -20:
        number, scale = number * 10, scale - 1
    value = int(number) if number.denominator == 1 else 0
    while value and value % 10 == 0:
        value, scale = value // 10, scale + 1
    return scale, value
