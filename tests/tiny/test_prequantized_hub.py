"""Quantized checkpoints on a hub: parts of a matrix may lie in two shards, and not all over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from codellama.errors import CheckpointError
from codellama.files.gguf_header import read_gguf_header
from codellama.weights.convert import convert
from codellama.weights.source import open_checkpoint
from stand_ins.hub import serve
from tests.quantized_folder import write_quantized

NAME = "somebody/CodeLlama-GPTQ"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_shards_that_share_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "CodeLlama-GPTQ"
    write_quantized(folder, "gptq", shards=9)
    with open_checkpoint(folder) as source:
        assert max(len(tensor.files) for tensor in source.tensors) == 2
    convert(folder, tmp_path / "local.gguf", "Q8_0")
    with serve({NAME: folder}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        convert(NAME, tmp_path / "hub.gguf", "Q8_0", threads=2)
    assert tensors_of(tmp_path / "hub.gguf") == tensors_of(tmp_path / "local.gguf")


def tensors_of(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {t.name: data[t.offset : t.offset + t.nbytes] for t in read_gguf_header(path).tensors}


def test_parts_that_are_far_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "CodeLlama-GPTQ"
    write_quantized(folder, "gptq", shards=9, last=".g_idx")
    convert(folder, tmp_path / "local.gguf", "Q8_0")
    with serve({NAME: folder}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(CheckpointError, match=r"lie in shards that are far apart: download it"):
            convert(NAME, tmp_path / "hub.gguf", "Q8_0")
        (tmp_path / "kept").mkdir()
        convert(NAME, tmp_path / "kept" / "hub.gguf", "Q8_0", keep=True)
    assert tensors_of(tmp_path / "kept" / "hub.gguf") == tensors_of(tmp_path / "local.gguf")
