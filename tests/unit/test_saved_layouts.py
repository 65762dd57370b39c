"""What tools write beside the weights, kept in data/saved; tests/tiny/test_saved_by_tools.py runs them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import CheckpointError
from codellama.files.quantized import by_config, by_tensors
from codellama.files.safetensors_header import SafeTensor
from codellama.weights.config import read_config
from codellama.weights.source import open_checkpoint
from tests.checkpoints import Checkpoint, tokenizer_json, write_checkpoint, write_json
from tests.llama_vocabulary import believe_the_slice, code_llama

SAVED = Path(__file__).parents[1] / "data" / "saved"
DTYPE_BYTES = {"U32": 4, "BF16": 2, "U8": 1}


def saved(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SAVED / f"{name}.json").read_text("utf-8"))
    return document


def test_a_folder_of_transformers_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    believe_the_slice(monkeypatch)
    files = saved("transformers-5.24.0")
    pieces = code_llama(step=True)
    shape = Checkpoint(hidden=64, ffn=128, heads=4, kv_heads=2, shards=1, pieces=pieces, added={})
    folder = write_checkpoint(tmp_path / "m", shape)
    for name in ("tokenizer.model", "added_tokens.json"):
        (folder / name).unlink()
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        write_json(folder / name, files[name])
    document = tokenizer_json([text for text, _, _ in pieces])
    taken = ("added_tokens", "post_processor")
    write_json(folder / "tokenizer.json", {**document, **{name: files[name] for name in taken}})
    with open_checkpoint(folder) as source:
        values = {key: value.value for key, value in source.metadata.items()}
    assert values["tokenizer.ggml.tokens"] == [text for text, _, _ in pieces]
    assert values["tokenizer.ggml.scores"] == [score for _, score, _ in pieces]
    assert values["tokenizer.ggml.token_type"] == [*(kind for _, _, kind in pieces[:-1]), 3]
    assert values["tokenizer.ggml.eot_token_id"] == 32015
    assert values["llama.rope.freq_base"] == 10000.0
    assert "token 32016, '<FILL_ME>', is left out: the embedding has 32016 rows" in caplog.text


@pytest.mark.parametrize(
    ("name", "method", "by_bytes"),
    [
        ("mlx-lm-0.32.2-4bit", "MLX (4 bits)", "MLX (4 bits)"),
        ("mlx-lm-0.32.2-mxfp4", "MLX (mxfp4, 4 bits)", "MLX (a floating point type) (4 bits)"),
    ],
)
def test_quantized_by_mlx(tmp_path: Path, name: str, method: str, by_bytes: str) -> None:
    files = saved(name)
    config = files["config.json"]
    assert by_config(config) == method
    assert by_config({k: v for k, v in config.items() if k != "quantization_config"}) == method
    tensors = {}
    for tensor, (dtype, shape) in files["tensors"].items():
        nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
        tensors[tensor] = SafeTensor(tensor, dtype, tuple(shape), Path("x"), 0, nbytes)
    assert by_tensors(tensors, config["hidden_size"] ** 2) == by_bytes
    write_json(tmp_path / "config.json", config)
    if "mxfp4" not in name:
        read_config(tmp_path / "config.json")
        return
    with pytest.raises(
        CheckpointError, match=r"config\.json: its weights are quantized already, with MLX"
    ):
        read_config(tmp_path / "config.json")
