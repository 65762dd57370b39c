"""A model's tokens as llguidance sees them: bytes, and the ids that end an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llguidance import LLTokenizer, TokenizerWrapper


class TokenPieces(Protocol):
    """What a constraint needs to know of a model's vocabulary."""

    @property
    def n_vocab(self) -> int:
        """How many tokens there are."""

    @property
    def end_tokens(self) -> Sequence[int]:
        """The ids that end an answer, such as `</s>` and `<step>`; at least one."""

    def piece(self, token: int) -> bytes:
        """What the token adds to a text, with the blank that a `▁` stands for; bytes of a byte token."""

    def is_control(self, token: int) -> bool:
        """Whether the token is no text: `<s>`, `<unk>`, an unused one."""


class Tokens:
    """A vocabulary handed to llguidance once; takes up to a second and some 15 MB."""

    def __init__(self, vocabulary: TokenPieces) -> None:
        self.ends = frozenset(vocabulary.end_tokens)
        ids = range(vocabulary.n_vocab)
        special = [t for t in ids if t in self.ends or vocabulary.is_control(t)]
        names = {t: f"<[{t}]>".encode() for t in special}
        self.pieces = [names[t] if t in names else vocabulary.piece(t) for t in ids]
        wrapper = TokenizerWrapper(_Source(self.pieces, special, vocabulary.end_tokens[0]))
        self.native = LLTokenizer(
            wrapper,
            n_vocab=vocabulary.n_vocab,
            eos_token=list(vocabulary.end_tokens),
            slices=LLTokenizer.json_slices(),
        )


class _Source:
    """The attributes that `TokenizerWrapper` reads."""

    bos_token_id = None

    def __init__(self, pieces: list[bytes], special: list[int], end: int) -> None:
        self.tokens = pieces
        self.special_token_ids = special
        self.eos_token_id = end

    def __call__(self, text: bytes) -> list[int]:
        """Nothing: no text is ever cut into tokens here (see `rules.FREE_TOKENS`)."""
        return []


class Bytes:
    """The vocabulary whose tokens are the 256 bytes, and an end."""

    n_vocab = 257
    end_tokens = (256,)

    def piece(self, token: int) -> bytes:
        """The byte; nothing for the end."""
        return bytes((token,)) if token < 256 else b""

    def is_control(self, token: int) -> bool:
        """Whether the token is the end."""
        return token == 256
