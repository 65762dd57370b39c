"""LoRA adapters on the wire, as llama-server writes them: `[{"id": 0, "scale": 0.5}]`.

An `id` may also be the adapter's name. llama-server takes a missing id or scale for -1 and 0; here they
are errors, and so is an adapter that is named twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from codellama.compat.replies import Json
from codellama.errors import InvalidRequestError
from codellama.running.adapters import Adapter, LoraScales


def parse_lora(raw: Any) -> dict[int | str, float]:
    """The scales in a list of adapters. Raises InvalidRequestError naming `lora`.

    Whether the ids exist and the scales are numbers is checked where they are used.
    """
    if not isinstance(raw, list):
        raise _wrong_form()
    scales: dict[int | str, float] = {}
    for entry in raw:
        if not isinstance(entry, dict) or entry.keys() != {"id", "scale"}:
            raise _wrong_form()
        adapter, scale = entry["id"], entry["scale"]
        if not isinstance(adapter, (int, str)) or isinstance(adapter, bool):
            raise _wrong_form()
        if adapter in scales:
            raise InvalidRequestError(
                "{param}: adapter {adapter} is given twice", "lora", adapter=adapter
            )
        scales[adapter] = scale
    return scales


def lora_json(lora: LoraScales | None) -> list[Json]:
    """A request's adapters; an empty list if it left them to the server."""
    return [{"id": adapter, "scale": scale} for adapter, scale in (lora or {}).items()]


def adapters_json(adapters: Iterable[Adapter]) -> list[Json]:
    """The body of `GET /lora-adapters`."""
    return [
        {
            "id": adapter.id,
            "path": adapter.path,
            "scale": adapter.scale,
            "task_name": adapter.task_name,
            "prompt_prefix": adapter.prompt_prefix,
        }
        for adapter in adapters
    ]


def _wrong_form() -> InvalidRequestError:
    return InvalidRequestError(
        '{param} must be a list of adapters such as {{"id": 0, "scale": 0.5}}', "lora"
    )
