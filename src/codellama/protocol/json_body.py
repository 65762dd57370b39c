"""A request's bytes as JSON values, within `limits` and the JSON specification (RFC 8259).

Python's reader would take NaN, Infinity and numbers that overflow to infinity, none of which is JSON's,
and nest, count and spell as large as it can. Sizes are checked on the text, before values are made of it.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

from codellama.errors import InvalidRequestError
from codellama.protocol import limits

_LONG_NUMBER = re.compile(rf"[-+.0-9eE]{{{limits.NUMBER_CHARS + 1}}}")
_ONLY_BRACKETS = re.compile(r"[^\[\]{}]+")
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


def parse_json(raw: bytes) -> Any:
    """The value of a body. Raises InvalidRequestError: which bound it breaks, or where it is no JSON."""
    try:
        text = raw.decode(json.detect_encoding(raw), "surrogatepass").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InvalidRequestError("the body is not text: {reason}", reason=error) from None
    _check_sizes(text)
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InvalidRequestError(
            "the body is not valid JSON: {cause} (character {at})", cause=error.msg, at=error.pos
        ) from None


def _check_sizes(text: str) -> None:
    # Without escapes every quotation mark begins or ends a text.
    bare = text.replace("\\\\", "").replace('\\"', "") if "\\" in text else text
    if bare.count('"') > 2 * limits.VALUES:
        raise _too_large("more than {most} values", limits.VALUES)
    parts = bare.split('"')
    if max(map(len, parts[1::2]), default=0) > limits.TEXT_CHARS:
        raise _too_large("a text of more than {most} characters", limits.TEXT_CHARS)
    frame = '"'.join(parts[::2])
    if sum(map(frame.count, ",[{")) > limits.VALUES:
        raise _too_large("more than {most} values", limits.VALUES)
    if _LONG_NUMBER.search(frame):
        raise _too_large("a number of more than {most} characters", limits.NUMBER_CHARS)
    brackets = _ONLY_BRACKETS.sub("", frame)
    depth = max(itertools.accumulate(map(_STEP.__getitem__, brackets)), default=0)
    if depth > limits.DEPTH:
        raise _too_large("objects and arrays nested more than {most} deep", limits.DEPTH)


def _too_large(what: str, most: int) -> InvalidRequestError:
    return InvalidRequestError("the body holds {what}", what=what.format(most=most))


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise InvalidRequestError("the body holds {number}, which is too large", number=text)
    return number


def _no_constant(name: str) -> float:
    raise InvalidRequestError("the body is not valid JSON: {name} is no number", name=name)
