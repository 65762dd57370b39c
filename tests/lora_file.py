"""Writes small LoRA adapters for the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.tiny_model import HIDDEN

RANK = 2


def write_adapter(path: Path, seed: int, strength: float = 2.0, **metadata: Any) -> Path:
    """An adapter of rank two for the first layer's queries; `metadata` are texts or lists of ids."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for key, value in metadata.items():
        name = "adapter." + key.replace("__", ".")
        if isinstance(value, str):
            writer.add_string(name, value)
        else:
            array, ids = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
            writer.add_key_value(name, value, array, sub_type=ids)
    a = rng.normal(0, strength, (RANK, HIDDEN)).astype(np.float32)
    b = rng.normal(0, strength, (HIDDEN, RANK)).astype(np.float32)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", a)
    writer.add_tensor("blk.0.attn_q.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
