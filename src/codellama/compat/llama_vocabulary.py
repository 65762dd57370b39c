"""`llama_cpp.Llama`'s tokenizer and metadata: bytes and ids, and every value as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codellama.errors import InvalidRequestError
from codellama.running.language_model import TextTokenizer


class LlamaTokenizer:
    """What `llama_cpp.Llama.tokenizer()` returns, over a model's own vocabulary."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """Token ids of UTF-8 bytes; with `special` the names of control tokens in it become them.

        Raises InvalidRequestError for bytes that are not UTF-8.
        """
        try:
            plain = bytes(text).decode()
        except (UnicodeDecodeError, TypeError) as error:
            raise InvalidRequestError("{param} must be bytes in UTF-8", "text") from error
        return self._tokenizer.encode(plain, add_bos=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """The bytes of token ids; with `special` control tokens by their names.

        The space that a vocabulary puts before a text is left out behind BOS. `prev_tokens` changes nothing
        with these vocabularies, in llama_cpp neither. Raises InvalidRequestError for an unknown id.
        """
        pieces = [self._piece(token, special) for token in tokens]
        text = b"".join(pieces)
        return (
            text[1:] if tokens and tokens[0] == self._tokenizer.bos and text[:1] == b" " else text
        )

    def encode(self, text: str, add_bos: bool = True, special: bool = True) -> list[int]:
        """Token ids of a text."""
        return self.tokenize(text.encode("utf-8", "ignore"), add_bos, special)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids; bytes that are not UTF-8 are left out."""
        return self.detokenize(tokens).decode("utf-8", "ignore")

    def _piece(self, token: int, special: bool) -> bytes:
        piece = self._tokenizer.piece(token)
        return piece or (self._tokenizer.token_text(token).encode() if special else b"")


def metadata_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as llama.cpp tells it: all values as text, without lists."""
    return {
        key: _text(value) for key, value in metadata.items() if not isinstance(value, (list, tuple))
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6f}" if isinstance(value, float) else str(value)
