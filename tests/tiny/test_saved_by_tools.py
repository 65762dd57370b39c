"""Checkpoints as transformers 5, transformers 4 and mlx-lm save them: the same vocabulary, the same tensors.

Each tool runs in an environment of its own (scripts/tool_venv); its folder is converted with and without
the original tokenizer.model, and must give what the folder gives that it loaded.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codellama.cli.vocabulary import load_vocabulary
from codellama.errors import CheckpointError
from codellama.files.gguf_header import read_gguf_header
from codellama.files.lost_scores import mended_vocabulary, scores_are_lost
from codellama.variants import FIM_PIECES
from codellama.weights.convert import convert, quantize
from codellama.weights.source import open_checkpoint
from tests.checkpoints import Checkpoint, write_checkpoint, write_json
from tests.golden import CARD_DIALOG, CARD_IDS
from tests.llama_vocabulary import code_llama
from tests.tiny.test_weights_reference import llama_cpp_source, tensors_of

__all__ = ["llama_cpp_source"]

pytestmark = pytest.mark.reference

ROOT = Path(__file__).parents[2]
CODE = "def f(n):\n    return n\n"
CODE_IDS = [822, 285, 29898, 29876, 1125, 13, 1678, 736, 302, 13]
"""By SentencePiece, behind a space; transformers 5 merges pieces of spaces first and gives 268, 2457."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, real_vocab: Path) -> Path:
    """A checkpoint in the layout of 70B Instruct with the real pieces."""
    checkpoint = Checkpoint(
        hidden=32, ffn=32, layers=1, heads=2, kv_heads=1, shards=1,
        pieces=code_llama(step=True), added={},
    )  # fmt: skip
    folder = write_checkpoint(tmp_path_factory.mktemp("original") / "CodeLlama", checkpoint)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": [2, 32015]})
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {
        str(i): {"content": text, "special": True, **flags}
        for i, text in ((0, "<unk>"), (1, "<s>"), (2, "</s>"), (32015, "<step>"))
    }
    write_json(folder / "tokenizer_config.json", config)
    return folder


def environment(name: str) -> str:
    """The Python of an environment; skips where it has not been made."""
    found = subprocess.run(
        [ROOT / "scripts/tool_venv", "--cached", name], capture_output=True, text=True
    )
    if found.returncode:
        pytest.skip(found.stderr.strip())
    return found.stdout.strip()


def transformers_5(folder: Path, output: Path, *options: str) -> None:
    run(environment("transformers-5"), "tests/save_pretrained.py", folder, output, *options)


def transformers_4(folder: Path, output: Path, *options: str) -> None:
    run(environment("transformers-4"), "tests/save_pretrained.py", folder, output, *options)


def mlx(folder: Path, output: Path, *options: str) -> None:
    run(
        environment("mlx"),
        "-m",
        "mlx_lm",
        "convert",
        "--hf-path",
        folder,
        "--mlx-path",
        output,
        *options,
    )


def run(*command: Any) -> None:
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def converted(folder: Path, output: Path) -> dict[str, Any]:
    """Everything of a GGUF that a model's answers depend on: vocabulary, stops, base frequency, tensors."""
    convert(folder, output, "F32", force=True)
    values = read_gguf_header(output).metadata
    names = ("ggml.tokens", "ggml.scores", "ggml.token_type", "ggml.eot_token_id", "chat_template")
    return {
        **{name: values[f"tokenizer.{name}"] for name in names},
        "theta": values["llama.rope.freq_base"],
        "tensors": tensors_of(output),
    }


TOOLS: dict[str, Callable[..., None]] = {
    "transformers 5": transformers_5,
    "transformers 4": transformers_4,
    "mlx": mlx,
}


@pytest.mark.parametrize("kind", ["CodeLlamaTokenizer", "LlamaTokenizer"])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_saved_folder_gives_the_same_model(
    tmp_path: Path, original: Path, tool: str, kind: str
) -> None:
    folder = shutil.copytree(original, tmp_path / "CodeLlama")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", {**config, "tokenizer_class": kind})
    saved = tmp_path / "saved"
    TOOLS[tool](folder, saved)
    with_model = shutil.copytree(saved, tmp_path / "with_model")
    shutil.copy(folder / "tokenizer.model", with_model)
    (with_model / "tokenizer.json").unlink()
    (saved / "tokenizer.model").unlink(missing_ok=True)
    ours = converted(saved, tmp_path / "saved.gguf")
    assert ours == converted(with_model, tmp_path / "with_model.gguf")
    first = converted(folder, tmp_path / "folder.gguf")
    for name in ("ggml.tokens", "ggml.eot_token_id", "theta", "tensors"):
        assert ours[name] == first[name], name
    listed = {
        0,
        1,
        2,
        32015,
        *FIM_PIECES,
    }  # have -1000 where tokenizer_config.json calls them special
    plain = [i for i in range(32016) if i not in listed]
    for name in ("ggml.scores", "ggml.token_type"):
        assert [ours[name][i] for i in plain] == [first[name][i] for i in plain]
    with load_vocabulary(tmp_path / "saved.gguf") as (prompts, tokenizer):
        assert list(prompts.chat(CARD_DIALOG).tokens) == CARD_IDS
        assert tokenizer.encode(" " + CODE) == CODE_IDS
        assert sorted(tokenizer.eog_tokens) == [2, 32015]


@pytest.mark.parametrize("tool", ["transformers 5", "transformers 4"])
@pytest.mark.parametrize("rows", [None, "64"])
def test_added_tokens_and_padded_rows(
    tmp_path: Path, original: Path, tool: str, rows: str | None
) -> None:
    saved = tmp_path / "saved"
    options = ["--add", "<a>", "<pad>", *(["--rows", rows] if rows else [])]
    TOOLS[tool](original, saved, *options)
    n_rows = json.loads((saved / "config.json").read_text())["vocab_size"]
    (saved / "tokenizer.model").unlink(missing_ok=True)
    tokens = converted(saved, tmp_path / "x.gguf")["ggml.tokens"]
    assert len(tokens) == n_rows
    assert (n_rows % 64 == 0) == bool(rows)
    assert {"<a>", "<pad>"} <= set(tokens[32016:32020])
    assert not rows or tokens[-1] == f"[PAD{n_rows - 1}]"
    with load_vocabulary(tmp_path / "x.gguf") as (prompts, tokenizer):
        assert list(prompts.chat(CARD_DIALOG).tokens) == CARD_IDS
        assert sorted(tokenizer.eog_tokens) == [2, 32015]
        assert list(prompts.complete("def f").tokens) == [1, 1753, 285]  # without a space before it


@pytest.mark.parametrize("kind", ["CodeLlamaTokenizer", "LlamaTokenizer"])
def test_what_llama_cpps_converter_makes_of_it_is_mended(
    tmp_path: Path, original: Path, llama_cpp_source: Path, kind: str
) -> None:
    folder = shutil.copytree(original, tmp_path / "CodeLlama")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", {**config, "tokenizer_class": kind})
    transformers_5(folder, tmp_path / "saved")
    ours = converted(tmp_path / "saved", tmp_path / "ours.gguf")
    theirs = tmp_path / "theirs.gguf"
    converter = [environment("transformers-5"), llama_cpp_source / "convert_hf_to_gguf.py"]
    run(*converter, tmp_path / "saved", "--outfile", theirs, "--outtype", "f32")
    header = read_gguf_header(theirs)
    assert scores_are_lost(header.metadata)
    quantize(theirs, tmp_path / "mended.gguf", "F32")
    mended = read_gguf_header(tmp_path / "mended.gguf").metadata
    for name in ("ggml.tokens", "ggml.scores", "ggml.token_type"):
        assert mended[f"tokenizer.{name}"] == ours[name]
    with load_vocabulary(theirs) as (prompts, _):
        assert list(prompts.chat(CARD_DIALOG).tokens) == CARD_IDS
    with mended_vocabulary(header) as vocabulary:
        assert vocabulary is not None


def test_mlx_checkpoints_are_decoded_or_named(tmp_path: Path, original: Path) -> None:
    """Affine ones, with settings or without, are decoded; floating point types are refused."""
    saved, floating = tmp_path / "saved", tmp_path / "floating"
    sizes = ("-q", "--q-bits", "4", "--q-group-size", "32")
    mlx(original, saved, *sizes)
    ours = converted(saved, tmp_path / "saved.gguf")["tensors"]
    assert set(ours) == set(converted(original, tmp_path / "original.gguf")["tensors"])
    without_settings(saved)
    assert converted(saved, tmp_path / "bare.gguf")["tensors"] == ours
    mlx(original, floating, *sizes, "--q-mode", "mxfp4")
    with pytest.raises(CheckpointError, match=r"already, with MLX \(mxfp4, 4 bits\), "):
        open_checkpoint(floating)
    without_settings(floating)
    with pytest.raises(CheckpointError, match="quantized already, with MLX"):
        open_checkpoint(floating)


def without_settings(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    write_json(folder / "config.json", config)
