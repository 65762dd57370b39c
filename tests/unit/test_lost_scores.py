"""GGUFs whose scores are all the same, as converters write them without tokenizer.model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from codellama.cli import main
from codellama.cli.vocabulary import load_vocabulary
from codellama.errors import ModelLoadError
from codellama.files.gguf_header import (
    GGUFHeader,
    Value,
    ValueType,
    encode_header,
    read_gguf_header,
)
from codellama.files.loadable import read_model, read_vocabulary
from codellama.files.lost_scores import mended_vocabulary, scores_are_lost
from codellama.llm import LLM
from codellama.weights.convert import convert, quantize
from codellama.weights.gguf_source import open_gguf
from tests import tiny_model
from tests.checkpoints import Checkpoint, write_checkpoint
from tests.golden import CARD_DIALOG, CARD_IDS
from tests.llama_vocabulary import believe_the_slice, code_llama

SMALL = Checkpoint(hidden=32, ffn=32, layers=1, heads=2, kv_heads=1, dtype="F32", shards=1)
TOKENS, SCORES, TYPES = (f"tokenizer.ggml.{n}" for n in ("tokens", "scores", "token_type"))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    believe_the_slice(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with 70B Instruct's vocabulary and tiny weights."""
    folder = tmp_path_factory.mktemp("whole")
    checkpoint = Checkpoint(**{**vars(SMALL), "pieces": code_llama(step=True), "added": {}})
    write_checkpoint(folder / "m", checkpoint)
    (
        folder / "m/tokenizer_config.json"
    ).unlink()  # it lists control tokens, which changes their scores
    convert(folder / "m", folder / "m.gguf", "F32")
    return folder / "m.gguf"


def spoiled(whole: Path, path: Path, more: tuple[str, ...] = (), **changes: Any) -> Path:
    """As llama.cpp's converter makes it from tokenizer.json: scores of -1000, `<step>` a normal token.

    `more` are tokens for which the embedding has no row; `changes` replace columns.
    """
    header = read_gguf_header(whole)
    tokens = [*header.metadata[TOKENS], *more]
    types = [*header.metadata[TYPES], *[3] * len(more)]
    types[0], types[32015] = 3, 1
    columns = {"tokens": tokens, "scores": [-1000.0] * len(tokens), "types": types, **changes}
    values = {
        **header.values,
        TOKENS: Value(ValueType.ARRAY, columns["tokens"], ValueType.STRING),
        SCORES: Value(ValueType.ARRAY, columns["scores"], ValueType.FLOAT32),
        TYPES: Value(ValueType.ARRAY, columns["types"], ValueType.INT32),
        "tokenizer.ggml.eot_token_id": Value(ValueType.UINT32, 32010),
    }
    weights = whole.read_bytes()[header.data_offset :]
    path.write_bytes(encode_header(values, header.tensors) + weights)
    return path


def vocabulary(header: GGUFHeader) -> tuple[Any, ...]:
    return tuple(header.metadata[key] for key in (TOKENS, SCORES, TYPES))


def test_the_vocabulary_is_mended_while_it_is_loaded(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = spoiled(whole, tmp_path / "x.gguf")
    header = read_vocabulary(path)
    assert scores_are_lost(header.metadata)
    with mended_vocabulary(header) as mended:
        assert mended is not None
        assert vocabulary(read_gguf_header(mended)) == vocabulary(read_gguf_header(whole))
    assert not mended.exists()
    with load_vocabulary(path) as (prompts, _):
        assert list(prompts.chat(CARD_DIALOG).tokens) == CARD_IDS
    assert "all scores of its vocabulary are the same: Llama's own take their place" in caplog.text


def test_a_whole_vocabulary_stays_as_it_is(whole: Path) -> None:
    header = read_model(whole)
    assert not scores_are_lost(header.metadata)
    with mended_vocabulary(header) as mended:
        assert mended is None


def test_a_model_is_loaded_with_the_mended_vocabulary(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = spoiled(whole, tmp_path / "x.gguf")
    options: dict[str, Any] = {"n_ctx": 128, "n_seq_max": 1, "n_threads": 1}
    with caplog.at_level(logging.WARNING), LLM(path, **options) as llm:
        assert list(llm.chat_prompt(CARD_DIALOG).tokens) == CARD_IDS
        assert sorted(llm.tokenizer.eog_tokens) == [2, 32015]
        answer = llm.chat("hi", max_tokens=4, temperature=0).result().choices[0].tokens
    assert "Llama's own take their place" in caplog.text
    with LLM(whole, **options) as llm:
        assert answer == llm.chat("hi", max_tokens=4, temperature=0).result().choices[0].tokens


def test_quantizing_mends_the_file(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = spoiled(whole, tmp_path / "x.gguf", more=("<FILL_ME>",))
    with pytest.raises(
        ModelLoadError, match=r"32017 tokens for an embedding of 32016 rows.*quantize it"
    ):
        read_model(path)
    quantize(path, tmp_path / "y.gguf", "F32")
    assert "Llama's own take their place" in caplog.text
    mended = read_model(tmp_path / "y.gguf")
    assert vocabulary(mended) == vocabulary(read_gguf_header(whole))


def test_inspect_says_it_and_shows_the_stops_that_are_used(tmp_path: Path, whole: Path) -> None:
    path = spoiled(whole, tmp_path / "x.gguf")
    facts = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"]).stdout)
    tokens = json.loads(CliRunner().invoke(main, ["tokenize", str(path), "x", "--json"]).stdout)
    assert facts["scores"] == "lost"
    assert [stop["id"] for stop in facts["stops"]] == tokens["stop_tokens"] == [2, 32015]
    assert any("Llama's own" in warning for warning in facts["would_load_as"]["warnings"])


def test_added_tokens_keep_what_they_have(tmp_path: Path, whole: Path) -> None:
    path = spoiled(whole, tmp_path / "x.gguf", more=("<a>", "<b>"))
    with mended_vocabulary(read_gguf_header(path)) as mended:
        assert mended is not None
        tokens, scores, types = vocabulary(read_gguf_header(mended))
    assert (tokens[32016:], scores[32016:], types[32016:]) == (
        ["<a>", "<b>"],
        [-1000.0] * 2,
        [3, 3],
    )
    assert types[32015] == 3


@pytest.mark.parametrize("scores", [-1000.0, 0.0])
def test_another_vocabulary_without_scores_is_refused(tmp_path: Path, scores: float) -> None:
    whole = tiny_model.write(tmp_path / "tiny.gguf")
    header = read_gguf_header(whole)
    n = len(header.metadata[TOKENS])
    column = Value(ValueType.ARRAY, [scores] * n, ValueType.FLOAT32)
    path = tmp_path / "x.gguf"
    weights = whole.read_bytes()[header.data_offset :]
    path.write_bytes(encode_header({**header.values, SCORES: column}, header.tensors) + weights)
    message = (
        f"all scores of its {n} tokens are the same.*from a checkpoint that has tokenizer.model"
    )
    for read in (read_model, read_vocabulary):
        with pytest.raises(ModelLoadError, match=message):
            read(path)
    with pytest.raises(ModelLoadError, match=message):
        quantize(path, tmp_path / "y.gguf", "F16")
    assert "would not load" in CliRunner().invoke(main, ["inspect", str(path)]).stdout


@pytest.mark.parametrize("change", [{"scores": [-1000.0] * 5}, {"types": [1] * 5}])
def test_columns_of_other_lengths_are_damage(
    tmp_path: Path, whole: Path, change: dict[str, Any]
) -> None:
    path = spoiled(whole, tmp_path / "x.gguf", **change)
    for read in (read_model, open_gguf):
        with pytest.raises(
            ModelLoadError, match="damaged GGUF: 32016 tokens, but 5 in tokenizer.ggml"
        ):
            read(path)


@pytest.mark.parametrize("key", [SCORES, TYPES])
def test_a_column_may_be_missing(tmp_path: Path, whole: Path, key: str) -> None:
    header = read_gguf_header(spoiled(whole, tmp_path / "x.gguf"))
    values = {k: v for k, v in header.values.items() if k != key}
    path = tmp_path / "y.gguf"
    weights = whole.read_bytes()[header.data_offset :]
    path.write_bytes(encode_header(values, header.tensors) + weights)
    with mended_vocabulary(read_model(path)) as mended:
        assert mended is not None
        assert vocabulary(read_gguf_header(mended)) == vocabulary(read_gguf_header(whole))


def test_a_vocabulary_without_any_scores_has_lost_them(whole: Path) -> None:
    metadata = {k: v for k, v in read_gguf_header(whole).metadata.items() if k != SCORES}
    assert scores_are_lost(metadata)
    assert not scores_are_lost({**metadata, "tokenizer.ggml.model": "gpt2"})
    assert not scores_are_lost({})
