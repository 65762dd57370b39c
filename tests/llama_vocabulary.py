"""Llama's 32,000 pieces for tests: the real ones where this machine has them, else a slice among fillers."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import pytest

from codellama.files import llama_pieces
from codellama.files.gguf_header import read_gguf_header
from codellama.variants import CODE_LLAMA_PIECES
from tests.checkpoints import NORMAL, Piece
from tests.golden import Pieces, slice_pieces
from tests.tiny_model import real_vocabulary


def columns(path: Path) -> Pieces:
    """Pieces, scores and types of a vocabulary GGUF."""
    values = read_gguf_header(path).metadata
    names = ("tokens", "scores", "token_type")
    tokens, scores, types = (values[f"tokenizer.ggml.{name}"] for name in names)
    return tokens, scores, types


@functools.cache
def llama() -> tuple[Piece, ...]:
    """The pieces as tokenizer.model has them; of a slice the fillers have scores by rule."""
    real = real_vocabulary()
    if real is not None:
        return tuple(zip(*columns(real), strict=True))
    texts = [
        f"filler{i}" if text[0] == "\x01" else text for i, text in enumerate(slice_pieces()[0])
    ]
    return tuple(
        (text, llama_pieces.piece_score(i, text), int(llama_pieces.piece_type(i)))
        for i, text in enumerate(texts)
    )


def code_llama(*, step: bool = False) -> list[Piece]:
    """All 32016 pieces of the small models, or of 70B Instruct."""
    texts = [*CODE_LLAMA_PIECES]
    if step:
        texts[-1] = "<step>"
    return [*llama(), *((text, -float(31741 + i), NORMAL) for i, text in enumerate(texts))]


def believe_the_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the pieces of `llama` for Llama's where they are only a slice of them."""
    if real_vocabulary() is None:
        texts = "\0".join(text for text, _, _ in llama())
        digest = hashlib.sha256(texts.encode()).hexdigest()
        monkeypatch.setattr(llama_pieces, "LLAMA_SHA256", digest)
