"""Quantized checkpoints against the tools themselves and against llama.cpp's converter: the same numbers.

The tools run in environments of their own (scripts/tool_venv), where tests/quantize_with_tools.py quantizes
a checkpoint and writes what the tool makes of it beside it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from codellama.weights.convert import convert
from tests.checkpoints import Checkpoint, write_checkpoint
from tests.quantize_with_tools import KINDS, MLX
from tests.quantized_folder import write_quantized
from tests.tiny.test_saved_by_tools import environment, run
from tests.tiny.test_weights_reference import llama_cpp_source, tensors_of, their_convert

__all__ = ["llama_cpp_source"]

pytestmark = pytest.mark.reference


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_is_what_the_tool_makes_of_it(tmp_path: Path, kind: str) -> None:
    python = environment("mlx" if kind in MLX else "quantizers")
    shape = Checkpoint(hidden=64, ffn=128, layers=1, heads=4, kv_heads=1, shards=1)
    folder = write_checkpoint(tmp_path / "m", shape)
    paths = tmp_path / "quantized", tmp_path / "plain"
    run(python, "tests/quantize_with_tools.py", kind, folder, *paths)
    for path in paths:
        convert(path, path.with_suffix(".gguf"), "F32")
    ours, theirs = (tensors_of(path.with_suffix(".gguf")) for path in paths)
    assert ours == theirs


LLAMA_CPP_READS = ("gptq", "gptq-8", "gptq-2", "gptq-v2", "gptq-order", "ct")
"""llama.cpp's converter refuses AWQ, and takes no notice of compressed-tensors' `weight_g_idx`."""


@pytest.mark.parametrize("kind", LLAMA_CPP_READS)
def test_decoded_is_what_llama_cpp_makes_of_it(
    tmp_path: Path, llama_cpp_source: Path, kind: str
) -> None:
    folder = tmp_path / "CodeLlama-70b-Instruct-hf"
    write_quantized(folder, kind)
    theirs = their_convert(llama_cpp_source, folder, tmp_path / "theirs.gguf", "f32")
    convert(folder, tmp_path / "ours.gguf", "F32")
    assert tensors_of(tmp_path / "ours.gguf") == tensors_of(theirs)
