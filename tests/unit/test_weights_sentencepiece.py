"""tokenizer.model as we read it: what SentencePiece reads, or one clear error."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from codellama.errors import CheckpointError
from codellama.files.loadable import unusable
from codellama.files.sentencepiece_model import read_pieces
from tests.checkpoints import BYTE, NORMAL, UNKNOWN, Piece, sentencepiece_model, tiny_pieces

DEMO = Path(__file__).parents[2] / "models" / "demo" / "tokenizer.model"


@pytest.mark.parametrize("made", [True, False], ids=["made here", "trained"])
def test_reads_what_sentencepiece_reads(tmp_path: Path, made: bool) -> None:
    from sentencepiece import SentencePieceProcessor

    path = DEMO
    if made:
        path = tmp_path / "tokenizer.model"
        path.write_bytes(sentencepiece_model(tiny_pieces()))
    theirs = SentencePieceProcessor(model_file=str(path))
    ids = range(theirs.vocab_size())
    ours = read_pieces(path, 2**18)
    assert ours.texts == [theirs.IdToPiece(i) for i in ids]
    assert ours.scores == [theirs.GetScore(i) for i in ids]
    assert [kind == UNKNOWN for kind in ours.types] == [theirs.IsUnknown(i) for i in ids]
    assert [kind == BYTE for kind in ours.types] == [theirs.IsByte(i) for i in ids]


def field(number: int, wire: int, value: bytes = b"") -> bytes:
    return bytes([number << 3 | wire]) + value


def text(number: int, data: bytes) -> bytes:
    return field(number, 2, bytes([len(data)]) + data)


GOOD = text(1, text(1, b"<unk>") + field(3, 0, b"\x02"))
BAD = {
    "empty": (b"", "0 pieces stand for unknown"),
    "two unknown": (GOOD * 2, "2 pieces stand for unknown"),
    "text of a program": (b"#!/bin/sh\necho hello\n", "wire type|reaches beyond"),
    "a length beyond the end": (GOOD + b"\x0a\x7f", "reaches beyond its message"),
    "a huge length": (GOOD + b"\x0a" + b"\xff" * 8 + b"\x7f", "reaches beyond its message"),
    "a text beyond its piece": (GOOD + b"\x0a\x03\x0a\x7fx", "reaches beyond its message"),
    "an endless number": (GOOD + b"\x10" + b"\xff" * 10 + b"\x01", "more than 64 bits"),
    "a number cut": (GOOD + b"\x10\xff", "ends inside a number"),
    "a fixed number cut": (GOOD + b"\x15\x00", "reaches beyond its message"),
    "a group": (GOOD + b"\x13", "wire type 3"),
    "field zero": (GOOD + b"\x00\x00", "reaches beyond its message"),
    "a piece that is a number": (GOOD + field(1, 0, b"\x05"), "a piece is no message"),
    "a text that is a number": (text(1, field(1, 0, b"\x05")), "piece 0: field 1"),
    "a score that is a number": (text(1, field(2, 0, b"\x05")), "piece 0: field 2"),
    "a piece without text": (GOOD + text(1, field(3, 0, b"\x01")), "piece 1: its text has 0 bytes"),
    "a text not UTF-8": (GOOD + text(1, text(1, b"\xff\xfe")), "piece 1: .* is not UTF-8"),
    "type 0": (GOOD + text(1, text(1, b"x") + field(3, 0, b"\x00")), "piece 1: its type is 0"),
    "type 7": (GOOD + text(1, text(1, b"x") + field(3, 0, b"\x07")), "piece 1: its type is 7"),
    "score NaN": (
        GOOD + text(1, text(1, b"x") + field(2, 5, struct.pack("<f", float("nan")))),
        "piece 1: its score is nan",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_model_is_one_clear_error(tmp_path: Path, name: str) -> None:
    data, reason = BAD[name]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=f"not a SentencePiece model, or damaged: .*({reason})"
    ):
        read_pieces(path, 100)


def test_a_model_with_more_pieces_than_wanted_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(GOOD + text(1, text(1, b"x")) * 3 + b"\xff" * 99)
    with pytest.raises(CheckpointError, match="more pieces than the vocab_size"):
        read_pieces(path, 2)


def test_what_sentencepiece_does_not_need_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(text(7, b"new") + GOOD + field(9, 1, b"12345678") + field(8, 0, b"\x80\x01"))
    assert read_pieces(path, 1).texts == ["<unk>"]


def without(text: str) -> list[Piece]:
    return [piece for piece in tiny_pieces() if piece[0] != text]


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        (tiny_pieces(), None),
        (without("<0x41>"), "no token <0x41>"),
        ([*tiny_pieces(), ("a", 0.0, NORMAL)], "are the same: 'a'"),
        ([*tiny_pieces(), ("x\0y", 0.0, NORMAL)], "NUL"),
        ([*tiny_pieces(), ("<0x4>", 0.0, BYTE)], "of type byte"),
        ([*tiny_pieces(), ("[EMPTY_1]", 0.0, NORMAL)], "empty"),
    ],
)
def test_tokens_on_which_llama_cpp_would_abort(pieces: list[Piece], reason: str | None) -> None:
    fault = unusable([piece for piece, _, _ in pieces], [kind for _, _, kind in pieces])
    assert fault is None if reason is None else fault is not None and reason in fault
