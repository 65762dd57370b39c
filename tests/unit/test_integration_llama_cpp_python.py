"""The chat handler over a stand-in for `llama_cpp.Llama`: what it renders, asks for and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from llama_cpp import llama_chat_format

from codellama.compat.tool_replies import Calls
from codellama.errors import DecodeError, GrammarError, InvalidRequestError
from codellama.integrations import llama_cpp_python as integration
from codellama.integrations.llama_cpp_python import NAME, CodeLlama70BInstructHandler, register
from codellama.integrations.schema_processor import Schemas

Json = dict[str, Any]


@pytest.fixture
def clean_registry() -> Iterator[Any]:
    registry: Any = llama_chat_format.LlamaChatCompletionHandlerRegistry
    registry = registry()
    before = dict(registry._chat_handlers)
    registry._chat_handlers.pop(NAME, None)
    yield registry
    registry._chat_handlers.clear()
    registry._chat_handlers.update(before)


def test_nothing_is_registered_until_asked_for(clean_registry: Any) -> None:
    assert NAME not in clean_registry._chat_handlers
    register()
    handler = clean_registry.get_chat_completion_handler_by_name(NAME)
    assert isinstance(handler, CodeLlama70BInstructHandler)


def test_a_second_registration_has_to_be_meant(clean_registry: Any) -> None:
    register()
    with pytest.raises(ValueError, match="already registered"):
        register()
    register(overwrite=True)


def test_step_becomes_the_end_of_generation() -> None:
    scores = np.array([0.0, 1.0, 2.0, 5.0], dtype=np.single)
    assert list(integration._EndOfTurn(step=3, eos=2)([], scores)) == [0.0, 1.0, 5.0, -np.inf]


def test_a_likelier_eos_stays_as_it_is() -> None:
    scores = np.array([0.0, 9.0, 5.0], dtype=np.single)
    assert list(integration._EndOfTurn(step=2, eos=1)([], scores)) == [0.0, 9.0, -np.inf]


def test_a_bias_is_added() -> None:
    scores = np.zeros(4, dtype=np.single)
    assert list(integration._Bias({1: 2.0, 3: -1.0})([], scores)) == [0.0, 2.0, 0.0, -1.0]


class Spelled:
    """A model whose tokens are single characters, the last two of them ends."""

    n_vocab = 130
    eos = 128

    def pieces(self) -> list[bytes]:
        return [bytes([i]) for i in range(128)] + [b"", b""]


def test_what_does_not_fit_a_schema_is_banned() -> None:
    schemas = Schemas(cast(Any, Spelled()), step=129)
    follows = schemas.processor({"enum": ["a", "b"]}, n_prompt=2)
    ids, left = [1, 1], []
    for token in (*b'"a"', 129):
        scores = follows(ids, np.zeros(130, dtype=np.single))
        left.append(np.flatnonzero(np.isfinite(scores)).tolist())
        ids.append(token)
    assert left == [[ord('"')], [ord("a"), ord("b")], [ord('"')], [128, 129]]
    follows.check()


def test_an_answer_that_cannot_go_on_ends_and_says_so() -> None:
    follows = Schemas(cast(Any, Spelled()), step=129).processor({"const": "a"}, n_prompt=0)
    scores = np.full(130, -np.inf, dtype=np.single)
    scores[5] = 1
    assert np.flatnonzero(np.isfinite(follows([], scores))).tolist() == [128]
    with pytest.raises(DecodeError, match="no token fits response_format or tools"):
        follows.check()


@pytest.mark.parametrize(
    ("response_format", "message"),
    [
        ({"type": "yaml"}, r"response_format\.type .* got 'yaml'"),
        ({"type": "json_schema"}, r"response_format of type json_schema needs"),
        ({"type": "json_object"}, r"response_format and grammar exclude each other"),
    ],
)
def test_response_formats_that_mean_nothing(response_format: Json, message: str) -> None:
    handler = integration.CodeLlama70BInstructHandler()
    with pytest.raises(InvalidRequestError, match=message):
        handler(
            llama=cast(Any, None),
            messages=[],
            response_format=response_format,
            grammar=cast(Any, "a grammar"),
        )


def test_a_schema_that_cannot_be_enforced_is_named() -> None:
    with pytest.raises(GrammarError, match=r"response_format: at #/type: unknown type 'objekt'"):
        Schemas(cast(Any, Spelled()), step=129).processor({"type": "objekt"}, n_prompt=0)


def completion(text: str, finish_reason: str | None, logprobs: Json | None = None) -> Json:
    """What `Llama.create_completion` returns or yields."""
    choice = {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": finish_reason}
    return {"id": "cmpl-1", "created": 5, "model": "m", "choices": [choice], "usage": {"n": 1}}


LOGPROBS = {"tokens": ["é"], "token_logprobs": [-0.5], "top_logprobs": [{"é": -0.5}]}
CHAT_LOGPROBS = {
    "content": [
        {
            "token": "é",
            "bytes": [195, 169],
            "logprob": -0.5,
            "top_logprobs": [{"token": "é", "bytes": [195, 169], "logprob": -0.5}],
        }
    ],
    "refusal": None,
}


def test_a_completion_becomes_a_chat_completion() -> None:
    reply = integration._chat_completion(completion("  hi", "stop", LOGPROBS), True, Calls())
    assert reply == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": " hi"},
                "logprobs": CHAT_LOGPROBS,
                "finish_reason": "stop",
            }
        ],
        "usage": {"n": 1},
    }


def test_a_stream_is_role_then_text_then_end() -> None:
    parts = [completion("", None), completion(" ", None), completion(" hi", None)]
    stream = iter([*parts, completion("", "stop")])
    choices = [chunk["choices"][0] for chunk in integration._chat_chunks(stream, True, Calls())]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant"},
        {"content": " hi"},  # only the first space of the answer is SentencePiece's
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
