"""Whether the context of a model can shift: what llama.cpp can do with the keys in its cache. Pure."""

from __future__ import annotations

from codellama.devices.machine import Machine
from codellama.devices.sizes import head_dim
from codellama.files.gguf_header import GGUFHeader
from codellama.params import ModelConfig


def shift_problem(header: GGUFHeader, config: ModelConfig, machine: Machine) -> str | None:
    """Why a context of this model cannot shift; None if it can.

    When llama.cpp moves one sequence, it turns the keys of all, by nothing for the others. With a
    magnitude factor, which YaRN has, it multiplies them too, each time. On bf16 keys it aborts the
    process; on quantized ones it crashes unless it stores them rotated, which it does in blocks of 64.
    """
    if config.type_k == "bf16":
        return "llama.cpp cannot move keys of type bf16, but those of type f16"
    unrotated = head_dim(header) % 64 or not machine.rotates_keys
    if config.type_k not in ("f32", "f16") and unrotated:
        return f"llama.cpp cannot move this model's keys of type {config.type_k}, but those of type f16"
    meta, prefix = header.metadata, "llama.rope.scaling."
    scaling = config.rope_scaling or meta.get(prefix + "type")
    factors = (
        config.yarn_attn_factor,
        *(meta.get(prefix + key) for key in ("attn_factor", "yarn_attn_factor")),
    )
    if scaling == "yarn" or config.yarn_ext_factor or any(f not in (None, 1.0) for f in factors):
        return "llama.cpp changes the keys of all requests when it moves one with YaRN"
    return None
