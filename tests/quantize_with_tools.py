"""Quantizes a checkpoint with other people's tools; runs in their environments (scripts/tool_venv).

`python tests/quantize_with_tools.py KIND FOLDER QUANTIZED PLAIN` writes two copies of FOLDER: one whose
projections are quantized, and one that holds what the tool itself makes of them, in F32.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tensors = dict[str, Any]
Quantized = tuple[Tensors, Any]
"""The tensors of a matrix, by what stands behind its name, and the matrix in F32."""

INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "symmetric": True}
COMPRESSED: dict[str, tuple[str, dict[str, Any]]] = {
    "ct-int4-group": ("pack-quantized", INT4),
    "ct-int4-group-zero": ("pack-quantized", {**INT4, "symmetric": False}),
    "ct-int4-channel": ("pack-quantized", {**INT4, "strategy": "channel", "group_size": None}),
    "ct-int4-channel-zero": (
        "pack-quantized",
        {**INT4, "strategy": "channel", "group_size": None, "symmetric": False},
    ),
    "ct-int3-group-zero": ("pack-quantized", {**INT4, "num_bits": 3, "symmetric": False}),
    "ct-int8-group": ("pack-quantized", {**INT4, "num_bits": 8}),
    "ct-fp8-tensor": ("float-quantized", {**FP8, "strategy": "tensor"}),
    "ct-fp8-channel": ("float-quantized", {**FP8, "strategy": "channel"}),
    "ct-fp8-block": ("float-quantized", {**FP8, "strategy": "block", "block_structure": [16, 32]}),
    "ct-int8-channel": (
        "int-quantized",
        {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
    ),
    "ct-int8-channel-zero": (
        "int-quantized",
        {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False},
    ),
}
BITSANDBYTES = {
    "bnb-nf4": ("nf4", 64, False),
    "bnb-fp4": ("fp4", 64, False),
    "bnb-nf4-double": ("nf4", 64, True),
    "bnb-fp4-double-128": ("fp4", 128, True),
    "bnb-int8": ("int8", 0, False),
}
MLX = {f"mlx-{bits}": bits for bits in (2, 3, 4, 5, 6, 8)}
KINDS = [*COMPRESSED, *BITSANDBYTES, *MLX]


def compressed(kind: str) -> tuple[Callable[[Any], Quantized], dict[str, Any]]:
    """compressed-tensors: scales as its observers take them, everything else is its own code."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    form, settings = COMPRESSED[kind]
    arguments = QuantizationArgs(**{k: v for k, v in settings.items() if v is not None})
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments, format=form)
    compressor = BaseCompressor.get_value_from_registry(form)

    def quantize(weight: Any) -> Quantized:
        weight = weight.to(torch.bfloat16)
        rows, columns = weight.shape
        if settings["strategy"] == "group":
            parts = weight.reshape(rows, -1, settings["group_size"])
            low, high = parts.amin(-1), parts.amax(-1)
        elif settings["strategy"] == "channel":
            low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        elif settings["strategy"] == "block":
            height, width = settings["block_structure"]
            parts = weight.reshape(rows // height, height, columns // width, width)
            low, high = parts.amin((1, 3)), parts.amax((1, 3))
        else:
            low, high = weight.amin().reshape(1), weight.amax().reshape(1)
        scale, zero = calculate_qparams(low, high, arguments)
        state = {
            "weight": weight,
            "weight_scale": scale.to(torch.bfloat16),
            "weight_zero_point": zero,
        }
        stored = compressor.compress(dict(state), scheme)
        exact = {**stored, "weight_scale": stored["weight_scale"].float()}
        plain = compressor.decompress(dict(exact), scheme)["weight"]
        rounded = compressor.decompress(dict(stored), scheme)["weight"]
        assert rounded.dtype == torch.bfloat16
        assert torch.equal(plain.to(torch.bfloat16), rounded), "one rounding is all the difference"
        return {f".{name}": tensor for name, tensor in stored.items()}, plain

    group = {"targets": ["Linear"], "weights": settings, "format": form}
    return quantize, {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
    }


def bitsandbytes(kind: str) -> tuple[Callable[[Any], Quantized], dict[str, Any]]:
    import bitsandbytes.functional as functional
    import torch
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    name, block, double = BITSANDBYTES[kind]

    def quantize_4bit(weight: Any) -> Quantized:
        data, state = functional.quantize_4bit(
            weight.to(torch.bfloat16), blocksize=block, compress_statistics=double, quant_type=name
        )
        packed = {f".weight.{key}": value for key, value in state.as_dict(packed=True).items()}
        largest = state.absmax
        if double:
            largest = functional.dequantize_blockwise(largest, state.state2) + state.offset
        args = data.reshape(-1), largest, state.code, block, tuple(weight.shape), torch.float32
        plain = _dequantize_4bit_compute(*args)
        if weight.shape[1] % block == 0:  # its kernel for the CPU takes a block for one of each row
            assert torch.equal(plain.to(torch.bfloat16), functional.dequantize_4bit(data, state))
        return {".weight": data, **packed}, plain

    def quantize_8bit(weight: Any) -> Quantized:
        data, scale, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
        layout = torch.tensor(0, dtype=torch.uint8)
        plain = functional.int8_vectorwise_dequant(data, scale)
        return {".weight": data, ".SCB": scale, ".weight_format": layout}, plain

    settings: dict[str, Any] = {"quant_method": "bitsandbytes"}
    if name == "int8":
        return quantize_8bit, {**settings, "load_in_8bit": True, "load_in_4bit": False}
    return quantize_4bit, {**settings, "load_in_4bit": True, "bnb_4bit_quant_type": name}


def mlx(kind: str) -> tuple[Callable[[Any], Quantized], dict[str, Any]]:
    import mlx.core as mx
    import numpy as np
    import torch

    bits = MLX[kind]

    def quantize(weight: Any) -> Quantized:
        source = mx.array(weight.float().numpy()).astype(mx.bfloat16)
        packed, scales, biases = mx.quantize(source, group_size=32, bits=bits)
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)  # BF16's numbers
        plain = mx.dequantize(packed, scales, biases, group_size=32, bits=bits)
        tensors = {
            ".weight": torch.from_numpy(np.array(packed)),
            ".scales": torch.from_numpy(np.array(scales)).to(torch.bfloat16),
            ".biases": torch.from_numpy(np.array(biases)).to(torch.bfloat16),
        }
        return tensors, torch.from_numpy(np.array(plain))

    return quantize, {"group_size": 32, "bits": bits, "mode": "affine"}


def main(kind: str, folder: Path, quantized: Path, plain: Path) -> None:
    from safetensors.torch import load_file, save_file

    tool = compressed if kind in COMPRESSED else bitsandbytes if kind in BITSANDBYTES else mlx
    quantize, settings = tool(kind)
    stored: Tensors = {}
    exact: Tensors = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        every = kind in MLX and weight.ndim == 2  # mlx-lm quantizes the embedding too
        if not (every or "_proj" in name):
            stored[name] = exact[name] = weight
            continue
        parts, values = quantize(weight)
        stored |= {name.removesuffix(".weight") + end: part for end, part in parts.items()}
        exact[name] = values
    for target, tensors in ((quantized, stored), (plain, exact)):
        shutil.copytree(folder, target)
        save_file(
            {name: t.contiguous() for name, t in tensors.items()}, target / "model.safetensors"
        )
    config = json.loads((folder / "config.json").read_text())
    config["quantization" if kind in MLX else "quantization_config"] = settings
    (quantized / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]))
