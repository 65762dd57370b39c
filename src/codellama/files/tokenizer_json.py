"""The vocabulary in a tokenizer.json (the tokenizers library's file), read strictly.

Texts and ids are taken from it. Its merges are not: transformers 5 writes them in the order of the ids
where it made the file from a tokenizer.model, and that is another order than SentencePiece's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import CheckpointError
from codellama.files.llama_pieces import (
    PUBLISHED,
    is_code_llama,
    is_llama,
    piece_score,
    piece_type,
)
from codellama.files.sentencepiece_model import Pieces
from codellama.files.small_files import read_json, shown
from codellama.variants import LLAMA_PIECES

_MOST_ID = 2**31 - 1


@dataclass(frozen=True)
class AddedToken:
    """A token that was put beside the pieces: its text, and whether it is special."""

    text: str
    special: bool


@dataclass(frozen=True)
class TokenizerJson:
    """Texts by id: `pieces` of the BPE model, and `added` tokens, which may name pieces too."""

    path: Path
    pieces: Mapping[int, str]
    added: Mapping[int, AddedToken]

    def name(self, token_id: int) -> str | None:
        """The text of a token, or None."""
        added = self.added.get(token_id)
        return self.pieces.get(token_id) if added is None else added.text


def read_tokenizer_json(path: Path) -> TokenizerJson:
    """The vocabulary in the file at `path`.

    Raises:
        CheckpointError: the file cannot be read, is no JSON, or holds no BPE vocabulary in which each
            id has one text.
    """
    content = read_json(path)
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict):
        raise CheckpointError(
            f"{path}: there is no vocabulary of texts and ids in it",
            "take it from the original repository, or leave it out where there is a tokenizer.model",
        )
    pieces: dict[int, str] = {}
    for text, token_id in vocab.items():
        if not _is_id(token_id):
            raise CheckpointError(f"{path}: {shown(text)} has id {shown(token_id)}")
        if token_id in pieces:
            raise _twice(path, token_id, pieces[token_id], text)
        pieces[token_id] = text
    return TokenizerJson(path, pieces, _added_tokens(path, content.get("added_tokens"), pieces))


def _added_tokens(path: Path, entries: Any, pieces: Mapping[int, str]) -> dict[int, AddedToken]:
    added: dict[int, AddedToken] = {}
    for token_id, token in _entries(path, [] if entries is None else entries):
        known = added[token_id].text if token_id in added else pieces.get(token_id, token.text)
        if known != token.text or token_id in added:
            raise _twice(path, token_id, known, token.text)
        added[token_id] = token
    return added


def _entries(path: Path, entries: Any) -> Iterator[tuple[int, AddedToken]]:
    if not isinstance(entries, list):
        raise CheckpointError(f"{path}: added_tokens is no list")
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {}
        token_id: Any = fields.get("id")
        text, special = fields.get("content"), fields.get("special", False)
        if not (_is_id(token_id) and isinstance(text, str) and text and isinstance(special, bool)):
            raise CheckpointError(f"{path}: {shown(entry)} in added_tokens is malformed")
        yield token_id, AddedToken(text, special)


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_ID


def _twice(path: Path, token_id: int, first: str, second: str) -> CheckpointError:
    return CheckpointError(f"{path}: id {token_id} is {shown(first)} and {shown(second)}")


def llama_pieces(tokenizer: TokenizerJson, most: int) -> Pieces:
    """What tokenizer.model of the same model holds: texts from the file, scores and types by rule.

    Raises:
        CheckpointError: it is not Llama's or Code Llama's vocabulary, whose scores alone are known, or
            it has more than `most` pieces.
    """
    plain = [token_id for token_id in tokenizer.pieces if token_id not in tokenizer.added]
    if plain and max(plain) >= most:
        raise CheckpointError(
            f"{tokenizer.path}: more pieces than the vocab_size in config.json, which is {most}"
        )
    texts = _published_texts(tokenizer, most)
    if not is_llama(texts):
        raise _unknown(tokenizer, "its pieces are not those of Llama")
    strange = min((token_id for token_id in plain if token_id >= len(texts)), default=None)
    if strange is not None:
        text = shown(tokenizer.pieces[strange])
        raise _unknown(tokenizer, f"its piece {strange}, {text}, is none of Llama or Code Llama")
    return Pieces(
        texts,
        [piece_score(token_id, text) for token_id, text in enumerate(texts)],
        [piece_type(token_id) for token_id in range(len(texts))],
    )


def _published_texts(tokenizer: TokenizerJson, most: int) -> list[str]:
    """The first texts: as many as may be Llama's, and behind them those that are Code Llama's."""
    texts: list[str] = []
    for token_id in range(min(most, PUBLISHED)):
        text = tokenizer.name(token_id)
        if text is None or (token_id >= LLAMA_PIECES and not is_code_llama(token_id, text)):
            break
        texts.append(text)
    return texts


def _unknown(tokenizer: TokenizerJson, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{tokenizer.path}: {reason}, and scores, which it does not hold, are known for those only: put "
        "the tokenizer.model of the original repository beside it"
    )
