"""The LoRA adapters of a loaded model: what they are called, at which scale they act, and what a request
says of them.

An adapter acts on a request at the scale that the request gives; if it gives none at all, at the default
scale, which is that of loading until it is changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from codellama.engine.batch import Scales
from codellama.errors import InvalidRequestError
from codellama.params.lora import check_scales

LoraScales = Mapping[int | str, float]
"""Adapter id or name to scale; 1 is in full, 0 not at all."""


@dataclass(frozen=True)
class Adapter:
    """A loaded LoRA adapter and its default scale; `task_name` and `prompt_prefix` are the file's.

    `path` is a GGUF, or with `peft` the folder of an adapter that was converted while it was loaded.
    """

    id: int
    path: str
    scale: float
    task_name: str = ""
    prompt_prefix: str = ""
    peft: bool = False

    @property
    def name(self) -> str:
        """The file's name without its suffix, or the folder's."""
        return Path(self.path).absolute().name if self.peft else Path(self.path).stem


class AdapterTable:
    """All adapters of a model, by id. May be used from any thread."""

    def __init__(self, adapters: Sequence[Adapter] = ()) -> None:
        self._adapters = tuple(adapters)

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters with their default scales, in order of their ids."""
        return self._adapters

    def set_defaults(self, lora: LoraScales) -> None:
        """Change the default scales, for requests from now on; adapters that are not named get 0.

        Raises InvalidRequestError naming `lora`; nothing is changed then.
        """
        check_scales(lora)
        scales = self.scales(lora)
        self._adapters = tuple(
            replace(adapter, scale=scale)
            for adapter, scale in zip(self._adapters, scales, strict=True)
        )

    def scales(self, lora: LoraScales | None) -> Scales:
        """The scale of every adapter for a request; those that it does not name get 0.

        None takes the defaults. Raises InvalidRequestError naming `lora` for an unknown adapter, and
        for one that is named twice.
        """
        adapters = self._adapters
        if lora is None:
            return tuple(adapter.scale for adapter in adapters)
        scales: dict[int, float] = {}
        for key, scale in lora.items():
            index = self._find(key)
            if index in scales:
                raise InvalidRequestError(
                    "{param}: adapter {adapter} is given twice", "lora", adapter=index
                )
            scales[index] = float(scale)
        return tuple(scales.get(adapter.id, 0.0) for adapter in adapters)

    def _find(self, key: int | str) -> int:
        found = [a.id for a in self._adapters if key == (a.name if isinstance(key, str) else a.id)]
        if len(found) == 1:
            return found[0]
        if found:
            ids = " and ".join(map(str, found))
            raise InvalidRequestError(
                "{param}: the name {key!r} is that of the adapters {ids}: give an id",
                "lora",
                key=key,
                ids=ids,
            )
        known = ", ".join(f"{a.id} ({a.name})" for a in self._adapters)
        there = f"there are {known}" if known else "the model was loaded without adapters"
        raise InvalidRequestError(
            "{param}: there is no adapter {key!r}; {there}", "lora", key=key, there=there
        )
