"""The error table: every class of the package has its status, type and body."""

from __future__ import annotations

import pytest

from codellama import errors
from codellama.protocol.errors import advice, error_body, plain_body

CASES: list[tuple[BaseException, int, str, str | None]] = [
    (errors.InvalidRequestError("no", "stop"), 400, "invalid_request_error", "stop"),
    (errors.ChatFormatError("no"), 400, "invalid_request_error", "messages"),
    (errors.GrammarError("no"), 400, "invalid_request_error", "grammar"),
    (errors.ContextLengthError(9, 8), 400, "exceed_context_size_error", "prompt"),
    (errors.UnsupportedError("no"), 501, "not_supported_error", None),
    (errors.QueueFullError("no"), 503, "unavailable_error", None),
    (errors.EngineDeadError("no"), 503, "unavailable_error", None),
    (errors.DecodeError("no"), 500, "server_error", None),
    (errors.ModelLoadError("no"), 500, "server_error", None),
]


@pytest.mark.parametrize(("error", "status", "kind", "param"), CASES)
def test_table(error: BaseException, status: int, kind: str, param: str | None) -> None:
    got, body = error_body(error)
    assert got == status
    code = "context_length_exceeded" if kind == "exceed_context_size_error" else status
    expected = {"code": code, "message": str(error), "type": kind, "param": param}
    assert expected.items() <= body["error"].items()


def test_context_length_carries_both_numbers() -> None:
    body = error_body(errors.ContextLengthError(9, 8))[1]["error"]
    assert (body["n_prompt_tokens"], body["n_ctx"]) == (9, 8)


def test_clients_recognise_a_prompt_that_is_too_long() -> None:
    """By what litellm 1.110 (and aider, which uses it) and langchain-openai 1.7 look for in an error."""
    error = error_body(errors.ContextLengthError(9, 8))[1]["error"]
    assert "exceeds the available context size" in error["message"]  # litellm
    assert (
        "prompt is too long" in error["message"]
    )  # LangChain, which sees no more than the message
    assert error["code"] == "context_length_exceeded"  # OpenAI


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 501])
def test_what_no_repetition_helps_is_not_tried_again(status: int) -> None:
    assert advice(status) == {"x-should-retry": "false"}


@pytest.mark.parametrize("status", [500, 503])
def test_what_may_pass_may_be_tried_again(status: int) -> None:
    assert advice(status) == {}


def test_the_unforeseen_keeps_its_details() -> None:
    status, body = error_body(RuntimeError("password is hunter2"))
    assert status == 500
    assert body == plain_body(500, "internal error", "server_error")


def test_half_a_surrogate_pair_is_the_clients_mistake() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "\ud800".encode()
    status, body = error_body(caught.value)
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    assert "not valid Unicode" in body["error"]["message"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "invalid_request_error"),
        (503, "unavailable_error"),
    ],
)
def test_plain_body(status: int, kind: str) -> None:
    assert plain_body(status, "m") == {
        "error": {"code": status, "message": "m", "type": kind, "param": None}
    }
