"""The vocabulary of a checkpoint that has tokenizer.json only, or both files.

The 32,000 pieces are Llama's own where this machine has them, else a slice of them among fillers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import CheckpointError
from codellama.files import llama_pieces
from codellama.files.sentencepiece_model import TokenType
from codellama.files.tokenizer_json import read_tokenizer_json
from codellama.variants import CODE_LLAMA_PIECES
from codellama.weights.config import read_config
from codellama.weights.vocab import TokenTable, read_vocabulary
from tests import llama_vocabulary
from tests.checkpoints import (
    NORMAL,
    Checkpoint,
    Piece,
    config_json,
    sentencepiece_model,
    tokenizer_json,
    write_json,
)
from tests.golden import slice_pieces
from tests.llama_vocabulary import believe_the_slice, code_llama, columns

SPECIAL = {0: ("<unk>", True), 1: ("<s>", True), 2: ("</s>", True)}
FIM = {32007 + i: (CODE_LLAMA_PIECES[7 + i], True) for i in range(4)}
STEP = {32015: ("<step>", True)}
FILL_ME = {32016: ("<FILL_ME>", True)}
"""What transformers 5 adds for CodeLlamaTokenizer, though the embedding has 32016 rows."""


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    believe_the_slice(monkeypatch)


@pytest.fixture(scope="module")
def llama() -> list[Piece]:
    return [*llama_vocabulary.llama()]


def write(
    folder: Path,
    pieces: list[Piece],
    added: Mapping[int, tuple[str, bool]],
    *,
    rows: int | None = None,
    model: bool = False,
) -> Path:
    """config.json and tokenizer.json, and with `model` tokenizer.model of the same pieces."""
    folder.mkdir(exist_ok=True)
    config = config_json(Checkpoint(config={"vocab_size": rows or len(pieces)}))
    write_json(folder / "config.json", config)
    document = tokenizer_json([text for text, _, _ in pieces], added)
    write_json(folder / "tokenizer.json", document)
    if model:
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    return folder


def read(folder: Path) -> TokenTable:
    return read_vocabulary(folder, read_config(folder / "config.json"))


def test_every_piece_of_the_slice_has_its_score_by_rule() -> None:
    texts, scores, _ = slice_pieces()
    pairs = [(i, text) for i, text in enumerate(texts) if not text.startswith("\x01")]
    assert len(pairs) > 300
    for i, text in pairs:
        assert llama_pieces.piece_score(i, text) == (0.0 if i < 259 else scores[i]), text


def test_the_real_pieces_are_known_and_follow_the_rule(real_vocab: Path) -> None:
    texts, scores, types = columns(real_vocab)
    assert llama_pieces.is_llama(texts)
    assert not llama_pieces.is_llama([*texts[:-1], "x"])
    assert not llama_pieces.is_llama(texts[:-1])
    assert [llama_pieces.piece_score(i, text) for i, text in enumerate(texts)] == scores
    assert [llama_pieces.piece_type(i) for i in range(len(texts))] == types


ADDED = {"plain": SPECIAL, "all": SPECIAL | FIM | FILL_ME}


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("kind", ["llama", "small", "step"])
def test_the_vocabulary_is_that_of_tokenizer_model(
    tmp_path: Path, llama: list[Piece], kind: str, added: str
) -> None:
    pieces = llama if kind == "llama" else code_llama(step=kind == "step")
    tokens = {i: row for i, row in ADDED[added].items() if i < 3 or kind != "llama"}
    tokens |= STEP if kind == "step" else {}
    folder = write(tmp_path / "m", pieces, tokens)
    without = read(folder)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    assert without == read(folder)
    (folder / "tokenizer.json").unlink()
    assert without == read(folder)
    assert without.step_id == (32015 if kind == "step" else None)
    assert without.scores[260:263] == [-1.0, -2.0, -3.0]
    assert without.scores[259] == -1e9


def test_the_order_of_the_merges_means_nothing(tmp_path: Path, llama: list[Piece]) -> None:
    folder = write(tmp_path / "m", llama, SPECIAL)
    before = read(folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["merges"].reverse()
    write_json(folder / "tokenizer.json", document)
    assert read(folder) == before


def test_step_among_the_added_tokens_only_is_the_same_piece(
    tmp_path: Path, llama: list[Piece]
) -> None:
    pieces = code_llama(step=True)
    whole = read(write(tmp_path / "a", pieces, SPECIAL | STEP))
    apart = read(write(tmp_path / "b", pieces[:-1], SPECIAL | STEP, rows=32016))
    assert apart == whole


@pytest.mark.parametrize("model", [False, True])
def test_added_tokens_follow_their_entries(
    tmp_path: Path, llama: list[Piece], model: bool, caplog: pytest.LogCaptureFixture
) -> None:
    more = {32016: ("<x>", False), 32017: ("a▁b", False), 32018: ("<pad>", True)}
    beyond = {32064: ("<FILL_ME>", True)}
    pieces = code_llama(step=True)
    added = SPECIAL | STEP | more | beyond
    vocabulary = read(write(tmp_path / "m", pieces, added, rows=32064, model=model))
    assert vocabulary.tokens[32015:32020] == ["<step>", "<x>", "a b", "<pad>", "[PAD32019]"]
    kinds = [TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.USER_DEFINED]
    assert vocabulary.types[32015:32020] == [*kinds, TokenType.CONTROL, TokenType.UNUSED]
    assert vocabulary.scores[32016:32019] == [-1000.0] * 3
    assert "token 32064, '<FILL_ME>', is left out: the embedding has 32064 rows" in caplog.text
    assert "no token names the rows from 32019 to 32063" in caplog.text


def test_infill_names_that_transformers_adds_to_a_model_without_them_are_left_out(
    tmp_path: Path, llama: list[Piece], caplog: pytest.LogCaptureFixture
) -> None:
    names = {32000 + i: (text, True) for i, (text, _) in enumerate(FIM.values())}
    vocabulary = read(write(tmp_path / "m", llama, SPECIAL | names))
    assert len(vocabulary.tokens) == 32000
    assert "token 32000, '▁<PRE>', is left out" in caplog.text


def test_two_vocabularies_in_a_folder_must_be_the_same(tmp_path: Path, llama: list[Piece]) -> None:
    """A 7B's tokenizer.model beside a 70B's tokenizer.json would lose the chat format."""
    folder = write(tmp_path / "m", code_llama(step=True), SPECIAL | STEP)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(code_llama()))
    with pytest.raises(
        CheckpointError, match=r"token 32015 is '▁<EOT>.* it is '<step>': they belong"
    ):
        read(folder)
    write_json(folder / "added_tokens.json", {"<step>": 32015})
    assert read(folder).step_id == 32015


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    pieces = code_llama()
    folder = write(tmp_path / "m", pieces, SPECIAL, model=True)
    changed = [*pieces]
    changed[500], changed[600] = changed[600], changed[500]
    write(folder, changed, SPECIAL)
    with pytest.raises(CheckpointError, match="token 500 is"):
        read(folder)


def test_pieces_that_tokenizer_json_lacks_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pieces = code_llama()
    folder = write(tmp_path / "m", pieces, SPECIAL, model=True)
    whole = read(folder)
    write(folder, pieces[:32000], SPECIAL, rows=32016)
    assert read(folder) == whole
    assert (
        "it lacks 16 of the pieces in tokenizer.model, the first is token 32000, '▁<SU'"
        in caplog.text
    )


STRANGE: dict[str, tuple[int | None, int, str]] = {
    "another piece of Llama's": (5000, 32016, "its pieces are not those of Llama"),
    "another piece of Code Llama's": (32003, 32016, "its piece 32003, 'strange', is none of"),
    "more rows than pieces": (None, 32017, "no added token names id 32016"),
    "fewer rows": (None, 32000, "more pieces than the vocab_size in config.json, which is 32000"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_llamas_is_an_error(tmp_path: Path, llama: list[Piece], name: str) -> None:
    place, rows, message = STRANGE[name]
    pieces = code_llama()
    if place is not None:
        pieces[place] = ("strange", 0.0, NORMAL)
    folder = write(tmp_path / "m", pieces, SPECIAL, rows=rows)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(folder)
    assert str(folder) in str(caught.value)


def test_another_tokenizer_is_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", [(chr(97 + i), 0.0, NORMAL) for i in range(26)], {})
    with pytest.raises(
        CheckpointError, match=r"not those of Llama.*the tokenizer\.model of the orig"
    ):
        read(folder)


MALFORMED: list[tuple[Any, str]] = [
    ({}, "no vocabulary of texts and ids"),
    ({"model": {"vocab": [["a", 1.0]]}}, "no vocabulary of texts and ids"),
    ({"model": {"vocab": {"a": "1"}}}, "'a' has id '1'"),
    ({"model": {"vocab": {"a": -1}}}, "'a' has id -1"),
    ({"model": {"vocab": {"a": True}}}, "'a' has id True"),
    ({"model": {"vocab": {"a": 1, "b": 1}}}, "id 1 is 'a' and 'b'"),
    ({"model": {"vocab": {}}, "added_tokens": {}}, "added_tokens is no list"),
    ({"model": {"vocab": {}}, "added_tokens": ["x"]}, "'x' in added_tokens is malformed"),
    ({"model": {"vocab": {}}, "added_tokens": [{"id": 1}]}, "is malformed"),
    ({"model": {"vocab": {}}, "added_tokens": [{"id": 1, "content": "x", "special": 1}]}, "malformed"),
    ({"model": {"vocab": {}}, "added_tokens": [{"id": 2**40, "content": "x"}]}, "malformed"),
    ({"model": {"vocab": {"a": 1}}, "added_tokens": [{"id": 1, "content": "x"}]}, "'a' and 'x'"),
    ({"model": {"vocab": {}}, "added_tokens": [{"id": 1, "content": "x"}] * 2}, "id 1 is 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), MALFORMED)
def test_a_malformed_file_is_one_clear_error(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    write_json(path, content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_tokenizer_json(path)
    assert str(caught.value).startswith(f"{path}: ")
