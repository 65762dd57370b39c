"""tokenizer.model and the added tokens of a checkpoint, as a GGUF wants them.

Text, score and type of every token are what llama.cpp's converter would write, with three exceptions
that make a file right in every program: `<step>` is always CONTROL, infill pieces keep their text, and
every id must have a name (the converter pads and cuts in silence).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from codellama.errors import CheckpointError
from codellama.variants import SHAPES, STEP
from codellama.weights.config import LlamaConfig, read_json

FIM_PIECES = {32007: "▁<PRE>", 32008: "▁<SUF>", 32009: "▁<MID>", 32010: "▁<EOT>"}
"""The infill pieces of 7B and 13B, base and Instruct (microsoft/aici, ggml-org/llama.cpp#2934)."""

ADDED_SCORE = -1000.0
"""The score llama.cpp's converter gives to added tokens."""


class TokenType(IntEnum):
    """`llama_token_type` of llama.h."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id. `step_id` is the id of `<step>`; `fim_ids` are prefix, suffix, middle, EOT."""

    tokens: list[str]
    scores: list[float]
    types: list[int]
    step_id: int | None
    fim_ids: tuple[int, int, int, int] | None


def read_vocabulary(folder: Path, config: LlamaConfig) -> Vocabulary:
    """The vocabulary of the checkpoint in `folder`.

    Raises:
        CheckpointError: tokenizer.model is missing, unreadable or does not match `vocab_size`, or
            the files of added tokens are not what they should be.
    """
    table = _Table(folder / "tokenizer.model", config.vocab_size)
    added = folder / "added_tokens.json"
    if added.is_file():
        table.add_tokens(added)
    tokenizer_config = folder / "tokenizer_config.json"
    if tokenizer_config.is_file():
        table.add_decoder(tokenizer_config)
    table.check_complete()
    step_id = table.tokens.index(STEP) if STEP in table.tokens else None
    if step_id is not None:
        table.types[step_id] = TokenType.CONTROL
    fim = tuple(FIM_PIECES) if _infills(table.tokens, config) else None
    return Vocabulary(
        tokens=[str(token) for token in table.tokens],
        scores=table.scores,
        types=[int(kind) for kind in table.types],
        step_id=step_id,
        fim_ids=None if fim is None else (fim[0], fim[1], fim[2], fim[3]),
    )


def _infills(tokens: list[str | None], config: LlamaConfig) -> bool:
    """Whether this is 7B or 13B, base or Instruct: only they were trained to infill."""
    shapes = [(SHAPES[size].hidden, SHAPES[size].layers) for size in ("7b", "13b")]
    return (
        (config.hidden_size, config.num_hidden_layers) in shapes
        and len(tokens) > max(FIM_PIECES)
        and all(tokens[token_id] == piece for token_id, piece in FIM_PIECES.items())
    )


class _Table:
    """Rows of the vocabulary while they are collected; a token of None has no name yet."""

    def __init__(self, model: Path, vocab_size: int) -> None:
        self.model = model
        if not model.is_file():
            raise CheckpointError(
                f"{model}: missing: the vocabulary is read from it; take it from the original "
                "repository"
            )
        try:
            pieces = SentencePieceProcessor(model_file=str(model))
        except (RuntimeError, OSError) as error:
            raise CheckpointError(f"{model}: not a SentencePiece model") from error
        self.n_pieces: int = pieces.vocab_size()
        if self.n_pieces > vocab_size:
            raise CheckpointError(
                f"{model}: {self.n_pieces} pieces, but vocab_size in config.json is {vocab_size}"
            )
        unnamed = vocab_size - self.n_pieces
        ids = range(self.n_pieces)
        self.tokens: list[str | None] = [*(pieces.IdToPiece(i) for i in ids), *[None] * unnamed]
        self.scores: list[float] = [*(pieces.GetScore(i) for i in ids), *[0.0] * unnamed]
        self.types: list[TokenType] = [
            *(_piece_type(pieces, i) for i in ids),
            *[TokenType.UNUSED] * unnamed,
        ]

    def _set(self, token_id: int, token: str, kind: TokenType) -> None:
        # Ids beyond the embedding are ignored, as llama.cpp's converter does: nothing can emit them.
        if token_id < len(self.tokens):
            self.tokens[token_id] = token
            self.scores[token_id] = ADDED_SCORE
            self.types[token_id] = kind

    def add_tokens(self, path: Path) -> None:
        """Take added_tokens.json: token to id."""
        for token, token_id in read_json(path).items():
            if type(token_id) is not int or token_id < 0:
                raise CheckpointError(f"{path}: {token!r} has id {token_id!r}")
            self._set(token_id, token, TokenType.USER_DEFINED)

    def add_decoder(self, path: Path) -> None:
        """Take `added_tokens_decoder` of tokenizer_config.json: id to content and flags."""
        entries = read_json(path).get("added_tokens_decoder") or {}
        if not isinstance(entries, dict):
            raise CheckpointError(f"{path}: added_tokens_decoder is no object")
        for number, entry in entries.items():
            token_id, token, special = _decoder_entry(path, number, entry)
            # Rewritten with a space, as other added tokens are, llama.cpp would not know it again.
            if not special and FIM_PIECES.get(token_id) == token:
                continue
            if special or _looks_special(token):
                self._set(token_id, token, TokenType.CONTROL)
            else:
                self._set(token_id, token.replace("▁", " "), TokenType.USER_DEFINED)

    def check_complete(self) -> None:
        """Every id needs a name."""
        if None in self.tokens:
            raise CheckpointError(
                f"{self.model}: {self.n_pieces} pieces, but vocab_size in config.json is "
                f"{len(self.tokens)} and no added token names id {self.tokens.index(None)}"
            )


def _piece_type(pieces: Any, token_id: int) -> TokenType:
    if pieces.IsUnknown(token_id):
        return TokenType.UNKNOWN
    if pieces.IsControl(token_id):
        return TokenType.CONTROL
    if pieces.IsUnused(token_id):
        return TokenType.UNUSED
    return TokenType.BYTE if pieces.IsByte(token_id) else TokenType.NORMAL


def _decoder_entry(path: Path, number: str, entry: object) -> tuple[int, str, bool]:
    content = entry.get("content") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(content, str) or not number.isdecimal():
        raise CheckpointError(f"{path}: entry {number!r} of added_tokens_decoder is malformed")
    return int(number), content, bool(entry.get("special"))


def _looks_special(token: str) -> bool:
    """Tokens that llama.cpp's converter takes for control tokens whatever their flag says."""
    return token == "<pad>" or (token.startswith("<|") and token.endswith("|>"))
