"""Quantized checkpoints decode to what their formats say, and strange ones are refused by name."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from codellama.cli import main
from codellama.errors import CheckpointError, CodeLlamaError
from codellama.files.gguf_header import read_gguf_header
from codellama.files.safetensors_header import SafeTensor, read_safetensors_header
from codellama.weights import dequantizers
from codellama.weights.convert import convert
from codellama.weights.dequantizers import numbers
from codellama.weights.prequantized import OLD_GPTQ, Dequantizers, Settings
from codellama.weights.source import open_checkpoint
from codellama.weights.unusable import UnusableWeightsError
from tests.checkpoints import random_tensors, write_json, write_safetensors
from tests.peft_folder import low_rank, write_peft
from tests.quantized_folder import KINDS, SHAPE, settings, write_quantized

SAVED = json.loads((Path(__file__).parents[1] / "data/saved/quantized.json").read_text("utf-8"))
NAME = "model.layers.0.self_attn.k_proj"


def read_part(tensor: SafeTensor, first: int, count: int) -> NDArray[np.uint8]:
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset + first)
        return np.frombuffer(file.read(count), np.uint8)


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("step", [16, 5, 1])
def test_what_tools_saved_is_what_they_make_of_it(tmp_path: Path, kind: str, step: int) -> None:
    """A matrix that the tool quantized, and the SHA-256 of what it dequantizes it to, in F32."""
    case = SAVED[kind]
    tensors = []
    for end, (dtype, shape, text) in case["tensors"].items():
        data = np.frombuffer(base64.b64decode(text), np.uint8)
        tensors.append((NAME + end, dtype, shape, data))
    path = tmp_path / "model.safetensors"
    write_raw(path, tensors)
    left = {tensor.name: tensor for tensor in read_safetensors_header(path)}
    found = Dequantizers(tmp_path, Settings(block=(16, 32)), left)
    dequantizer = found.of(NAME + ".weight", (16, 64))
    assert dequantizer is not None
    assert not left
    out = np.zeros((16, 64), np.float32)
    for first in range(0, 16, step):
        dequantizer.decode(read_part, first, out[first : first + step])
    assert out[0, :4].tolist() == case["first"]
    assert hashlib.sha256(out.tobytes()).hexdigest() == case["sha256"]


def write_raw(path: Path, tensors: list[tuple[str, str, list[int], NDArray[np.uint8]]]) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    body = b"".join(data.tobytes() for _, _, _, data in tensors)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


@pytest.mark.parametrize("stripe", [2**23, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_becomes_the_gguf_of_its_plain_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, stripe: int
) -> None:
    monkeypatch.setattr(dequantizers, "STRIPE_BYTES", stripe)
    plain = write_quantized(tmp_path / "q", kind)
    write_plain(tmp_path / "q", tmp_path / "p", plain)
    for name in "qp":
        convert(tmp_path / name, tmp_path / f"{name}.gguf", "F32")
    ours, theirs = (tensors_of(tmp_path / f"{name}.gguf") for name in "qp")
    assert ours == theirs


def write_plain(quantized: Path, folder: Path, plain: dict[str, NDArray[np.float32]]) -> None:
    """The same checkpoint with `plain` projections."""
    shutil.copytree(quantized, folder, ignore=shutil.ignore_patterns("model*safetensors*"))
    tensors: list[tuple[str, str, NDArray[Any]]] = [
        (name, "F32", plain[name]) if name in plain else (name, dtype, data)
        for name, dtype, data in random_tensors(SHAPE)
    ]
    write_safetensors(folder / "model.safetensors", tensors)
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    write_json(folder / "config.json", config)


def tensors_of(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {t.name: data[t.offset : t.offset + t.nbytes] for t in read_gguf_header(path).tensors}


def test_gptq_before_config_json_knew_it(tmp_path: Path) -> None:
    """Its settings are in a file of their own, and a projection has a bias of zeros."""
    write_quantized(tmp_path / "new", "gptq")
    write_quantized(tmp_path / "old", "gptq")
    without(tmp_path / "old")
    write_json(tmp_path / "old" / OLD_GPTQ, {"bits": 4, "group_size": 32, "desc_act": False})
    change(tmp_path / "old", lambda t: {**t, f"{NAME}.bias": ("F16", np.zeros(32, np.float16))})
    for name in ("new", "old"):
        convert(tmp_path / name, tmp_path / f"{name}.gguf", "F32")
    assert tensors_of(tmp_path / "new.gguf") == tensors_of(tmp_path / "old.gguf")


def without(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    write_json(folder / "config.json", config)


Stored = dict[str, tuple[str, NDArray[Any]]]
_NUMPY = {"I32": np.int32, "I64": np.int64, "F16": np.float16, "BF16": np.uint16}


def change(folder: Path, edit: Callable[[Stored], Stored]) -> None:
    """Write the one shard of a folder again."""
    path = folder / "model.safetensors"
    stored: Stored = {}
    for tensor in read_safetensors_header(path):
        data = read_part(tensor, 0, tensor.nbytes)
        stored[tensor.name] = tensor.dtype, data.view(_NUMPY[tensor.dtype]).reshape(tensor.shape)
    write_safetensors(path, [(name, *entry) for name, entry in edit(stored).items()])


def put(end: str, dtype: str, data: NDArray[Any]) -> Callable[[Stored], Stored]:
    return lambda stored: {**stored, NAME + end: (dtype, data)}


GROUPS = np.arange(64, dtype=np.int32) // 32
AT_OPENING: list[tuple[str, Callable[[Stored], Stored], str]] = [
    ("gptq", put(".qweight", "I32", np.zeros((8, 31), np.int32)), "k_proj.qweight is no matrix of"),
    ("gptq", put(".qweight", "I32", np.zeros(256, np.int32)), "k_proj.qweight is no matrix of"),
    ("gptq", put(".qzeros", "I32", np.zeros((2, 5), np.int32)), r"qzeros has shape \[2, 5\], "),
    ("gptq", put(".scales", "F16", np.zeros((0, 32), np.float16)), "qzeros has shape"),
    ("gptq", put(".scales", "I32", np.zeros((2, 32), np.int32)), "scales is I32, not F32 or"),
    ("gptq", put(".g_idx", "I32", GROUPS[:63]), r"g_idx has shape \[63\]"),
    ("gptq", lambda t: {n: e for n, e in t.items() if n != f"{NAME}.qzeros"}, "qzeros is in no sh"),
    ("ct", put(".weight_packed", "I32", np.zeros((32, 9), np.int32)), "which fits no number of b"),
    ("ct", put(".weight_scale", "F16", np.zeros((32, 3), np.float16)), "which fits no groups"),
    ("ct", put(".weight_scale", "F16", np.zeros((32, 0), np.float16)), "which fits no groups"),
    ("ct", put(".weight_shape", "I64", np.zeros(3, np.int64)), r"weight_shape has shape \[3\]"),
    ("ct", put(".strange", "I64", np.zeros(3, np.int64)), "strange is no tensor of the model"),
]


@pytest.mark.parametrize(("kind", "edit", "message"), AT_OPENING)
def test_sizes_are_checked_before_anything_is_read(
    tmp_path: Path, kind: str, edit: Callable[[Stored], Stored], message: str
) -> None:
    write_quantized(tmp_path / "m", kind)
    change(tmp_path / "m", edit)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "m")


BEYOND, NEGATIVE = np.where(GROUPS, 2, 0), np.where(GROUPS, -2, 0)
WHILE_READ: list[tuple[str, Callable[[Stored], Stored], str]] = [
    ("gptq", put(".g_idx", "I32", BEYOND.astype(np.int32)), "g_idx names group 2, there are 2"),
    ("gptq", put(".g_idx", "I32", NEGATIVE.astype(np.int32)), "g_idx names group -2, there are 2"),
    (
        "ct-order",
        put(".weight_g_idx", "I32", BEYOND.astype(np.int32)),
        "names group 2, there are 2",
    ),
    ("ct", put(".weight_shape", "I64", np.array([64, 32])), r"weight_shape is not \[32, 64\]"),
    ("gptq", put(".bias", "F16", np.ones(32, np.float16)), "bias is not zero"),
    ("ct", put(".weight_scale", "F16", np.full((32, 2), np.inf, np.float16)), "holds NaN or infin"),
]


@pytest.mark.parametrize(("kind", "edit", "message"), WHILE_READ)
def test_strange_numbers_end_the_run(
    tmp_path: Path, kind: str, edit: Callable[[Stored], Stored], message: str
) -> None:
    write_quantized(tmp_path / "m", kind)
    change(tmp_path / "m", edit)
    with pytest.raises(UnusableWeightsError, match=message):
        convert(tmp_path / "m", tmp_path / "m.gguf", "F32")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_unset_groups_are_in_order(tmp_path: Path) -> None:
    """compressed-tensors has written -1 everywhere where columns keep their order."""
    write_quantized(tmp_path / "a", "ct")
    write_quantized(tmp_path / "b", "ct")
    change(tmp_path / "b", put(".weight_g_idx", "I32", np.full(64, -1, np.int32)))
    for name in "ab":
        convert(tmp_path / name, tmp_path / f"{name}.gguf", "F32")
    assert tensors_of(tmp_path / "a.gguf") == tensors_of(tmp_path / "b.gguf")


def test_parts_in_several_shards(tmp_path: Path) -> None:
    write_quantized(tmp_path / "one", "gptq")
    write_quantized(tmp_path / "many", "gptq", shards=9)
    with open_checkpoint(tmp_path / "many") as source:
        assert max(len(tensor.files) for tensor in source.tensors) > 1
    for name in ("one", "many"):
        convert(tmp_path / name, tmp_path / f"{name}.gguf", "Q8_0")
    assert tensors_of(tmp_path / "one.gguf") == tensors_of(tmp_path / "many.gguf")


def test_plan_counts_what_is_stored_and_says_what_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_quantized(tmp_path / "m", "gptq")
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "m"), "--type", "Q8_0", "--json"])
    assert done.exit_code == 0, done.output
    assert "quantized already, with GPTQ (4 bits): they are decoded" in caplog.text
    stored = read_safetensors_header(tmp_path / "m" / "model.safetensors")
    assert json.loads(done.stdout)["read_bytes"] == sum(tensor.nbytes for tensor in stored)


def test_adapters_are_merged_into_what_is_decoded(tmp_path: Path) -> None:
    plain = write_quantized(tmp_path / "q", "gptq")
    write_plain(tmp_path / "q", tmp_path / "p", plain)
    write_peft(tmp_path / "a", low_rank({NAME: (32, 64), "model.layers.0.mlp.up_proj": (128, 64)}))
    for name in "qp":
        merge = [(tmp_path / "a", 0.5)]
        convert(tmp_path / name, tmp_path / f"{name}.gguf", "F32", merge=merge)
    convert(tmp_path / "q", tmp_path / "unmerged.gguf", "F32")
    merged = tensors_of(tmp_path / "q.gguf")
    assert merged == tensors_of(tmp_path / "p.gguf")
    assert merged != tensors_of(tmp_path / "unmerged.gguf")


def test_a_run_under_other_settings_is_another_run(tmp_path: Path) -> None:
    write_quantized(tmp_path / "m", "gptq")
    with open_checkpoint(tmp_path / "m") as source:
        before = source.identity
    config = json.loads((tmp_path / "m/config.json").read_text())
    config["quantization_config"]["checkpoint_format"] = "gptq_v2"
    write_json(tmp_path / "m/config.json", config)
    with open_checkpoint(tmp_path / "m") as source:
        assert source.identity != before


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({**settings("gptq"), "bits": 3}, "GPTQ (3 bits)"),
    ({**settings("gptq"), "checkpoint_format": "marlin"}, "GPTQ (marlin, 4 bits)"),
    ({**settings("awq"), "version": "gemv"}, "AWQ (gemv, 4 bits)"),
    (
        {**settings("ct"), "format": "nvfp4-pack-quantized"},
        "compressed-tensors (nvfp4-pack-quantized, 4 bits)",
    ),
    (
        {**settings("ct"), "transform_config": {"a": 1}},
        "compressed-tensors (pack-quantized, 4 bits, with transforms)",
    ),
    ({"quant_method": "hqq"}, "HQQ"),
    ({"quant_method": "aqlm"}, "AQLM"),
    ({"quant_method": "exl2", "bits": 4.5}, "EXL2"),
    ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, "MLX (mxfp4, 4 bits)"),
    ({"quant_method": "modelopt"}, "'modelopt'"),
]


@pytest.mark.parametrize(("entry", "method"), REFUSED)
def test_the_others_are_refused_by_name(tmp_path: Path, entry: dict[str, Any], method: str) -> None:
    write_quantized(tmp_path / "m", "gptq")
    config = json.loads((tmp_path / "m/config.json").read_text())
    write_json(tmp_path / "m/config.json", {**config, "quantization_config": entry})
    with pytest.raises(CodeLlamaError) as caught:
        open_checkpoint(tmp_path / "m")
    assert f"quantized already, with {method}, which is not read here" in str(caught.value)
    assert "take the checkpoint that they were made from, in BF16 or F16" in str(caught.value)


def test_float8_is_what_the_formats_define() -> None:
    """Largest, smallest and special numbers from the OCP specification, tables 1 and 2."""
    codes = np.array([0x00, 0x01, 0x08, 0x38, 0x7E, 0xB8, 0x7F], np.uint8)

    def values(dtype: str) -> list[float]:
        tensor = SafeTensor("x", dtype, (len(codes),), Path("x"), 0, len(codes))
        found = numbers(lambda _, first, n: codes[first : first + n], tensor, 0, len(codes))
        return [float(value) for value in found]

    assert values("F8_E4M3")[:6] == [0, 2**-9, 2**-6, 1, 448, -1]
    assert math.isnan(values("F8_E4M3")[6])
    assert values("F8_E5M2")[:4] == [0, 2**-16, 2**-13, 0.5]
