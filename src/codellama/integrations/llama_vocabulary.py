"""The vocabulary of a plain `llama_cpp.Llama`, which it does not keep alive."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import llama_cpp

_UNMERGED = "☺"
_LONGEST_PIECE = 1024  # bytes; a longer one cannot be written under a schema


class LlamaVocabulary:
    """The vocabulary of a `llama_cpp.Llama`, as the chat formats and constraints want it."""

    def __init__(self, llama: llama_cpp.Llama) -> None:
        self._llama = weakref.ref(llama)
        self.bos = llama.token_bos()
        self.eos = llama.token_eos()
        self.n_vocab = llama.n_vocab()
        # Asked for and not read from the metadata, which kv_overrides do not change.
        self.add_space_prefix = llama.detokenize(self.encode("a")).startswith(b" ")
        vocab = llama_cpp.llama_model_get_vocab(llama.model)
        texts = (llama_cpp.llama_vocab_get_text(vocab, i) for i in range(self.n_vocab))
        self._ids = {(text or b"").decode("utf-8", "replace"): i for i, text in enumerate(texts)}

    def encode(self, text: str, *, raw: bool = False) -> list[int]:
        """Token ids of plain text; `raw` without the space that the vocabulary puts before it."""
        if raw and self.add_space_prefix:
            # Behind a character that merges with nothing, whose own ids are dropped.
            lead = self.encode(_UNMERGED)
            return self.encode(_UNMERGED + text)[len(lead) :]
        data = text.encode("utf-8", "surrogatepass")
        return self._model().tokenize(data, add_bos=False, special=False)

    def token_id(self, text: str) -> int | None:
        """The id of a vocabulary entry."""
        return self._ids.get(text)

    def _model(self) -> llama_cpp.Llama:
        llama = self._llama()
        assert llama is not None, "the model is in use, so it is alive"
        return llama

    def pieces(self) -> list[bytes]:
        """What each token adds to a text; nothing where it is no text."""
        vocab = llama_cpp.llama_model_get_vocab(self._model().model)
        return [_piece(vocab, token) for token in range(self.n_vocab)]


def _piece(vocab: Any, token: int) -> bytes:
    buffer = ctypes.create_string_buffer(_LONGEST_PIECE)
    n = llama_cpp.llama_token_to_piece(vocab, token, buffer, _LONGEST_PIECE, 0, False)
    return buffer.raw[: max(0, n)]
