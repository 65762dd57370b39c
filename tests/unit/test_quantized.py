"""Checkpoints that are quantized already are named by method and bits, whatever tool made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama.errors import CheckpointError
from codellama.files.quantized import by_config, by_tensors
from codellama.files.safetensors_header import SafeTensor
from codellama.weights.source import open_checkpoint
from tests.checkpoints import Checkpoint, random_tensors, write_checkpoint, write_json, write_shards

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
PACKED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
}
MLX = {"group_size": 64, "bits": 4, "mode": "affine"}
MXFP4 = {"group_size": 32, "bits": 4, "mode": "mxfp4"}

CONFIGS: list[tuple[dict[str, Any], str | None]] = [
    ({"quantization_config": GPTQ}, "GPTQ (4 bits)"),
    ({"quantization_config": AWQ}, "AWQ (4 bits)"),
    ({"quantization_config": NF4}, "bitsandbytes (nf4, 4 bits)"),
    ({"quantization_config": INT8}, "bitsandbytes (8 bits)"),
    ({"quantization_config": PACKED}, "compressed-tensors (pack-quantized, 4 bits)"),
    ({"quantization_config": {"quant_method": "fp8"}}, "FP8"),
    ({"quantization_config": {"quant_method": "new one"}}, "'new one'"),
    ({"quantization_config": {"bits": 3}}, "an unknown method (3 bits)"),
    ({"quantization_config": [1]}, "an unknown method"),
    ({"quantization": MLX, "quantization_config": MLX}, "MLX (4 bits)"),
    ({"quantization": MLX}, "MLX (4 bits)"),
    ({"quantization": MXFP4}, "MLX (mxfp4, 4 bits)"),
    ({"quantization_config": None}, None),
    ({}, None),
]


@pytest.mark.parametrize(("values", "method"), CONFIGS)
def test_the_configuration_says_method_and_bits(values: dict[str, Any], method: str | None) -> None:
    assert by_config(values) == method


N_WEIGHTS = 256 * 256
TENSORS: list[tuple[str, dict[str, int]]] = [
    ("GPTQ (4 bits)", {"qweight": N_WEIGHTS // 2, "qzeros": 1, "scales": 1, "g_idx": 1}),
    ("GPTQ (3 bits)", {"qweight": N_WEIGHTS * 3 // 8, "qzeros": 1, "scales": 1, "g_idx": 1}),
    ("AWQ or GPTQ (4 bits)", {"qweight": N_WEIGHTS // 2, "qzeros": 1, "scales": 1}),
    ("MLX (8 bits)", {"weight": N_WEIGHTS, "scales": 1, "biases": 1}),
    ("MLX (a floating point type) (4 bits)", {"weight": N_WEIGHTS // 2, "scales": 1}),
    ("compressed-tensors (4 bits)", {"weight_packed": N_WEIGHTS // 2, "weight_scale": 1}),
    ("bitsandbytes (4 bits)", {"weight": N_WEIGHTS // 2, "weight.absmax": 1}),
    ("bitsandbytes (8 bits)", {"weight": N_WEIGHTS, "SCB": 1}),
    ("EXL2", {"q_weight": 12345, "q_scale": 1, "q_groups": 1}),
    ("AQLM", {"codes": 5, "codebooks": 5, "scales": 1}),
    ("FP8 or INT8 (8 bits)", {"weight": N_WEIGHTS, "weight_scale": 1}),
    ("FP8 (8 bits)", {"weight": N_WEIGHTS, "weight_scale_inv": 1}),
]
"""Bytes of the tensors of a projection, by what stands behind its name."""


def stored(sizes: dict[str, int]) -> dict[str, SafeTensor]:
    names = {f"model.layers.0.self_attn.q_proj.{end}": n for end, n in sizes.items()}
    return {n: SafeTensor(n, "U8", (size,), Path("x"), 0, size) for n, size in names.items()}


@pytest.mark.parametrize(("method", "sizes"), TENSORS)
def test_tensors_tell_method_and_bits(method: str, sizes: dict[str, int]) -> None:
    assert by_tensors({**stored(sizes), **stored({"other": 2})}, N_WEIGHTS) == method


def test_plain_weights_are_not_quantized() -> None:
    assert by_tensors(stored({"weight": 2 * N_WEIGHTS}), N_WEIGHTS) is None


def test_a_quantized_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    """AQLM's tensors with nothing in config.json, and with it."""
    folder = write_checkpoint(tmp_path / "m")
    for path in folder.glob("model*"):
        path.unlink()
    tensors = []
    for name, dtype, data in random_tensors(Checkpoint()):
        if "_proj" not in name:
            tensors.append((name, dtype, data))
            continue
        base = name.removesuffix("weight")
        tensors.append((base + "codes", "I8", np.zeros((data.shape[0], 9, 1), np.int8)))
        tensors.append((base + "codebooks", "F16", np.zeros((1, 256, 1, 8), np.float16)))
        tensors.append((base + "scales", "F16", np.zeros((data.shape[0], 1, 1, 1), np.float16)))
    write_shards(folder, tensors, 2)
    remedy = "take the checkpoint that they were made from, in BF16 or F16, and choose a type such as Q4_K_M"
    with pytest.raises(
        CheckpointError, match="quantized already, with AQLM, which is not"
    ) as caught:
        open_checkpoint(folder)
    assert str(caught.value).startswith(f"{folder}: ")
    assert str(caught.value).endswith(remedy)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "quantization_config": {"quant_method": "aqlm"}})
    with pytest.raises(CheckpointError, match=r"config\.json: .* with AQLM, which is not read"):
        open_checkpoint(folder)
