"""What the weights of a checkpoint are quantized with, if they are: told by config.json or by their tensors.

Each tool leaves its mark: `quantization_config` since transformers took it up, `quantization` where mlx-lm
is older than that, and tensors beside or in place of each `weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codellama.errors import CheckpointError
from codellama.files.safetensors_header import SafeTensor
from codellama.files.small_files import shown

_METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fp8": "FP8",
    "fbgemm_fp8": "FBGEMM FP8",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "eetq": "EETQ",
    "quanto": "Quanto",
    "torchao": "torchao",
    "exl2": "EXL2",
    "exl3": "EXL3",
    "mlx": "MLX",
}

_TENSORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("GPTQ", (".qweight", ".g_idx")),
    ("AWQ or GPTQ", (".qweight", ".qzeros")),
    ("AQLM", (".codebooks",)),
    ("MLX", (".scales", ".biases")),
    ("MLX (a floating point type)", (".scales",)),
    ("compressed-tensors", (".weight_packed",)),
    ("bitsandbytes", (".weight.absmax",)),
    ("bitsandbytes", (".SCB",)),
    ("EXL2", (".q_weight",)),
    ("FP8 or INT8", (".weight_scale",)),
    ("FP8", (".weight_scale_inv",)),
)
"""Ends of tensors' names, by method; the first row that is there whole counts."""


_QUERIES = tuple(
    f"self_attn.q_proj.{name}" for name in ("qweight", "weight", "weight_packed", "q_weight")
)
_MOST_BITS = 8


def by_config(values: Mapping[str, Any]) -> str | None:
    """Method and bits, as config.json has them; None if its weights are not quantized."""
    entry = values.get("quantization_config") or values.get("quantization")
    if not entry:
        return None
    if not isinstance(entry, dict):
        return "an unknown method"
    method = entry.get("quant_method")
    if method is None and "group_size" in entry:
        method = "mlx"
    name = _METHODS.get(str(method).lower(), shown(method)) if method else "an unknown method"
    form = entry.get("format") or entry.get("mode") or entry.get("bnb_4bit_quant_type")
    details = [shown(form)[1:-1]] if isinstance(form, str) and form != "affine" else []
    bits = _bits(entry)
    details += [f"{bits} bits"] if bits else []
    return f"{name} ({', '.join(details)})" if details else name


def _bits(entry: Mapping[str, Any]) -> int | None:
    """Bits of a weight: under its name, as a flag (bitsandbytes), or in a group (compressed-tensors)."""
    for name in ("bits", "num_bits", "w_bit", "weight_bits"):
        if type(entry.get(name)) is int:
            return int(entry[name])
    for bits in (4, 8):
        if entry.get(f"load_in_{bits}bit") is True:
            return bits
    groups = entry.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    number = weights.get("num_bits") if isinstance(weights, dict) else None
    return number if type(number) is int else None


def by_tensors(tensors: Mapping[str, SafeTensor], n_weights: int) -> str | None:
    """Method and bits, as tensors under their names tell them; None if they are plain weights.

    `n_weights` is how many weights the projection to queries has: bits follow from its bytes.
    """
    endings = {ending for _, row in _TENSORS for ending in row}
    present = {ending for ending in endings for name in tensors if name.endswith(ending)}
    method = next((method for method, row in _TENSORS if set(row) <= present), None)
    if method is None:
        return None
    packed = next((t for name, t in tensors.items() if name.endswith(_QUERIES)), None)
    bits, rest = divmod(8 * packed.nbytes, n_weights) if packed is not None else (0, 1)
    return f"{method} ({bits} bits)" if not rest and 0 < bits <= _MOST_BITS else method


def refusal(where: object, method: str) -> CheckpointError:
    """The error for weights that are quantized, and with what."""
    return CheckpointError(
        f"{where}: its weights are quantized already, with {method}, which is not read here",
        "take the checkpoint that they were made from, in BF16 or F16, and choose a type such as Q4_K_M",
    )
