"""tokenizer.model and the added tokens of a checkpoint, as a GGUF wants them.

Text, score and type of every token are what llama.cpp's converter would write, with three exceptions
that make a file right in every program: `<step>` is always CONTROL, infill pieces keep their text, and
every id must have a name (the converter pads and cuts in silence).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import CheckpointError
from codellama.files.loadable import unusable
from codellama.files.sentencepiece_model import TokenType, read_pieces
from codellama.files.small_files import read_json, shown
from codellama.variants import SHAPES, STEP
from codellama.weights.config import LlamaConfig

FIM_PIECES = {32007: "▁<PRE>", 32008: "▁<SUF>", 32009: "▁<MID>", 32010: "▁<EOT>"}
"""The infill pieces of 7B and 13B, base and Instruct (microsoft/aici, ggml-org/llama.cpp#2934)."""

ADDED_SCORE = -1000.0
"""The score llama.cpp's converter gives to added tokens."""

_ID = re.compile(r"\d{1,9}", re.ASCII)


@dataclass(frozen=True)
class TokenTable:
    """Tokens by id. `step_id` is the id of `<step>`; `fim_ids` are prefix, suffix, middle, EOT."""

    tokens: list[str]
    scores: list[float]
    types: list[int]
    step_id: int | None
    fim_ids: tuple[int, int, int, int] | None


def read_vocabulary(folder: Path, config: LlamaConfig) -> TokenTable:
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
    fault = unusable([str(token) for token in table.tokens], table.types)
    if fault:
        raise CheckpointError(f"{folder}: {fault}")
    step_id = table.tokens.index(STEP) if STEP in table.tokens else None
    if step_id is not None:
        table.types[step_id] = TokenType.CONTROL
    fim = tuple(FIM_PIECES) if _infills(table.tokens, config) else None
    return TokenTable(
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
        pieces = read_pieces(model, vocab_size)
        self.n_pieces = len(pieces.texts)
        unnamed = vocab_size - self.n_pieces
        self.tokens: list[str | None] = [*pieces.texts, *[None] * unnamed]
        self.scores: list[float] = [*pieces.scores, *[0.0] * unnamed]
        self.types: list[TokenType] = [
            *map(_token_type, pieces.types),
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
                raise CheckpointError(f"{path}: {shown(token)} has id {shown(token_id)}")
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


def _token_type(kind: TokenType) -> TokenType:
    """llama.cpp's converter knows no user-defined pieces, they are normal ones."""
    return TokenType.NORMAL if kind is TokenType.USER_DEFINED else kind


def _decoder_entry(path: Path, number: str, entry: object) -> tuple[int, str, bool]:
    content = entry.get("content") if isinstance(entry, Mapping) else None
    special = entry.get("special", False) if isinstance(entry, Mapping) else None
    known = isinstance(content, str) and isinstance(special, bool)
    if not known or not _ID.fullmatch(number):
        raise CheckpointError(f"{path}: entry {shown(number)} of added_tokens_decoder is malformed")
    return int(number), str(content), bool(special)


def _looks_special(token: str) -> bool:
    """Tokens that llama.cpp's converter takes for control tokens whatever their flag says."""
    return token == "<pad>" or (token.startswith("<|") and token.endswith("|>"))
