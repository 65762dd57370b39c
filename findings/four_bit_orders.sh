#!/bin/sh
# Four tools pack 4-bit numbers in three orders, with different zeros.
#
# The same sixteen weights, -8 to 7, are packed by each. Where half a byte goes cannot be guessed from the shape:
# - gguf's Q4_0 puts number i of a block of 32 in the low half of byte i, number i + 16 in the high half, plus 8.
# - compressed-tensors puts neighbours in one byte, the first in the low half, plus 8, eight in an INT32.
# - bitsandbytes puts neighbours in one byte, the first in the HIGH half; a half is a row of its NF4 table, in
#   which zero is row 7 and the ends are 0 and 15.
# - MLX puts neighbours in one UINT32, the first in the low half. Which weight is 0 depends on the group: where
#   the highest lies farther from zero than the lowest, the scale is negative and the highest is 0.
#
# Of our own: weights/prequantized.py tells such tensors apart by their names, and weights/dequantizers.py and
# weights/blockwise.py read each in its own order.
#
# Seen with gguf 0.19.0, compressed-tensors 0.20.0, bitsandbytes 0.50.2, mlx 0.32.4, torch 2.13.0, as bytes:
#   gguf Q4_0            80 81 82 83 84 85 86 87 88 89 8a 8b 8c 8d 8e 8f
#   compressed-tensors   10 32 54 76 98 ba dc fe
#   bitsandbytes NF4     00 11 23 46 79 ab cd ef
#   mlx                  10 32 54 76 98 ba dc fe   scale 1, bias -8
#   mlx, -7 to 8         ef cd ab 89 67 45 23 01   scale -1, bias 8
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
# compressed-tensors and bitsandbytes need torch; any build of it will do.
venv/bin/python -m pip install -q --disable-pip-version-check gguf==0.19.0 torch==2.13.0 \
    compressed-tensors==0.20.0 bitsandbytes==0.50.2 'mlx[cpu]==0.32.4' >&2 || exit 2

venv/bin/python - 2>errors <<'PY' || { cat errors >&2; exit 1; }
import bitsandbytes.functional
import gguf
import gguf.quants
import mlx.core as mx
import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized import pack_to_int32

numbers = list(range(-8, 8))
wanted = {
    "gguf Q4_0": "80 81 82 83 84 85 86 87 88 89 8a 8b 8c 8d 8e 8f",
    "compressed-tensors": "10 32 54 76 98 ba dc fe",
    "bitsandbytes NF4": "00 11 23 46 79 ab cd ef",
    "mlx": "10 32 54 76 98 ba dc fe",
    "mlx, -7 to 8": "ef cd ab 89 67 45 23 01",
}

block = np.array([numbers + [0] * 16], dtype=np.float32)
rows = gguf.quants.quantize(block, gguf.GGMLQuantizationType.Q4_0)
seen = {"gguf Q4_0": bytes(rows[0])[2:]}  # behind the scale

words = pack_to_int32(torch.tensor([numbers], dtype=torch.int8), 4)
seen["compressed-tensors"] = words.numpy().tobytes()

group = torch.tensor([numbers * 4], dtype=torch.float32)
halves, _ = bitsandbytes.functional.quantize_4bit(group, blocksize=64, quant_type="nf4")
seen["bitsandbytes NF4"] = halves.numpy().tobytes()[:8]

factors = {}
for name, first in (("mlx", -8), ("mlx, -7 to 8", -7)):
    packed, scale, bias = mx.quantize(mx.array([list(range(first, first + 16)) * 4], dtype=mx.float32), 64, 4)
    seen[name] = np.array(packed).tobytes()[:8]
    factors[name] = f"   scale {scale.item():g}, bias {bias.item():g}"

for name, data in seen.items():
    print(f"{name:20} {data.hex(' ')}{factors.get(name, '')}")
assert {name: data.hex(" ") for name, data in seen.items()} == wanted
assert list(factors.values()) == ["   scale 1, bias -8", "   scale -1, bias 8"]
PY
