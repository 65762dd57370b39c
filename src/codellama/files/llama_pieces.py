"""Llama's own pieces, recognised by their texts: their scores and types follow from their ids.

tokenizer.json has no scores, and some programs lose them on the way to a GGUF. SentencePiece numbers the
merges of a BPE model in the order in which it learned them, and a score is that number below zero. Meta
changed one thing: pieces of spaces only merge last. Checked on all 32,000 pieces of llama.cpp's
ggml-vocab-llama-spm.gguf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from codellama.files.sentencepiece_model import TokenType
from codellama.variants import CODE_LLAMA_PIECES, LLAMA_PIECES, LLAMA_SHA256, STEP

PUBLISHED = LLAMA_PIECES + len(CODE_LLAMA_PIECES)
"""How many ids have a text that is known here; what stands behind them was added by somebody else."""

_FIRST_MERGE = 259  # behind unknown, begin, end and 256 bytes
_SPACES_SCORE = -1e9
_FIRST_KINDS = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL)


def is_llama(texts: Sequence[str]) -> bool:
    """Whether these begin with the 32,000 pieces of Llama's vocabulary, by id."""
    if len(texts) < LLAMA_PIECES:
        return False
    data = "\0".join(texts[:LLAMA_PIECES]).encode("utf-8", "replace")
    return hashlib.sha256(data).hexdigest() == LLAMA_SHA256


def is_code_llama(token_id: int, text: str) -> bool:
    """Whether Code Llama has this piece at this id behind Llama's; in 70B Instruct the last is `<step>`."""
    if not LLAMA_PIECES <= token_id < PUBLISHED:
        return False
    return text == CODE_LLAMA_PIECES[token_id - LLAMA_PIECES] or (
        text == STEP and token_id == PUBLISHED - 1
    )


def piece_score(token_id: int, text: str) -> float:
    """The score that tokenizer.model gives to this piece of Llama or Code Llama."""
    if token_id < _FIRST_MERGE:
        return 0.0
    return _SPACES_SCORE if not text.strip("▁") else -float(token_id - _FIRST_MERGE)


def piece_type(token_id: int) -> TokenType:
    """The type that tokenizer.model gives to this piece of Llama or Code Llama."""
    if token_id < len(_FIRST_KINDS):
        return _FIRST_KINDS[token_id]
    return TokenType.BYTE if token_id < _FIRST_MERGE else TokenType.NORMAL
