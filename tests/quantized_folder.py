"""Checkpoints quantized by hand, in the layouts that GPTQ and AWQ document, with what they decode to.

The packing here follows the description of the formats and shares nothing with the dequantizers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints import Checkpoint, random_tensors, write_checkpoint, write_json, write_shards

Tensors = list[tuple[str, str, NDArray[Any]]]
SHAPE = Checkpoint(hidden=64, ffn=128, layers=1, heads=4, kv_heads=2, shards=1)
GROUP = 32
KINDS = ("gptq", "gptq-8", "gptq-2", "gptq-v2", "gptq-order", "awq", "ct", "ct-order")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def write_quantized(
    folder: Path, kind: str, shards: int = 1, last: str = "none"
) -> dict[str, NDArray[np.float32]]:
    """Write a checkpoint whose projections are of `kind`; the projections as plain numbers, by name.

    Parts whose names end in `last` come behind all others.
    """
    write_checkpoint(folder, SHAPE)
    for path in folder.glob("model*"):
        path.unlink()
    rng = np.random.default_rng(5)
    tensors: Tensors = []
    plain = {}
    for name, dtype, data in random_tensors(SHAPE):
        if "_proj" not in name:
            tensors.append((name, dtype, data))
            continue
        parts, plain[name] = matrix(rng, kind, data.shape)
        base = name.removesuffix("weight")
        tensors += [(base + end, dtype, part) for end, dtype, part in parts]
    tensors.sort(key=lambda tensor: tensor[0].endswith(last))
    write_shards(folder, tensors, shards)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "quantization_config": settings(kind)})
    return plain


def settings(kind: str) -> dict[str, Any]:
    if kind.startswith("ct"):
        weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}
        group = {"targets": ["Linear"], "weights": weights}
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": group},
        }
    method = "awq" if kind == "awq" else "gptq"
    form = {"checkpoint_format": "gptq_v2"} if kind == "gptq-v2" else {}
    return {"quant_method": method, "bits": bits_of(kind), "group_size": GROUP, **form}


def bits_of(kind: str) -> int:
    return {"gptq-8": 8, "gptq-2": 2}.get(kind, 4)


def packed(codes: NDArray[np.int64], bits: int, axis: int, order: Any = None) -> NDArray[np.int32]:
    """Fields of words of 32 bits along an axis, field `i` of a word being `order[i]`."""
    per = 32 // bits
    codes = np.moveaxis(codes, axis, 0)
    order = range(per) if order is None else order
    words = np.zeros((len(codes) // per, *codes.shape[1:]), np.uint64)
    for field, place in enumerate(order):
        words |= codes[place::per].astype(np.uint64) << np.uint64(field * bits)
    return np.ascontiguousarray(np.moveaxis(words.astype(np.uint32).view(np.int32), 0, axis))


def matrix(
    rng: np.random.Generator, kind: str, shape: tuple[int, ...]
) -> tuple[Tensors, NDArray[np.float32]]:
    """The parts of one matrix and what it is."""
    rows, columns = shape
    bits, n_groups = bits_of(kind), columns // GROUP
    codes = rng.integers(0, 2**bits, (rows, columns))
    zeros = rng.integers(1, 2**bits, (rows, n_groups))
    scales = (rng.random((rows, n_groups)) * 0.01 + 0.001).astype(np.float16)
    groups = np.arange(columns) // GROUP
    if kind.endswith("order"):
        groups = rng.permutation(groups)
    if kind.startswith("ct"):
        zeros[:] = 8
    plain = scales[:, groups].astype(np.float32) * (codes - zeros[:, groups]).astype(np.float32)
    if kind.startswith("ct"):
        parts: Tensors = [
            ("weight_packed", "I32", packed(codes, 4, 1)),
            ("weight_scale", "F16", scales),
            ("weight_shape", "I64", np.array(shape, np.int64)),
        ]
        if kind == "ct-order":
            parts.append(("weight_g_idx", "I32", groups.astype(np.int32)))
        return parts, plain
    if kind == "awq":
        return [
            ("qweight", "I32", packed(codes.T, 4, 1, AWQ_ORDER)),
            ("qzeros", "I32", packed(zeros.T, 4, 1, AWQ_ORDER)),
            ("scales", "F16", np.ascontiguousarray(scales.T)),
        ], plain
    stored = zeros if kind == "gptq-v2" else zeros - 1
    return [
        ("qweight", "I32", packed(codes.T, bits, 0)),
        ("qzeros", "I32", packed(stored.T, bits, 1)),
        ("scales", "F16", np.ascontiguousarray(scales.T)),
        ("g_idx", "I32", groups.astype(np.int32)),
    ], plain
