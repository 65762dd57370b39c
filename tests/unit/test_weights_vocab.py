from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import CheckpointError
from codellama.files.sentencepiece_model import TokenType
from codellama.variants import FIM_PIECES
from codellama.weights.config import LlamaConfig, read_config
from codellama.weights.vocab import TokenTable, read_vocabulary
from tests.checkpoints import (
    CONTROL,
    NORMAL,
    Checkpoint,
    Piece,
    config_json,
    sentencepiece_model,
    tiny_pieces,
    write_json,
)


def small_pieces() -> list[Piece]:
    """32016 pieces like those of 7B: the infill pieces, and fillers before them."""
    pieces = [*tiny_pieces()]
    pieces += [(f"filler{i}", -float(i), NORMAL) for i in range(len(pieces), 32016)]
    for token_id, piece in FIM_PIECES.items():
        pieces[token_id] = (piece, -float(token_id), NORMAL)
    return pieces


def folder_of(tmp_path: Path, checkpoint: Checkpoint, **files: Any) -> tuple[Path, LlamaConfig]:
    """tokenizer.model and config.json of `checkpoint`, and whatever JSON files are given."""
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(checkpoint.vocabulary))
    write_json(tmp_path / "config.json", config_json(checkpoint))
    for name, content in files.items():
        write_json(tmp_path / f"{name}.json", content)
    return tmp_path, read_config(tmp_path / "config.json")


def read(tmp_path: Path, checkpoint: Checkpoint, **files: Any) -> TokenTable:
    return read_vocabulary(*folder_of(tmp_path, checkpoint, **files))


def decoder(token_id: int, content: str, special: bool) -> dict[str, Any]:
    return {"added_tokens_decoder": {str(token_id): {"content": content, "special": special}}}


def test_pieces_keep_text_score_and_type(tmp_path: Path) -> None:
    vocabulary = read(tmp_path, Checkpoint(added={}))
    pieces = tiny_pieces()
    assert vocabulary.tokens == [piece for piece, _, _ in pieces]
    assert vocabulary.scores == [score for _, score, _ in pieces]
    assert vocabulary.types == [kind for _, _, kind in pieces]
    assert vocabulary.step_id is None
    assert vocabulary.fim_ids is None


def test_step_is_control_wherever_it_comes_from(tmp_path: Path) -> None:
    n = len(tiny_pieces())
    added = read(tmp_path, Checkpoint(), added_tokens={"<step>": n})
    flagged = read(tmp_path, Checkpoint(), tokenizer_config=decoder(n, "<step>", False))
    (tmp_path / "added_tokens.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    piece = read(tmp_path, Checkpoint(pieces=[*tiny_pieces(), ("<step>", -9.0, NORMAL)], added={}))
    for vocabulary in (added, flagged, piece):
        assert vocabulary.step_id == n
        assert vocabulary.tokens[n] == "<step>"
        assert vocabulary.types[n] == CONTROL


def test_added_tokens_follow_their_flags(tmp_path: Path) -> None:
    n = len(tiny_pieces())
    checkpoint = Checkpoint(added={"A": n, "B": n + 1, "C": n + 2, "D": n + 3})
    flags = {
        str(n): {"content": "plain▁token", "special": False},
        str(n + 1): {"content": "<|looks|>", "special": False},
        str(n + 2): {"content": "<extra>", "special": True},
    }
    files = {
        "added_tokens": dict(checkpoint.added_tokens),
        "tokenizer_config": {"added_tokens_decoder": flags},
    }
    vocabulary = read(tmp_path, checkpoint, **files)
    assert vocabulary.tokens[n:] == ["plain token", "<|looks|>", "<extra>", "D"]
    assert vocabulary.types[n:] == [
        TokenType.USER_DEFINED,
        TokenType.CONTROL,
        TokenType.CONTROL,
        TokenType.USER_DEFINED,
    ]
    assert vocabulary.scores[n:] == [-1000.0] * 4


def test_ids_beyond_the_embedding_are_ignored(tmp_path: Path) -> None:
    files = {
        "added_tokens": {"<pad>": 5000},
        "tokenizer_config": decoder(5001, "<pad>", True),
    }
    vocabulary = read(tmp_path, Checkpoint(added={}), **files)
    assert len(vocabulary.tokens) == len(tiny_pieces())


@pytest.mark.parametrize(("hidden", "layers", "infills"), [
    (4096, 32, True), (5120, 40, True), (8192, 80, False), (256, 2, False),
])  # fmt: skip
def test_infill_ids_belong_to_7b_and_13b_only(
    tmp_path: Path, hidden: int, layers: int, infills: bool
) -> None:
    folder, config = folder_of(tmp_path, Checkpoint(pieces=small_pieces(), added={}))
    shape = dataclasses.replace(config, hidden_size=hidden, num_hidden_layers=layers)
    fim_ids = read_vocabulary(folder, shape).fim_ids
    assert fim_ids == ((32007, 32008, 32009, 32010) if infills else None)


def test_infill_ids_need_the_pieces(tmp_path: Path) -> None:
    pieces = small_pieces()
    pieces[32010] = ("other", 0.0, NORMAL)
    folder, config = folder_of(tmp_path, Checkpoint(pieces=pieces, added={}))
    shape = dataclasses.replace(config, hidden_size=4096, num_hidden_layers=32)
    assert read_vocabulary(folder, shape).fim_ids is None


def test_infill_pieces_listed_as_added_tokens_keep_their_text(tmp_path: Path) -> None:
    checkpoint = Checkpoint(pieces=small_pieces(), added={})
    plain = read(tmp_path, checkpoint, tokenizer_config=decoder(32007, "▁<PRE>", False))
    special = read(tmp_path, checkpoint, tokenizer_config=decoder(32007, "▁<PRE>", True))
    assert (plain.tokens[32007], plain.types[32007]) == ("▁<PRE>", TokenType.NORMAL)
    assert (special.tokens[32007], special.types[32007]) == ("▁<PRE>", TokenType.CONTROL)


def test_a_missing_tokenizer_is_an_error(tmp_path: Path) -> None:
    folder, config = folder_of(tmp_path, Checkpoint())
    (folder / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: missing"):
        read_vocabulary(folder, config)


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x0a\xff\xff\xff\xff\x0f", bytes(50)])
def test_a_damaged_tokenizer_is_an_error(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, config = folder_of(tmp_path, Checkpoint())
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: not a SentencePiece model"):
        read_vocabulary(folder, config)
    assert capfd.readouterr() == ("", "")


def test_too_many_pieces_are_an_error(tmp_path: Path) -> None:
    checkpoint = Checkpoint(added={}, config={"vocab_size": 100})
    with pytest.raises(
        CheckpointError, match=r"more pieces than the vocab_size in config\.json, .* 100"
    ):
        read(tmp_path, checkpoint)


def test_an_id_without_a_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is 295 and no added token names id 294"):
        read(tmp_path, Checkpoint())


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {"x": "1"}},
        {"added_tokens": {"x": -1}},
        {"added_tokens": ["x"]},
        {"tokenizer_config": {"added_tokens_decoder": [1]}},
        {"tokenizer_config": {"added_tokens_decoder": {"x": {"content": "y"}}}},
        {"tokenizer_config": {"added_tokens_decoder": {"1": {"content": 5}}}},
        {"tokenizer_config": {"added_tokens_decoder": {"1": "y"}}},
    ],
)
def test_malformed_added_tokens_are_an_error(tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(files))):
        read(tmp_path, Checkpoint(added={}), **files)


GOOD = config_json(Checkpoint())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "unknown architecture 'GPT2LMHeadModel'"),
        ({"architectures": None, "model_type": "qwen2"}, "unknown architecture 'qwen2'"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "256"}, "hidden_size must be a positive whole number"),
        ({"vocab_size": 0}, "vocab_size must be a positive whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be"),
        ({"num_hidden_layers": 10**6}, "512 at most"),
        ({"num_key_value_heads": 3}, "8 attention heads cannot share 3"),
        ({"head_dim": 33}, "even number"),
        ({"rms_norm_eps": -1}, "rms_norm_eps must be a positive number"),
        ({"rope_theta": "1e6"}, "rope_theta must be a positive number"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'yarn' is not supported"),
        ({"rope_scaling": [1]}, "rope_scaling must be an object"),
        ({"attention_bias": True}, "attention_bias is set"),
        ({"quantization_config": {"bits": 4}}, "quantized already, with an unknown method"),
    ],
)
def test_a_bad_config_is_one_clear_error(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "config.json"
    write_json(path, {**GOOD, **change})
    with pytest.raises(CheckpointError, match=message) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "[" * 99999, "\udcff"])
def test_a_config_that_is_no_json_object_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(CheckpointError, match=r"config\.json: not"):
        read_config(path)


def test_left_out_numbers_have_the_defaults_of_transformers(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    left_out = ("num_key_value_heads", "rope_theta", "rms_norm_eps", "max_position_embeddings")
    write_json(path, {key: value for key, value in GOOD.items() if key not in left_out})
    config = read_config(path)
    assert (config.num_key_value_heads, config.head_dim) == (8, 32)
    assert (config.rope_theta, config.rms_norm_eps) == (10000.0, 1e-6)
    assert config.max_position_embeddings == 2048


def test_rope_is_found_in_both_spellings(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    rope = {"rope_theta": 1e6, "rope_type": "linear", "factor": 4.0}
    write_json(path, {**json.loads(json.dumps(GOOD)), "rope_parameters": rope})
    config = read_config(path)
    assert (config.rope_theta, config.rope_scaling_factor) == (1e6, 4.0)
    write_json(path, {**GOOD, "rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2}})
    config = read_config(path)
    assert (config.rope_theta, config.rope_scaling_factor) == (1e6, 2.0)


def test_rows_that_pad_the_embedding_are_named_as_llama_cpp_names_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    n = len(tiny_pieces())  # 294
    vocabulary = read(tmp_path, Checkpoint(added={}, config={"vocab_size": 320}))
    assert vocabulary.tokens[n:] == [f"[PAD{i}]" for i in range(n, 320)]
    assert set(vocabulary.types[n:]) == {TokenType.UNUSED}
    assert set(vocabulary.scores[n:]) == {-10000.0}
    assert f"no token names the rows from {n} to 319" in caplog.text


@pytest.mark.parametrize(
    ("n_pieces", "rows", "padded"),
    [
        (32016, 32064, True),
        (32016, 32128, True),
        (32017, 32064, True),
        (32001, 32008, True),
        (32000, 32016, False),  # a model that infills, with the vocabulary of one that does not
        (32000, 32001, False),
        (32015, 32017, False),
    ],
)
def test_only_a_multiple_explains_rows_without_a_name(
    tmp_path: Path, n_pieces: int, rows: int, padded: bool
) -> None:
    pieces = [*tiny_pieces()]
    pieces += [(f"filler{i}", -float(i), NORMAL) for i in range(len(pieces), n_pieces)]
    checkpoint = Checkpoint(pieces=pieces, added={}, config={"vocab_size": rows})
    if padded:
        assert read(tmp_path, checkpoint).tokens[-1] == f"[PAD{rows - 1}]"
        return
    with pytest.raises(CheckpointError, match=f"no added token names id {n_pieces}: name it in"):
        read(tmp_path, checkpoint)


def test_a_gap_before_an_added_token_is_no_padding(tmp_path: Path) -> None:
    checkpoint = Checkpoint(added={}, config={"vocab_size": 320})
    with pytest.raises(CheckpointError, match="no added token names id 294"):
        read(tmp_path, checkpoint, added_tokens={"<pad>": 319})


def test_the_same_token_stands_beside_padding(tmp_path: Path) -> None:
    n = len(tiny_pieces())
    vocabulary = read(
        tmp_path, Checkpoint(config={"vocab_size": 320}), added_tokens={"<step>": n, "<pad>": n + 1}
    )
    assert vocabulary.step_id == n
    assert vocabulary.tokens[n : n + 3] == ["<step>", "<pad>", f"[PAD{n + 2}]"]
