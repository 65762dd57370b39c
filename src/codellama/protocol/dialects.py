"""What a dialect writes in its own way on all its routes: the shape of errors, and the framing of streams.

An error is first put in OpenAI's body with llama-server's values (see `codellama.protocol.errors`); a
dialect may write that body otherwise. Which dialect a route speaks follows from its path, so that a wrong
key, a wrong method or a path that does not exist are answered in the same shape.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from codellama.protocol.errors import Json, error_body, plain_body


class Framing(enum.Enum):
    """How the events of a stream follow one another."""

    DATA = "data"
    """Server-sent events that have no name."""
    NAMED = "named"
    """Server-sent events named as their `type` says."""
    LINES = "lines"
    """One JSON value per line."""


@dataclass(frozen=True)
class Dialect:
    """One way of speaking HTTP. `shaped` writes OpenAI's error body in the dialect's shape.

    Where `numbered`, each event of a stream has a `sequence_number`.
    """

    framing: Framing
    shaped: Callable[[Json], Json]
    numbered: bool = False

    def error_body(self, error: BaseException) -> tuple[int, Json]:
        """Status and body for an error."""
        status, body = error_body(error)
        return status, self.shaped(body)

    def plain_body(self, status: int, message: str) -> Json:
        """The body for an error that has no class of its own."""
        return self.shaped(plain_body(status, message))

    def last_event(self, body: Json, sent: int) -> Json:
        """The event that ends a stream of `sent` events with the `body` of an error, without its renderer."""
        if not self.numbered:
            return body
        error = body["error"]
        plain = {"code": error["type"], "message": error["message"], "param": error["param"]}
        return {"type": "error", "sequence_number": sent, **plain}


ANTHROPIC_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    500: "api_error",
    503: "overloaded_error",
}
"""Anthropic's names (https://docs.anthropic.com/en/api/errors); any other status is the request's fault."""


def _as_it_is(body: Json) -> Json:
    return body


def _anthropic(body: Json) -> Json:
    error: dict[str, Any] = body["error"]
    message = error["message"]
    if "n_prompt_tokens" in error:
        # The words by which clients know that the prompt is what has to become shorter.
        counts = f"{error['n_prompt_tokens']} tokens > {error['n_ctx']} maximum"
        message = f"prompt is too long: {counts}; {message}"
    kind = ANTHROPIC_TYPES.get(error["code"], "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def _ollama(body: Json) -> Json:
    return {"error": body["error"]["message"]}


OPENAI = Dialect(Framing.DATA, _as_it_is)
RESPONSES = Dialect(Framing.NAMED, _as_it_is, numbered=True)
ANTHROPIC = Dialect(Framing.NAMED, _anthropic)
OLLAMA = Dialect(Framing.LINES, _ollama)


def dialect_of(path: str) -> Dialect:
    """The dialect of the route at `path`, or of the one that was meant."""
    if f"{path}/".startswith("/api/"):
        return OLLAMA
    if f"{path}/".startswith("/v1/messages/"):
        return ANTHROPIC
    if f"{path}/".startswith(("/v1/responses/", "/responses/")):
        return RESPONSES
    return OPENAI
