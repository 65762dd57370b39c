"""GGUFs whose vocabulary has lost its scores, and Llama's given back where it is Llama's.

Text is cut into the tokens with the best scores. Where all are the same it is cut into others than those
the model was trained with, and nothing says so: the answers are merely bad. That is what converters write
for a checkpoint without tokenizer.model, such as every one that transformers 5 saves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from codellama.errors import ModelLoadError
from codellama.files.gguf_header import GGUFHeader, Value, ValueType, encode_header
from codellama.files.llama_pieces import (
    PUBLISHED,
    is_code_llama,
    is_llama,
    piece_score,
    piece_type,
)
from codellama.files.sentencepiece_model import TokenType
from codellama.files.split import KEYS as SPLIT_KEYS
from codellama.variants import LLAMA_PIECES, STEP

MENDED = "all scores of its vocabulary are the same: Llama's own take their place"
"""What is said where the vocabulary is mended."""

_TOKENS, _SCORES, _TYPES = (f"tokenizer.ggml.{n}" for n in ("tokens", "scores", "token_type"))


def scores_are_lost(metadata: Mapping[str, Any]) -> bool:
    """Whether this is a SentencePiece vocabulary in which no score tells one token from another."""
    tokens = metadata.get(_TOKENS) or []
    scores = metadata.get(_SCORES) or []
    return metadata.get("tokenizer.ggml.model") == "llama" and bool(tokens) and len(set(scores)) < 2


def check_mendable(header: GGUFHeader) -> None:
    """Refuse a vocabulary without scores that is not Llama's.

    Raises:
        ModelLoadError: nobody knows what its scores were, or it is damaged beyond that.
    """
    tokens = header.metadata.get(_TOKENS) or []
    for key in (_SCORES, _TYPES):
        column = header.metadata.get(key)
        if column and len(column) != len(tokens):
            raise ModelLoadError(
                f"{header.path}: damaged GGUF: {len(tokens)} tokens, but {len(column)} in {key}"
            )
    if not is_llama(tokens):
        raise ModelLoadError(
            f"{header.path}: all scores of its {len(tokens)} tokens are the same, so text would be cut into "
            "wrong tokens, and it is not Llama's vocabulary, whose scores are known",
            "make the file again from a checkpoint that has tokenizer.model",
        )


def mended(values: Mapping[str, Value], n_rows: int) -> dict[str, Value]:
    """The metadata with the scores and types of Llama's pieces, and without tokens beyond `n_rows`.

    `values` must have passed `check_mendable`. Tokens that somebody added keep what they have.
    """
    tokens = list(values[_TOKENS].value)[:n_rows]
    types: list[int] = _column(values, _TYPES) or [TokenType.NORMAL] * len(tokens)
    scores: list[float] = _column(values, _SCORES) or [0.0] * len(tokens)
    types, scores = types[:n_rows], scores[:n_rows]
    for token_id, text in enumerate(tokens[:PUBLISHED]):
        if token_id < LLAMA_PIECES or is_code_llama(token_id, text):
            scores[token_id] = piece_score(token_id, text)
            types[token_id] = piece_type(token_id)
    if STEP in tokens:
        types[tokens.index(STEP)] = TokenType.CONTROL
    return {
        **values,
        _TOKENS: replace(values[_TOKENS], value=tokens),
        _SCORES: Value(ValueType.ARRAY, scores, ValueType.FLOAT32),
        _TYPES: Value(ValueType.ARRAY, [int(kind) for kind in types], ValueType.INT32),
    }


def _column(values: Mapping[str, Value], key: str) -> list[Any]:
    return list(values[key].value) if key in values else []


@contextmanager
def mended_vocabulary(header: GGUFHeader) -> Iterator[Path | None]:
    """A file with the mended vocabulary of a model, to take the place of its own; None if that is whole."""
    if not scores_are_lost(header.metadata):
        yield None
        return
    n_tokens = len(header.metadata[_TOKENS])
    values = {key: value for key, value in header.values.items() if key not in SPLIT_KEYS}
    with tempfile.TemporaryDirectory(prefix="codellama-") as folder:
        path = Path(folder, "vocabulary.gguf")
        path.write_bytes(encode_header(mended(values, n_tokens), []))
        yield path
