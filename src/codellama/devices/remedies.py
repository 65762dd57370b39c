"""What would fit where something does not: a smaller type, a smaller context, smaller caches. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from codellama.devices.sizes import size_text
from codellama.devices.type_sizes import BITS_PER_WEIGHT
from codellama.params import ModelConfig

_SMALLEST_CONTEXT = 256


def smaller_type(n_params: int, room: int, now: int) -> str:
    """The best type smaller than `now` bytes whose weights take no more than `room`: "Q2_K (23.7 GiB)"; empty
    if there is none."""
    for name, bits in BITS_PER_WEIGHT.items():
        nbytes = round(n_params * bits / 8)
        if nbytes < now * 0.97 and nbytes <= room:
            return f"{name} ({size_text(nbytes)})"
    return ""


def smaller_config(
    config: ModelConfig, n_ctx: int, fits: Callable[[ModelConfig], bool]
) -> list[str]:
    """Settings that would do, one at a time, in the order in which they cost least."""
    found = []
    wide = config.type_k in ("f32", "f16", "bf16") and config.flash_attn != "off"
    if wide and fits(replace(config, type_k="q8_0", type_v="q8_0")):
        found.append("{type_k} and {type_v} q8_0")
    if config.n_seq_max > 1 and fits(replace(config, n_seq_max=1, kv_cells=None)):
        found.append("{n_seq_max} 1")
    smaller = n_ctx // 2
    while smaller >= _SMALLEST_CONTEXT:
        if fits(replace(config, n_ctx=smaller, kv_cells=None)):
            found.append(f"{{n_ctx}} {smaller}")
            break
        smaller //= 2
    return found
