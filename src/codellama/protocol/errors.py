"""Errors as clients see them: one table from error class to HTTP status and type name, one body.

The body is OpenAI's (`message`, `type`, `param`, `code`) with llama-server's values: `type` is one of
its names and `code` repeats the HTTP status. A prompt that does not fit has OpenAI's code and carries
`n_prompt_tokens` and `n_ctx`. Both dialects get the same; others write it in their own shape (see
`dialects`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codellama.errors import (
    CodeLlamaError,
    ContextLengthError,
    EngineDeadError,
    InvalidRequestError,
    QueueFullError,
    UnsupportedError,
    half_a_pair,
)

Json = dict[str, Any]

INTERNAL = (500, "server_error")

CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
"""OpenAI's code, by which clients know that a shorter prompt would do."""

TABLE: tuple[tuple[type[CodeLlamaError], tuple[int, str]], ...] = (
    (ContextLengthError, (400, "exceed_context_size_error")),
    (InvalidRequestError, (400, "invalid_request_error")),
    (UnsupportedError, (501, "not_supported_error")),
    (QueueFullError, (503, "unavailable_error")),
    (EngineDeadError, (503, "unavailable_error")),
    (CodeLlamaError, INTERNAL),
)
"""The first row whose class fits counts; llama-server's names (server-common.cpp)."""

STATUS_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


def status_and_type(error: BaseException) -> tuple[int, str]:
    """HTTP status and type name of an error; anything unforeseen is a 500.

    Half a surrogate pair in a JSON string is the only text that cannot be encoded: the client's.
    """
    if isinstance(error, UnicodeEncodeError):
        return 400, "invalid_request_error"
    return next((row for kind, row in TABLE if isinstance(error, kind)), INTERNAL)


def error_body(error: BaseException) -> tuple[int, Json]:
    """Status and body for an error. What was not foreseen tells the client no details."""
    status, kind = status_and_type(error)
    message = str(error) if isinstance(error, CodeLlamaError) else "internal error"
    if isinstance(error, UnicodeEncodeError):
        message = "the request holds text that is not valid Unicode (half a surrogate pair)"
    body = plain_body(status, message, kind, getattr(error, "param", None))
    if isinstance(error, ContextLengthError):
        numbers = {"n_prompt_tokens": error.n_prompt, "n_ctx": error.n_ctx}
        body["error"] |= {"code": CONTEXT_LENGTH_EXCEEDED, **numbers}
    return status, body


def advice(status: int) -> dict[str, str]:
    """Response headers that tell OpenAI's clients, which try 501 again, what no repetition helps."""
    hopeless = 400 <= status < 500 or status == 501
    return {"x-should-retry": "false"} if hopeless else {}


def plain_body(
    status: int, message: str, kind: str | None = None, param: str | None = None
) -> Json:
    """The body for an error that has no class of its own, such as a wrong path."""
    kind = kind or STATUS_TYPES.get(status, "invalid_request_error")
    return {"error": {"code": status, "message": message, "type": kind, "param": param}}


def validation_error(errors: Sequence[Mapping[str, Any]]) -> InvalidRequestError:
    """The first of pydantic's errors (`ValidationError.errors()`) in one sentence.

    An InvalidRequestError raised inside a validator is returned as it is.
    """
    first = errors[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InvalidRequestError):
        return cause
    if first["type"] == "json_invalid":
        return InvalidRequestError(
            "the body is not valid JSON: {cause} (character {at})", cause=cause, at=first["loc"][-1]
        )
    names = [str(part) for part in first["loc"] if part != "body"]
    param = names[0] if names else None
    if param is None:
        return InvalidRequestError("the body must be a JSON object")
    if first["type"] == "missing":
        return InvalidRequestError("{param} is required", param)
    if any(e["type"] == "string_unicode" and param in e["loc"] for e in errors):
        return half_a_pair(param)
    return InvalidRequestError("{param}: {reason}", param, reason=_reason(errors, param))


def unknown_parameter(name: str, known: Iterable[str]) -> InvalidRequestError:
    """The error for a field that no dialect has."""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return InvalidRequestError("unknown parameter {param!r}{hint}", name, hint=hint)


def _reason(errors: Sequence[Mapping[str, Any]], param: str) -> str:
    """Why a field does not fit: all alternatives of its type, as pydantic words them."""
    messages = [e["msg"] for e in errors if param in [str(part) for part in e["loc"]]]
    words = [m.removeprefix("Input should be ") for m in dict.fromkeys(messages)]
    if all(m.startswith("Input should be ") for m in messages):
        return "must be " + " or ".join(words)
    return "; ".join(messages)
