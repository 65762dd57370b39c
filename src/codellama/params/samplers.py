"""The steps of sampling in llama.cpp's spellings (common/sampling.cpp): names, aliases and letters."""

from __future__ import annotations

from collections.abc import Iterable

from codellama.errors import InvalidRequestError

SAMPLERS = (  # llama.cpp's default order
    *("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"),
)
KNOWN = (*SAMPLERS, "infill")
_LETTERS = dict(zip("edskypmxti", KNOWN, strict=True))
_ALIASES = {
    **{name.replace("_", "-"): name for name in KNOWN},
    **{name.replace("_", ""): name for name in KNOWN},
    "nucleus": "top_p",
    "temp": "temperature",
    "typ": "typ_p",
}


def sampler_names(given: str | Iterable[str]) -> tuple[str, ...]:
    """The steps that are named one by one, or by the letters of one text such as "edkypmxt".

    Raises InvalidRequestError for one that does not exist.
    """
    return tuple(_name(step, given) for step in given)


def _name(step: object, given: object) -> str:
    text = step if isinstance(step, str) else ""
    name = (
        _LETTERS.get(text) if isinstance(given, str) else _ALIASES.get(text.lower(), text.lower())
    )
    if name not in KNOWN:
        letters = "".join(_LETTERS)
        raise InvalidRequestError(
            "{param}: {step!r} is not one of {names}, nor a text of the letters {letters}",
            "samplers",
            step=step,
            names=", ".join(KNOWN),
            letters=letters,
        )
    return name
