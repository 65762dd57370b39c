"""Settings: how a field of `SamplingParams` or `ModelConfig` is declared, and what follows from that.

`setting` declares a field once: its default, one sentence, its group and its limits; type and choices are its
annotation. Checks are made here; the command line's options, the HTTP fields and the tables in the documents
are made from `settings_of`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from codellama.errors import InvalidRequestError

ELSEWHERE = {
    "stream": "what is returned is a stream already: iterate it",
    "response_format": "json_schema takes the schema",
    "system": "give a message with the role system, or use a Session",
}
"""What other libraries have as a parameter, and where it is here."""

LARGEST_FLOAT = 3.4028234e38  # of 32 bits

T = TypeVar("T")
Face = Literal["Python", "command line", "HTTP"]
"""Where a setting can be given."""


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What `setting` says about a field, besides its name, type and default.

    `low` and `high` are limits of a number, both included. `default_text` says what the default means
    where its value does not. In `sentence` and `default_text` other settings are written `{n_ctx}`.
    `faces` None means those of the class.
    """

    sentence: str
    group: str
    low: float = -math.inf
    high: float = math.inf
    default_text: str = ""
    faces: tuple[Face, ...] | None = None


def setting(
    default: T,
    sentence: str,
    group: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    default_text: str = "",
    faces: tuple[Face, ...] | None = None,
) -> T:
    """A dataclass field with this default (an empty mapping is made anew) and `Declaration`."""
    metadata = {"setting": Declaration(sentence, group, low, high, default_text, faces)}
    field: Any
    if isinstance(default, dict):
        field = dataclasses.field(default_factory=dict, metadata=metadata)
    else:
        field = dataclasses.field(default=default, metadata=metadata)
    typed: T = field  # the dataclass puts the default in its place
    return typed


@dataclasses.dataclass(frozen=True)
class Setting:
    """A declared field. `kind` is its type without None, which `optional` allows."""

    name: str
    kind: Any
    optional: bool
    default: Any
    declaration: Declaration
    faces: tuple[Face, ...]

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a field that is one of several names; else empty."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def is_number(self) -> bool:
        """Whether this is one number."""
        return self.kind in (int, float)

    @property
    def limits(self) -> str:
        """A number's range in words; empty if there is none."""
        low, high = self.declaration.low, self.declaration.high
        if high != math.inf:
            return f"from {_plain(low)} to {_plain(high)}"
        return f"of {_plain(low)} or more" if low != -math.inf else ""

    def sentence(self, spell: Callable[[str], str] = str) -> str:
        """The sentence, in which `spell` says how other settings are written."""
        return _spelled(self.declaration.sentence, spell)

    def default_text(self, spell: Callable[[str], str] = str) -> str:
        """What the default means, or its value; empty for an empty list."""
        if self.declaration.default_text:
            return _spelled(self.declaration.default_text, spell)
        return "" if self.default in ((), {}) else str(self.default)

    def check(self, value: object) -> None:
        """Raise InvalidRequestError, which names the setting, if it cannot have this value."""
        if value is None and self.optional:
            return
        if self.choices:
            if value not in self.choices:
                choices = ", ".join(map(str, self.choices))
                raise InvalidRequestError(
                    "{param} must be one of {choices}; got {value!r}",
                    self.name,
                    choices=choices,
                    value=value,
                )
        elif self.kind is bool:
            if not isinstance(value, bool):
                raise InvalidRequestError("{param} must be true or false", self.name)
        elif self.is_number:
            self._check_number(value)

    def _check_number(self, value: object) -> None:
        whole = self.kind is int
        good_type = is_int(value) if whole else is_number(value)
        low, high = self.declaration.low, self.declaration.high
        if not good_type or not low <= value <= high:  # type: ignore[operator]
            wanted = f"a {'whole ' * whole}number {self.limits}".rstrip()
            if isinstance(value, float) and not is_number(value):
                wanted += " that 32 bits hold"
            raise InvalidRequestError(
                "{param} must be {wanted}; got {value!r}", self.name, wanted=wanted, value=value
            )


@functools.cache
def settings_of(cls: type) -> tuple[Setting, ...]:
    """The settings of a dataclass whose fields are declared by `setting`, in order.

    Its attribute `faces` says where they can be given, but for fields that say otherwise.
    """
    hints = get_type_hints(cls)
    faces: tuple[Face, ...] = cls.faces  # type: ignore[attr-defined]
    return tuple(_setting(field, hints[field.name], faces) for field in dataclasses.fields(cls))


def check_settings(values: Any) -> None:
    """Check every setting of a dataclass; InvalidRequestError names the first that cannot be so."""
    for declared in settings_of(type(values)):  # type: ignore[arg-type]
        declared.check(getattr(values, declared.name))


def make(cls: type[T], options: Mapping[str, Any]) -> T:
    """The dataclass `cls` with these fields; InvalidRequestError names one that it does not have."""
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in options:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = ELSEWHERE.get(name) or (f"did you mean {close[0]}?" if close else "")
            hint = f"; {hint}" if hint else ""
            raise InvalidRequestError("unknown parameter {param!r}{hint}", name, hint=hint)
    return cls(**options)


def is_int(value: object) -> bool:
    """Whether this is a whole number, which True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether this is a number that 32 bits hold, as llama.cpp's are."""
    real = is_int(value) or isinstance(value, float)
    return real and -LARGEST_FLOAT <= value <= LARGEST_FLOAT  # type: ignore[operator]


def _setting(field: dataclasses.Field[Any], hint: Any, faces: tuple[Face, ...]) -> Setting:
    declaration: Declaration = field.metadata["setting"]
    kind, optional = _without_none(hint)
    default = {} if field.default is dataclasses.MISSING else field.default
    return Setting(field.name, kind, optional, default, declaration, declaration.faces or faces)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """A type without None, and whether None was in it."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    kinds = tuple(kind for kind in get_args(hint) if kind is not types.NoneType)
    return Union[kinds], len(kinds) < len(get_args(hint))  # noqa: UP007 - the kinds are data


def _spelled(text: str, spell: Callable[[str], str]) -> str:
    names = [name for _, name, _, _ in Formatter().parse(text) if name]
    return text.format_map({name: spell(name) for name in names})


def _plain(limit: float) -> str:
    if isinstance(limit, int):  # longer ones are no floats
        return str(limit)
    return f"{limit:.0f}" if limit == round(limit, 0) else f"{limit:g}"
