from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import make_random_model as maker
from codellama import LLM
from codellama.files.gguf_header import read_gguf_header

SMALL = maker.Shape(hidden=256, ffn=512, layers=1, heads=4, kv_heads=2, vocab=1000)


@pytest.mark.parametrize(
    ("size", "low", "high"), [("100m", 0.99e8, 1.01e8), ("1.1b", 1.09e9, 1.11e9)]
)
def test_the_shapes_have_the_size_they_are_named_after(size: str, low: float, high: float) -> None:
    shape = maker.SHAPES[size]
    assert low < shape.parameters < high
    assert all(columns % 256 == 0 for _, _, columns in maker.matrices(shape))
    assert shape.heads % shape.kv_heads == 0 and shape.heads > shape.kv_heads


def test_the_same_options_give_the_same_working_file(tmp_path: Path) -> None:
    pieces = maker.made_up(SMALL.vocab)
    files = [tmp_path / "a.gguf", tmp_path / "b.gguf", tmp_path / "c.gguf"]
    for path, seed in zip(files, (0, 0, 1), strict=True):
        maker.make(path, "random-small", SMALL, pieces, "Q4_K_M", seed=seed)
    first, second, third = (path.read_bytes() for path in files)
    assert first == second
    assert first != third
    assert sorted(tmp_path.glob("*.gguf")) == files
    assert not [path for path in tmp_path.iterdir() if path.is_dir()], "left behind"
    header = read_gguf_header(files[0])
    types = {tensor.type_name for tensor in header.tensors}
    assert {"Q4_K", "Q6_K", "F32"} == types
    with LLM(files[0], n_ctx=64, n_threads=1) as llm:
        reply = llm.complete("some words", max_tokens=5, temperature=0, ignore_eos=True).result()
    assert reply.usage.completion_tokens == 5


def test_made_up_pieces_tokenize_any_text(tmp_path: Path) -> None:
    pieces = maker.made_up()
    assert len(pieces.texts) == len(set(pieces.texts)) == maker.N_VOCAB
    assert len(pieces.scores) == len(pieces.types) == maker.N_VOCAB
    path = tmp_path / "vocab.gguf"
    maker.make(path, "v", maker.Shape(256, 256, 1, 2, 1), pieces, "Q8_0")
    with LLM(path, n_ctx=64, n_threads=1) as llm:
        for text in ("hello world, 12 times!", "naïve 🙂\n\tx"):
            ids = llm.tokenizer.encode(text)
            assert llm.tokenizer.decode(ids).removeprefix(" ") == text
        assert len(llm.tokenizer.encode("letters and words " * 10)) < 100


def test_pieces_of_another_file_are_kept_in_place(tiny_gguf: Path) -> None:
    given = read_gguf_header(tiny_gguf).metadata["tokenizer.ggml.tokens"]
    pieces = maker.pieces_of(tiny_gguf, 1000)
    assert pieces.texts[: len(given)] == given
    assert len(pieces.texts) == 1000
    assert pieces.texts[-1] == maker.STEP
    assert pieces.types[-1] == maker.CONTROL


def test_the_real_vocabulary_fits(real_vocab: Path) -> None:
    pieces = maker.pieces_of(real_vocab)
    assert len(pieces.texts) == maker.N_VOCAB
    assert pieces.texts[31999] != "<unused_0>" == pieces.texts[32000]


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_text("mine")
    result = CliRunner().invoke(maker.main, ["--size", "100m", "-o", str(path)])
    assert result.exit_code == 1
    assert "exists" in result.output
    assert path.read_text() == "mine"
    result = CliRunner().invoke(
        maker.main, ["--size", "100m", "-o", str(tmp_path / "no" / "m.gguf")]
    )
    assert "no such folder" in result.output
