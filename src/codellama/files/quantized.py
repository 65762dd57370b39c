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


_READ_TENSORS = (
    *("GPTQ", "AWQ or GPTQ", "MLX", "compressed-tensors", "bitsandbytes"),
    *("FP8 or INT8", "FP8"),
)
_READ_FORMATS = ("pack-quantized", "float-quantized", "int-quantized", "naive-quantized")
_NO_FORMATS = (None, "dense", "mixed-precision")


def quantization(values: Mapping[str, Any]) -> Any:
    """What config.json says of it, as it stands there; None if nothing."""
    return values.get("quantization_config") or values.get("quantization") or None


def by_config(values: Mapping[str, Any]) -> str | None:
    """Method and bits, as config.json has them; None if its weights are not quantized."""
    entry = quantization(values)
    if entry is None:
        return None
    if not isinstance(entry, dict):
        return "an unknown method"
    method = _method(entry)
    name = _METHODS.get(method.lower(), shown(method)) if method else "an unknown method"
    details = [shown(form)[1:-1] for form in _forms(entry)]
    bits = _bits(entry)
    details += [f"{bits} bits"] if bits else []
    details += ["with transforms"] if entry.get("transform_config") else []
    return f"{name} ({', '.join(details)})" if details else name


def _method(entry: Mapping[str, Any]) -> str | None:
    method = entry.get("quant_method")
    if method is None and "group_size" in entry:
        return "mlx"
    return None if method is None else str(method)


def _forms(entry: Mapping[str, Any]) -> list[str]:
    """What a tool calls the layout of its tensors, where it has several."""
    form = entry.get("format") or entry.get("mode")
    if not form and entry.get("load_in_4bit") is True:
        form = entry.get("bnb_4bit_quant_type")
    if entry.get("checkpoint_format") not in (None, "gptq"):
        form = entry["checkpoint_format"]
    if entry.get("version") not in (None, "gemm", "GEMM"):
        form = entry["version"]
    return [form] if isinstance(form, str) and form not in ("affine", "") else []


def is_read(values: Mapping[str, Any]) -> bool:
    """Whether weights can be decoded that were quantized as config.json says."""
    entry = quantization(values)
    if not isinstance(entry, dict):
        return entry is None
    method, bits = (_method(entry) or "").lower(), entry.get("bits")
    if method == "gptq":
        form = entry.get("checkpoint_format")
        known = form in (None, "gptq", "gptq_v2") and not entry.get("is_marlin_format")
        return known and bits in (None, 2, 4, 8)
    if method == "awq":
        return entry.get("version") in (None, "gemm", "GEMM") and bits in (None, 4)
    if method == "bitsandbytes":
        four = entry.get("load_in_4bit") is True
        return not four or entry.get("bnb_4bit_quant_type") in (None, "nf4", "fp4")
    if method == "mlx":
        modes = [e.get("mode") for e in (entry, *entry.values()) if isinstance(e, dict)]
        return all(mode in (None, "affine") for mode in modes)
    if method == "compressed-tensors":
        return _is_read_compressed(entry)
    return method in ("fp8", "fbgemm_fp8")


def _is_read_compressed(entry: Mapping[str, Any]) -> bool:
    groups = entry.get("config_groups") or {}
    if not isinstance(groups, dict) or entry.get("transform_config"):
        return False
    sparsity = entry.get("sparsity_config") or {}
    if not isinstance(sparsity, dict) or sparsity.get("format") not in _NO_FORMATS:
        return False
    formats = [entry.get("format")]
    formats += [group.get("format") for group in groups.values() if isinstance(group, dict)]
    return all(form in _NO_FORMATS or form in _READ_FORMATS for form in formats)


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
    method = _tensors_method(tensors)
    if method is None:
        return None
    packed = next((t for name, t in tensors.items() if name.endswith(_QUERIES)), None)
    bits, rest = divmod(8 * packed.nbytes, n_weights) if packed is not None else (0, 1)
    return f"{method} ({bits} bits)" if not rest and 0 < bits <= _MOST_BITS else method


def tensors_are_read(tensors: Mapping[str, SafeTensor]) -> bool:
    """Whether weights in these tensors can be decoded, or are plain."""
    return _tensors_method(tensors) in (None, *_READ_TENSORS)


def _tensors_method(tensors: Mapping[str, SafeTensor]) -> str | None:
    endings = {ending for _, row in _TENSORS for ending in row}
    present = {ending for ending in endings for name in tensors if name.endswith(ending)}
    return next((method for method, row in _TENSORS if set(row) <= present), None)


def refusal(where: object, method: str) -> CheckpointError:
    """The error for weights that are quantized, and with what."""
    return CheckpointError(
        f"{where}: its weights are quantized already, with {method}, which is not read here",
        "take the checkpoint that they were made from, in BF16 or F16, and choose a type such as Q4_K_M",
    )
