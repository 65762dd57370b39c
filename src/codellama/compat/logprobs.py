"""Log probabilities as OpenAI and llama-server write them, and which of them belong to a text.

An answer that a stop string cut has fewer: those of the tokens that have some of its text. While it is being
streamed, a token's come with its text, not before.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from codellama.engine.batch import TokenLogprob
from codellama.running.collected import Collected

Piece = Callable[[int], bytes]
"""Token id to its bytes, as `Tokenizer.piece`."""

LOWEST_LOGPROB = (
    -9999.0
)  # what OpenAI reports for a token that could not be drawn; JSON has no -inf


@dataclass
class Shown:
    """The log probabilities of one answer whose text has been shown."""

    piece: Piece
    waiting: list[tuple[int, TokenLogprob]] = field(default_factory=list)
    _raw: str = ""
    _dropped: int | None = None
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def take(self, answer: Collected, new: Iterable[TokenLogprob]) -> list[TokenLogprob]:
        """Those that can be shown with the text of `answer` as it is with `new` ones taken in."""
        for entry in new:
            self.waiting.append((len(self._raw), entry))
            self._raw += self._decoder.decode(self.piece(entry.token))
        if self._dropped is None and answer.text:  # a chat's answer loses the space it begins with
            self._dropped = 0 if self._raw.startswith(answer.text) else 1
        cut = isinstance(answer.stop, str)
        if answer.finish_reason is not None and not cut:
            n = len(self.waiting)
        else:
            end = len(answer.text) + (self._dropped or 0)
            n = sum(start < end for start, _ in self.waiting)
        ready, self.waiting = self.waiting[:n], [] if cut else self.waiting[n:]
        return [entry for _, entry in ready]


def shown_logprobs(answer: Collected, piece: Piece) -> list[TokenLogprob]:
    """Those of a whole answer."""
    return Shown(piece).take(answer, answer.logprobs)


def legacy_logprobs(logprobs: Iterable[TokenLogprob], piece: Piece, offset: int) -> dict[str, Any]:
    """The logprobs object of `/v1/completions`; `offset` is where the first token's text begins."""
    body: dict[str, Any] = {
        "text_offset": [],
        "token_logprobs": [],
        "tokens": [],
        "top_logprobs": [],
    }
    for entry in logprobs:
        raw = piece(entry.token)
        token = _legacy_token(raw)
        inside = _continues(raw[:1])  # of a character that began in a token before
        body["text_offset"].append(max(0, offset - inside))
        body["tokens"].append(token)
        if math.isnan(entry.logprob):  # nothing comes before it
            body["token_logprobs"].append(None)
            body["top_logprobs"].append(None)
        else:
            top = {_legacy_token(piece(i)): finite(value) for i, value in entry.top}
            top.setdefault(token, finite(entry.logprob))
            body["token_logprobs"].append(finite(entry.logprob))
            body["top_logprobs"].append(top)
        offset += text_length([entry], piece)
    return body


def chat_logprobs(
    logprobs: Iterable[TokenLogprob], piece: Piece, ids: bool = False, plain: bool = False
) -> dict[str, Any]:
    """The logprobs object of `/v1/chat/completions`; `ids` adds each token's id, for `plain` see
    `entry_json`."""
    content = [entry_json(entry, piece, ids, plain) for entry in logprobs]
    return {"content": content, "refusal": None}


def entry_json(entry: TokenLogprob, piece: Piece, ids: bool, plain: bool) -> dict[str, Any]:
    """A token and its alternatives. With `plain` they have probabilities, not their logarithms, as
    llama-server writes what was drawn with."""
    top = [token_json(i, value, piece, ids, plain) for i, value in entry.top]
    own = token_json(entry.token, entry.logprob, piece, ids, plain)
    return own | {"top_probs" if plain else "top_logprobs": top}


def token_json(
    token: int, logprob: float, piece: Piece, ids: bool, plain: bool = False
) -> dict[str, Any]:
    """One token with its text, bytes and natural-log probability, or its `plain` one."""
    raw = piece(token)
    body: dict[str, Any] = {"id": token} if ids else {}
    value = {"prob": math.exp(logprob)} if plain else {"logprob": finite(logprob)}
    return body | {"token": raw.decode("utf-8", "replace"), "bytes": list(raw), **value}


def finite(logprob: float) -> float:
    """A log probability that JSON can hold."""
    return max(logprob, LOWEST_LOGPROB) if not math.isnan(logprob) else LOWEST_LOGPROB


def _legacy_token(raw: bytes) -> str:
    """A token as text; half a character is spelled `bytes:\\xe2\\x80`, as OpenAI does."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def text_length(logprobs: Iterable[TokenLogprob], piece: Piece) -> int:
    """Characters that begin in these tokens; one may end in the next."""
    text = b"".join(piece(entry.token) for entry in logprobs)
    return len(text) - _continues(text)


def _continues(raw: bytes) -> int:
    """How many bytes continue a UTF-8 character."""
    return sum(byte & 0xC0 == 0x80 for byte in raw)
