"""The body of a request: strict types, every name known or told.

Every class of bodies derives from `Fields`, which reads names in all their spellings, lets null mean "not
given" and sorts out what is no parameter (see `codellama.protocol.known`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from codellama.errors import InvalidRequestError
from codellama.protocol.errors import unknown_parameter, validation_error
from codellama.protocol.known import (
    GROUPS,
    IGNORED,
    IGNORED_PREFIXES,
    NEUTRAL,
    NO_EFFECT,
    SWITCHES,
    says_nothing,
)
from codellama.protocol.tolerance import lets_pass, note_ignored


class Fields(BaseModel):
    """A request body: strict types, no unknown names, null means "not given".

    `place` is where it stands inside another one, such as "stream_options.".
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    aliases: ClassVar[Mapping[str, str]] = {}
    no_effect: ClassVar[frozenset[str]] = NO_EFFECT
    ignored: ClassVar[Mapping[str, tuple[Any, ...]]] = IGNORED
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL
    place: ClassVar[str] = ""

    _spelling: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _only_known(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        given: dict[str, Any] = {}
        spelling: dict[str, str] = {}
        for name, value in _ungrouped(data):
            field = cls.aliases.get(name, name)
            if field not in cls.model_fields:
                cls._sort_out(name, value, data)
            elif value is not None:
                if field in given and given[field] != value:
                    raise _given_twice(name, spelling[field])
                given[field] = value
                spelling[field] = name
        try:
            model = handler(given)
        except ValidationError as error:
            refusal = validation_error(error.errors())
            respell(refusal, spelling)
            raise refusal from None
        model._spelling = spelling
        return model

    @classmethod
    def _sort_out(cls, name: str, value: Any, data: Mapping[str, Any]) -> None:
        """Refuse what is no parameter, unless it may be ignored; then it is noted if it said anything."""
        if name in cls.no_effect or data.get(SWITCHES.get(name, "")) == "none":
            return
        if name in cls.ignored or name.startswith(IGNORED_PREFIXES):
            if not says_nothing(value, cls.ignored.get(name, ())):
                note_ignored(cls.place + name)
        elif name in cls.neutral:
            if not says_nothing(value, cls.neutral[name]):
                raise InvalidRequestError("{param} is not supported: leave it out", name)
        elif not lets_pass(cls.place + name):
            known = [*cls.model_fields, *cls.aliases, *cls.no_effect, *cls.ignored, *cls.neutral]
            raise unknown_parameter(name, known)


def _ungrouped(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values, those in objects of `GROUPS` with the object's name and a point before them."""
    for name, value in data.items():
        if name in GROUPS and isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", one) for inner, one in value.items())
        else:
            yield name, value


def respell(error: InvalidRequestError, spelling: Mapping[str, str]) -> None:
    """Put the error in the client's own spelling of the parameter."""
    name = spelling.get(error.param or "")
    if name is not None:
        error.rename(name)


def _given_twice(name: str, other: str) -> InvalidRequestError:
    return InvalidRequestError(
        "{other} and {param} are one parameter: give it once", name, other=other
    )
