"""What the value classes in `params` check when they are made: numbers, their limits, and names."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from codellama.errors import InvalidRequestError

T = TypeVar("T")

LARGEST_FLOAT32 = 3.4e38

_FRACTIONS = frozenset(  # numbers with a fraction whose default is None
    {
        *("timeout_s", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor"),
        *("yarn_beta_fast", "yarn_beta_slow"),
    }
)


def is_int(value: object) -> bool:
    """Whether this is a whole number, which True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_scale(value: object) -> bool:
    """Whether this is a number that llama.cpp, which computes in 32 bits, does not take for infinite."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    return abs(number) <= LARGEST_FLOAT32


def check_number(params: object, name: str, low: float, high: float) -> None:
    """Check that field `name` is a number (or None where the default is None) within [low, high].

    Raises InvalidRequestError naming the field.
    """
    value = getattr(params, name)
    default = next(f.default for f in dataclasses.fields(params) if f.name == name)  # type: ignore[arg-type]
    if value is None and default is None:
        return
    whole = name not in _FRACTIONS and (default is None or is_int(default))
    good_type = is_int(value) or (not whole and isinstance(value, float))
    if not good_type or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        limits = (
            f"from {_plain(low)} to {_plain(high)}"
            if high != math.inf
            else f"of {_plain(low)} or more"
        )
        raise InvalidRequestError(f"{name} must be {kind} {limits}; got {value!r}", name)


def check_scales(lora: object) -> None:
    """Check a request's `lora`: LoRA adapters (id or name) and their scales.

    Raises InvalidRequestError naming `lora`.
    """
    if not isinstance(lora, Mapping):
        raise InvalidRequestError(
            f"lora must map adapters (id or name) to scales; got {lora!r}", "lora"
        )
    for key, scale in lora.items():
        if not (is_int(key) and key >= 0) and not (isinstance(key, str) and key):
            raise InvalidRequestError(
                f"lora: an adapter is its id (0 or more) or its name; got {key!r}", "lora"
            )
        if not is_scale(scale):
            raise InvalidRequestError(
                f"lora: the scale of adapter {key} must be a number; got {scale!r}", "lora"
            )


def make(cls: type[T], options: Mapping[str, Any]) -> T:
    """The dataclass `cls` with these fields; InvalidRequestError names one that it does not have."""
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in options:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InvalidRequestError(f"unknown parameter {name!r}{hint}", name)
    return cls(**options)


def _plain(limit: float) -> str:
    return f"{limit:.0f}" if limit == round(limit, 0) else f"{limit:g}"
