"""What callers write about LoRA adapters, checked: paths, and scales by id or name."""

from __future__ import annotations

import os
from collections.abc import Mapping

from codellama.errors import InvalidRequestError
from codellama.settings import is_int, is_number

LARGEST_SCALE = 1000.0
"""Beyond it an adapter drowns the model, and far beyond no number comes out of it."""


def is_scale(value: object) -> bool:
    """Whether a value is a number that an adapter can be scaled by."""
    return is_number(value) and abs(value) <= LARGEST_SCALE  # type: ignore[arg-type]


def check_scales(lora: object) -> None:
    """Check a request's `lora`: LoRA adapters (id or name) and their scales.

    Raises InvalidRequestError naming `lora`.
    """
    if not isinstance(lora, Mapping):
        raise InvalidRequestError(
            "{param} must map adapters (id or name) to scales; got {value!r}", "lora", value=lora
        )
    for key, scale in lora.items():
        if not (is_int(key) and key >= 0) and not (isinstance(key, str) and key):
            raise InvalidRequestError(
                "{param}: an adapter is its id (0 or more) or its name; got {key!r}",
                "lora",
                key=key,
            )
        if not is_scale(scale):
            raise InvalidRequestError(
                "{param}: the scale of adapter {key} must be a number from -{most:.0f} to {most:.0f}; "
                "got {scale!r}",
                "lora",
                key=key,
                most=LARGEST_SCALE,
                scale=scale,
            )


def path_and_scale(entry: object) -> tuple[str, float]:
    """An adapter to load, a path or a pair of path and scale, as a pair.

    Raises InvalidRequestError naming `lora`.
    """
    path, scale = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, 1.0)
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise InvalidRequestError(
            "{param} must hold paths or (path, scale); got {entry!r}", "lora", entry=entry
        )
    if not is_scale(scale):
        raise InvalidRequestError(
            "{param}: the scale of {path} must be a number from -{most:.0f} to {most:.0f}",
            "lora",
            path=path,
            most=LARGEST_SCALE,
        )
    return os.fspath(path), float(scale)
