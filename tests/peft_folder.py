"""Writes PEFT adapters as peft 0.21 does, by hand, and merges them by the formulas of the papers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints import write_safetensors

PREFIX = "base_model.model."
RANK = 4

CONFIG: Mapping[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "base", "bias": "none", "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None,
    "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "kasa_config": None,
    "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
    "loftq_config": {}, "lora_alpha": 16, "lora_bias": False, "lora_dropout": 0.05,
    "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core",
    "modules_to_save": None, "monteclora_config": None, "peft_type": "LORA",
    "peft_version": "0.21.2", "qalora_group_size": 16, "r": RANK, "rank_pattern": {},
    "revision": None, "target_modules": ["q_proj", "down_proj"], "target_parameters": None,
    "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_bdlora": None,
    "use_dora": False, "use_qalora": False, "use_rslora": False, "velora_config": None,
}  # fmt: skip
"""adapter_config.json as peft 0.21.2 wrote it."""

Arrays = Mapping[str, NDArray[Any]]


def write_peft(folder: Path, tensors: Arrays, **config: Any) -> Path:
    """The adapter in `folder`; the names of `tensors` go without peft's prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    rows = [(PREFIX + name, "F32", data) for name, data in sorted(tensors.items())]
    write_safetensors(folder / "adapter_model.safetensors", rows)
    return folder


def low_rank(
    modules: Mapping[str, Sequence[int]], rank: int = RANK, seed: int = 3
) -> dict[str, NDArray[Any]]:
    """A and B for modules of these shapes (rows first)."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[Any]] = {}
    for module, (rows, columns) in modules.items():
        tensors[f"{module}.lora_A.weight"] = _random(rng, rank, columns)
        tensors[f"{module}.lora_B.weight"] = _random(rng, rows, rank)
    return tensors


def _random(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.normal(0, 0.2, shape).astype(np.float32)
