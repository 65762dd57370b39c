"""Compares rows of a GGUF with what the made-up checkpoint it was made of gives, tensor by tensor.

The file is read with the `gguf` package and rows change places by the description of the rotation, so
what is compared shares nothing with the converter but ggml's quantizer.
"""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from codellama.native.ggml import quantize_rows, tensor_type
from make_random_model import Shape
from stand_ins.checkpoint import MadeUpCheckpoint, weights

_ROWS = 2  # compared per tensor
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def compare_rows(path: Path, checkpoint: MadeUpCheckpoint, seed: int = 0) -> tuple[int, int]:
    """Compare some rows of every tensor of the GGUF `path`; how many rows, of how many tensors.

    Raises AssertionError, which names the tensor, if a tensor is missing or a byte differs.
    """
    draw = random.Random(seed)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    wanted = [tensor for shard in checkpoint.shards.values() for tensor in shard.tensors]
    assert len(stored) == len(wanted), f"{len(stored)} tensors instead of {len(wanted)}"
    rows = 0
    for tensor in wanted:
        found = stored[gguf_name(tensor.name)]
        if len(tensor.shape) == 1:
            assert np.all(found.data == np.float32(1)), tensor.name
            rows += 1
            continue
        for row in draw.sample(range(tensor.shape[0]), _ROWS):
            made = _row(checkpoint.shape, tensor.name, tensor.shape, row)
            kind = tensor_type(found.tensor_type.name)
            out = np.empty(kind.row_bytes(tensor.shape[1]), np.uint8)
            quantize_rows(kind, made, out, None)
            assert np.array_equal(found.data[row].view(np.uint8), out), (tensor.name, row)
            rows += 1
    return rows, len(wanted)


def gguf_name(name: str) -> str:
    """What a tensor of the checkpoint is called in a GGUF."""
    if name in _OUTER:
        return _OUTER[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def _row(
    shape: Shape, name: str, tensor_shape: tuple[int, ...], row: int
) -> npt.NDArray[np.float32]:
    """A row of the GGUF's tensor as floats, (1, columns)."""
    columns = tensor_shape[1]
    if "q_proj" in name or "k_proj" in name:
        # Rotary pairs lie half a head apart in the checkpoint and side by side in a GGUF.
        head_dim = shape.hidden // shape.heads
        head, place = divmod(row, head_dim)
        row = head * head_dim + place // 2 + (place % 2) * (head_dim // 2)
    halves = weights(name, row * columns, columns).astype(np.uint32) << 16
    return halves.view(np.float32).reshape(1, columns)
