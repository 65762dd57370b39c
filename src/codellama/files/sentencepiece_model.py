"""The pieces of a SentencePiece model (tokenizer.model), read strictly.

The file is a protobuf message, `ModelProto` of sentencepiece_model.proto. Only its pieces matter to a GGUF,
so they are all that is read, and nothing is handed to a library that trusts it: every length is checked
against the bytes that are there, every piece has a text of its own, a finite score and a known type.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from codellama.errors import CheckpointError
from codellama.files.small_files import read_small, shown


class TokenType(IntEnum):
    """`SentencePiece.Type` of the format, and with the same numbers `llama_token_type` of llama.h."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Pieces:
    """Text, score and type of every piece, by id."""

    texts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[TokenType] = field(default_factory=list)


_PIECES = 1  # the field of ModelProto
_TEXT, _SCORE, _TYPE = 1, 2, 3  # fields of SentencePiece
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_MOST_TEXT = 2**10
_KINDS = {int(kind): kind for kind in TokenType}


def read_pieces(path: Path, most: int) -> Pieces:
    """The pieces of the model at `path`, no more than `most`.

    Raises:
        CheckpointError: the file cannot be read, is no SentencePiece model, damaged, or has more pieces.
    """
    data = read_small(path)
    try:
        pieces = _pieces(data, most)
        if len(pieces.texts) > most:
            raise CheckpointError(
                f"{path}: more pieces than the vocab_size in config.json, which is {most}"
            )
        if pieces.types.count(TokenType.UNKNOWN) != 1:
            raise ValueError(f"{pieces.types.count(TokenType.UNKNOWN)} pieces stand for unknown")
    except ValueError as error:
        raise CheckpointError(f"{path}: not a SentencePiece model, or damaged: {error}") from error
    return pieces


def _pieces(data: bytes, most: int) -> Pieces:
    pieces = Pieces()
    for number, wire, begin, end in _fields(data, 0, len(data)):
        if number != _PIECES:
            continue
        if wire != _BYTES:
            raise ValueError("a piece is no message")
        _add_piece(pieces, data, begin, end)
        if len(pieces.texts) > most:
            break
    return pieces


def _add_piece(pieces: Pieces, data: bytes, begin: int, end: int) -> None:
    what = f"piece {len(pieces.texts)}"
    text, score, kind = b"", 0.0, 1
    for number, wire, start, stop in _fields(data, begin, end):
        if (number, wire) == (_TEXT, _BYTES):
            text = data[start:stop]
        elif (number, wire) == (_SCORE, _FIXED32):
            score = struct.unpack_from("<f", data, start)[0]
        elif (number, wire) == (_TYPE, _VARINT):
            kind = _varint(data, start, stop)[0]
        elif number in (_TEXT, _SCORE, _TYPE):
            raise ValueError(f"{what}: field {number} is of a wrong type")
    pieces.texts.append(_text(what, text))
    if not math.isfinite(score):
        raise ValueError(f"{what}: its score is {score}")
    pieces.scores.append(score)
    if kind not in _KINDS:
        raise ValueError(f"{what}: its type is {kind}")
    pieces.types.append(_KINDS[kind])


def _text(what: str, data: bytes) -> str:
    if not 1 <= len(data) <= _MOST_TEXT:
        raise ValueError(f"{what}: its text has {len(data)} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{what}: its text {shown(data)} is not UTF-8") from None


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number and wire type of each field of a message, and where its value begins and ends."""
    while position < end:
        tag, position = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        start = position
        if wire == _VARINT:
            position = _varint(data, position, end)[1]
        elif wire == _BYTES:
            length, start = _varint(data, position, end)
            position = start + length
        elif wire in (_FIXED32, _FIXED64):
            position += 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"a field of wire type {wire} at byte {start}")
        if not number or position > end:
            raise ValueError(f"the field at byte {start} reaches beyond its message")
        yield number, wire, start, position


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A number of at most 64 bits, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= end:
            raise ValueError(f"it ends inside a number at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError(f"a number of more than 64 bits at byte {position}")
