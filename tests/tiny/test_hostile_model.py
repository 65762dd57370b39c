"""A model on which llama.cpp aborts is refused, whichever way leads to llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from codellama import LLM, CodeLlamaError, ModelLoadError
from codellama.cli import main
from codellama.files.gguf_header import Value, ValueType, encode_header, read_gguf_header
from codellama.weights.imatrix import collect_imatrix


@pytest.fixture
def hostile(tiny_gguf: Path, tmp_path: Path) -> Path:
    """A model on which llama.cpp aborts: its vocabulary and its numbers are wrong."""
    header, data = read_gguf_header(tiny_gguf), tiny_gguf.read_bytes()
    tokens = list(header.metadata["tokenizer.ggml.tokens"])
    tokens[300] = tokens[299]
    values = {
        **header.values,
        "llama.block_count": Value(ValueType.UINT32, 0),
        "tokenizer.ggml.tokens": Value(ValueType.ARRAY, tokens, ValueType.STRING),
    }
    path = tmp_path / "hostile.gguf"
    path.write_bytes(encode_header(values, header.tensors) + data[header.data_offset :])
    return path


def test_every_way_to_llama_cpp_leads_through_our_checks(
    hostile: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """Without them each of these ends the process."""
    text = tmp_path / "text.txt"
    text.write_text("def f(x): return x\n" * 100)
    with pytest.raises(ModelLoadError, match="block_count is 0"):
        LLM(hostile)
    with pytest.raises(ModelLoadError, match="block_count is 0"):
        LLM(tiny_gguf, draft_model=str(hostile))
    with pytest.raises(ModelLoadError, match="no LoRA adapter"):
        LLM(tiny_gguf, lora=[hostile])
    with pytest.raises(ModelLoadError, match="block_count is 0"):
        collect_imatrix(hostile, text, tmp_path / "i.gguf")
    for command, reason in (
        (["tokenize", str(hostile), "x"], "tokens 299 and 300 are the same"),
        (["quantize", str(hostile), "-o", str(tmp_path / "q.gguf"), "--type", "Q4_0"], "block_count"),
        (["imatrix", str(hostile), str(text), "-o", str(tmp_path / "i.gguf")], "block_count is 0"),
        (["complete", str(hostile), "x"], "block_count is 0"),
    ):  # fmt: skip
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 1
        assert reason in result.stderr


@pytest.mark.parametrize("name", ["draft_model", "lora"])
def test_a_file_beside_the_model_is_named_by_its_setting(
    tiny_gguf: Path, tmp_path: Path, name: str
) -> None:
    missing = str(tmp_path / "missing.gguf")
    options: dict[str, Any] = {name: missing if name == "draft_model" else [missing]}
    why = "there is no such file or folder" if name == "lora" else "cannot be read"
    with pytest.raises(CodeLlamaError, match=f"^{name}: .*missing.gguf: {why}"):
        LLM(tiny_gguf, **options)
