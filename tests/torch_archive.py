"""Writes files as `torch.save` does, by hand: a zip of one pickle and of the bytes of each storage.

The pickle is put together instruction by instruction, so tests can also make it say what they want.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints import Checkpoint, config_json, random_tensors, sentencepiece_model

Tensors = Sequence[tuple[str, str, NDArray[Any]]]
STORAGES = {
    "BF16": "BFloat16Storage",
    "F16": "HalfStorage",
    "F32": "FloatStorage",
    "I64": "LongStorage",
}


def text(value: str) -> bytes:
    """Pushes a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    """Pushes what is called so."""
    return f"c{module}\n{attribute}\n".encode()


def number(value: int) -> bytes:
    """Pushes a number."""
    return b"J" + struct.pack("<i", value) if value < 2**31 else _long(value)


def _long(value: int) -> bytes:
    data = value.to_bytes(9, "little")
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values: Iterable[int]) -> bytes:
    """Pushes a tuple of numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


ORDERED = name("collections", "OrderedDict") + b")R"


def tensor(
    key: str,
    dtype: str,
    shape: Sequence[int],
    *,
    first: int = 0,
    count: int | None = None,
    strides: Sequence[int] | None = None,
) -> bytes:
    """Pushes a tensor in the storage `key`."""  # fmt: skip
    total = int(np.prod(shape, dtype=np.int64))
    rows = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]
    storage = b"(" + text("storage") + name("torch", STORAGES[dtype]) + text(key) + text("cpu")
    storage += number(total if count is None else count) + b"tQ"
    return (
        name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + number(first)
        + numbers(shape) + numbers(rows if strides is None else strides) + b"\x89" + ORDERED + b"tR"
    )  # fmt: skip


def program(entries: Mapping[str, bytes]) -> bytes:
    """A dictionary of what the entries push."""
    items = b"".join(text(key) + value for key, value in entries.items())
    return b"\x80\x02" + ORDERED + b"(" + items + b"u."


def write_archive(path: Path, pickled: bytes, storages: Mapping[str, bytes], **more: bytes) -> Path:
    """The archive at `path`; `more` are other records."""
    records = {"data.pkl": pickled, "byteorder": b"little", **more}
    records |= {f"data/{key}": data for key, data in storages.items()} | {"version": b"3\n"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for record, data in records.items():
            archive.writestr(zipfile.ZipInfo(f"{path.stem}/{record}"), data)
    return path


def write_torch(path: Path, tensors: Tensors) -> Path:
    """A state_dict."""
    entries = {
        key: tensor(str(i), dtype, data.shape) for i, (key, dtype, data) in enumerate(tensors)
    }
    storages = {str(i): data.tobytes() for i, (_, _, data) in enumerate(tensors)}
    return write_archive(path, program(entries), storages)


def pickled_checkpoint(folder: Path, checkpoint: Checkpoint, shards: int = 1) -> None:
    """Put the weights of a checkpoint in `folder` into pytorch_model.bin files instead."""
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    tensors = list(random_tensors(checkpoint))
    if shards == 1:
        write_torch(folder / "pytorch_model.bin", tensors)
        return
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        part = tensors[shard * len(tensors) // shards : (shard + 1) * len(tensors) // shards]
        write_torch(folder / file, part)
        weight_map |= {key: file for key, _, _ in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


META = {
    "model.embed_tokens": ("tok_embeddings", 1), "model.norm": ("norm", None), "lm_head": ("output", 0),
    "self_attn.q_proj": ("attention.wq", 0), "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0), "self_attn.o_proj": ("attention.wo", 1),
    "mlp.gate_proj": ("feed_forward.w1", 0), "mlp.up_proj": ("feed_forward.w3", 0),
    "mlp.down_proj": ("feed_forward.w2", 1), "input_layernorm": ("attention_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
}  # fmt: skip
"""Meta's names by Hugging Face's, and the axis that its files share (transformers'
convert_llama_weights_to_hf.py)."""


def meta_tensor(
    hf_name: str, data: NDArray[Any], heads: int
) -> tuple[str, int | None, NDArray[Any]]:
    """A tensor under Meta's name, with the axis that is shared, in Meta's order of the rows."""
    stem = hf_name.removesuffix(".weight")
    layer = ""
    if stem.startswith("model.layers."):
        _, _, number, stem = stem.split(".", 3)
        layer = f"layers.{number}."
    meta, axis = META[stem]
    if meta.endswith(("wq", "wk")):
        # transformers: w.view(heads, rows / heads / 2, 2, columns).transpose(1, 2); here back again.
        rows, columns = data.shape
        halves = data.reshape(heads, 2, rows // heads // 2, columns)
        data = halves.swapaxes(1, 2).reshape(rows, columns)
    return f"{layer}{meta}.weight", axis, data


def write_meta(folder: Path, checkpoint: Checkpoint, files: int, **params: Any) -> Path:
    """Meta's layout of the same weights as `write_checkpoint`: params.json and `files` pickles."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_json(checkpoint)
    content = {
        "dim": checkpoint.hidden, "n_layers": checkpoint.layers, "n_heads": checkpoint.heads,
        "n_kv_heads": checkpoint.kv_heads, "norm_eps": config["rms_norm_eps"],
        "multiple_of": 256, "ffn_dim_multiplier": 1.0, **params,
    }  # fmt: skip
    (folder / "params.json").write_text(json.dumps(content))
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(checkpoint.vocabulary))
    shares: list[list[tuple[str, str, NDArray[Any]]]] = [[] for _ in range(files)]
    for hf_name, dtype, data in random_tensors(checkpoint):
        heads = checkpoint.kv_heads if ".k_proj." in hf_name else checkpoint.heads
        meta, axis, whole = meta_tensor(hf_name, data, heads)
        parts = [whole] * files if axis is None else np.split(whole, files, axis)
        for share, part in zip(shares, parts, strict=True):
            share.append((meta, dtype, np.ascontiguousarray(part)))
    for i, share in enumerate(shares):
        share.append(("rope.freqs", "F32", np.ones(4, np.float32)))
        write_torch(folder / f"consolidated.{i:02}.pth", share)
    return folder
