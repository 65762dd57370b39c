"""The vocabulary of a checkpoint as a GGUF wants it: tokenizer.model or tokenizer.json, and added tokens.

Text, score and type of every token are what llama.cpp's converter would write from tokenizer.model, with
three exceptions that make a file right in every program: `<step>` is always CONTROL, infill pieces keep
their text, and every id has a name, or is a row that only pads the embedding.

Without tokenizer.model the pieces come from tokenizer.json (see `files.tokenizer_json`), and the result is
the same. Where both are there they must agree.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import CheckpointError
from codellama.files.loadable import unusable
from codellama.files.sentencepiece_model import Pieces, TokenType, read_pieces
from codellama.files.small_files import read_json, shown
from codellama.files.tokenizer_json import TokenizerJson, llama_pieces, read_tokenizer_json
from codellama.variants import FIM_PIECES, SHAPES, STEP, padding
from codellama.weights.config import LlamaConfig

ADDED_SCORE = -1000.0
"""The score llama.cpp's converter gives to added tokens."""

PADDING_SCORE = -10000.0
"""The score it gives to rows of the embedding that no token names."""

_MULTIPLES = [2**power for power in range(3, 13)]
"""What training frameworks pad the rows of an embedding to: powers of two, 64 most often."""

logger = logging.getLogger(__name__)

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
        CheckpointError: there is neither tokenizer.model nor tokenizer.json, one is unreadable, they
            contradict each other, or they do not match `vocab_size`; the files of added tokens are not
            what they should be.
    """
    model, path = folder / "tokenizer.model", folder / "tokenizer.json"
    tokenizer = read_tokenizer_json(path) if path.is_file() else None
    if model.is_file():
        table = _Table(model, read_pieces(model, config.vocab_size), config.vocab_size)
    elif tokenizer is not None:
        table = _Table(path, llama_pieces(tokenizer, config.vocab_size), config.vocab_size)
    else:
        raise CheckpointError(
            f"{model}: missing, and there is no tokenizer.json either: the vocabulary is read from one "
            "of them; take it from the original repository"
        )
    added = folder / "added_tokens.json"
    if added.is_file():
        table.add_tokens(added)
    tokenizer_config = folder / "tokenizer_config.json"
    if tokenizer_config.is_file():
        table.add_decoder(tokenizer_config)
    if tokenizer is not None:
        table.compare(tokenizer)
    table.finish()
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
    """Rows of the vocabulary while they are collected; a token of None has no name yet.

    `names` are the texts as the files have them, `beyond` those of ids that have no row.
    """

    def __init__(self, path: Path, pieces: Pieces, vocab_size: int) -> None:
        self.path = path
        self.n_pieces = len(pieces.texts)
        unnamed = vocab_size - self.n_pieces
        self.tokens: list[str | None] = [*pieces.texts, *[None] * unnamed]
        self.names = list(self.tokens)
        self.beyond: dict[int, str] = {}
        self.scores: list[float] = [*pieces.scores, *[PADDING_SCORE] * unnamed]
        self.types: list[TokenType] = [
            *map(_token_type, pieces.types),
            *[TokenType.UNUSED] * unnamed,
        ]

    def _set(self, token_id: int, name: str, kind: TokenType, token: str | None = None) -> None:
        if token_id >= len(self.tokens):
            self.beyond[token_id] = name  # nothing can emit it
            return
        self.names[token_id] = name
        self.tokens[token_id] = name if token is None else token
        self.scores[token_id] = ADDED_SCORE
        self.types[token_id] = kind

    def _add(self, token_id: int, token: str, *, special: bool) -> None:
        # Rewritten with a space, as other added tokens are, llama.cpp would not know it again.
        if not special and FIM_PIECES.get(token_id) == token:
            return
        if special or _looks_special(token):
            self._set(token_id, token, TokenType.CONTROL)
        else:
            self._set(token_id, token, TokenType.USER_DEFINED, token.replace("▁", " "))

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
            self._add(token_id, token, special=special)

    def compare(self, tokenizer: TokenizerJson) -> None:
        """Take the names that only tokenizer.json has.

        A piece that it lacks is said and no error: the pieces here are all that the embedding has rows for.

        Raises:
            CheckpointError: it has another text for an id.
        """
        for token_id, name in enumerate(self.names):
            theirs = tokenizer.name(token_id)
            if name is not None and theirs not in (None, name):
                raise CheckpointError(
                    f"{self.path}: token {token_id} is {shown(name)} here and in the files of added "
                    f"tokens, and in {tokenizer.path.name} it is {shown(theirs)}: they belong to different "
                    "models; take all of them from the repository that the weights come from"
                )
        lacks = [i for i in range(self.n_pieces) if tokenizer.name(i) is None]
        if lacks:
            logger.warning(
                "%s: it lacks %d of the pieces in %s, the first is token %d, %s",
                *(
                    tokenizer.path,
                    len(lacks),
                    self.path.name,
                    lacks[0],
                    shown(self.names[lacks[0]]),
                ),
            )
        for token_id, added in tokenizer.added.items():
            if token_id >= len(self.names) or self.names[token_id] is None:
                self._add(token_id, added.text, special=added.special)

    def finish(self) -> None:
        """Name the rows that only pad the embedding; every other id needs a name.

        Raises:
            CheckpointError: one has none.
        """
        for token_id, token in sorted(self.beyond.items()):
            logger.warning(
                "%s: token %d, %s, is left out: the embedding has %d rows",
                *(self.path.parent, token_id, shown(token), len(self.tokens)),
            )
        if None not in self.tokens:
            return
        first, size = self.tokens.index(None), len(self.tokens)
        pads = not any(self.tokens[first:])
        if not (pads and any(-(-first // multiple) * multiple == size for multiple in _MULTIPLES)):
            raise CheckpointError(
                f"{self.path}: {self.n_pieces} pieces, but vocab_size in config.json is {size} and no "
                f"added token names id {first}: name it in added_tokens.json, or take the files of the "
                "tokenizer from where the weights come from"
            )
        for token_id in range(first, size):
            self.tokens[token_id] = padding(token_id)
        logger.warning(
            "%s: no token names the rows from %d to %d, which only pad the embedding",
            *(self.path.parent, first, size - 1),
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
