"""Files of a Hugging Face checkpoint, put together by hand: a safetensors header, a SentencePiece model.

Written from the formats' descriptions and not with the libraries that read them, so that they can also be
made wrong on purpose.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

Piece = tuple[str, float, int]
"""Text, score and type (sentencepiece_model.proto)."""


def safetensors_head(header: Mapping[str, Any]) -> bytes:
    """Length and JSON, padded as safetensors does."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def sentencepiece_model(pieces: Sequence[Piece], *, add_dummy_prefix: bool = False) -> bytes:
    """A BPE model with byte fallback (sentencepiece_model.proto)."""
    rows = (
        _message(1, _text(1, piece) + _float(2, score) + _varint(3, kind))
        for piece, score, kind in pieces
    )
    trainer = _varint(3, 2) + _varint(4, len(pieces)) + _varint(35, 1)
    normalizer = _text(1, "identity") + _varint(3, add_dummy_prefix) + _varint(4, 0) + _varint(5, 1)
    return b"".join(rows) + _message(2, trainer) + _message(3, normalizer)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _varint(tag: int, value: int) -> bytes:
    return _number(tag << 3) + _number(int(value))


def _float(tag: int, value: float) -> bytes:
    return _number(tag << 3 | 5) + struct.pack("<f", value)


def _message(tag: int, data: bytes) -> bytes:
    return _number(tag << 3 | 2) + _number(len(data)) + data


def _text(tag: int, text: str) -> bytes:
    return _message(tag, text.encode())
