"""What OpenAI's requests mean: messages, response formats, log probabilities, seeds.

One reading of them for the HTTP server, for `llama_cpp.Llama`'s calls and for the handler for plain
llama-cpp-python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codellama.compat.tools import calls_of, result_of
from codellama.errors import ChatFormatError, InvalidRequestError
from codellama.params import RANDOM_SEED, Message

_EMPTY: tuple[Any, ...] = (None, "", [], {})
UNREAD = ("name", "reasoning_content", "reasoning", "refusal", "annotations")
"""What messages may say beside their text, and these models have no place for: it is left out."""
_UNUSED_MESSAGE_FIELDS = ("audio",)  # accepted when it says nothing

_CALLS = ("tool_calls", "tool_call_id", "function_call")
_ROLES = {"developer": "system", "function": "tool"}


def text_messages(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """OpenAI's messages as plain ones: text parts joined by newlines, `developer` read as `system`.

    Messages of the older role `function` are read as results of the call before them.

    Raises ChatFormatError for what is not text; whether the roles make sense is the chat format's
    business.
    """
    if isinstance(messages, (str, bytes, Mapping)):
        raise ChatFormatError("{param} must be a list of objects with role and content")
    return [_text_message(i, message) for i, message in enumerate(messages)]


def response_schema(response_format: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The JSON schema that a `response_format` asks for; None for plain text."""
    if response_format is None:
        return None
    match response_format.get("type"):
        case "text":
            return None
        case "json_object":
            schema = response_format.get("schema")
        case "json_schema":
            wrapper = response_format.get("json_schema")
            schema = wrapper.get("schema") if isinstance(wrapper, Mapping) else None
            if schema is None:
                raise InvalidRequestError(
                    "{param} of type json_schema needs json_schema.schema",
                    "response_format",
                )
        case kind:
            raise InvalidRequestError(
                "{param}.type must be text, json_object or json_schema; got {kind!r}",
                "response_format",
                kind=kind,
            )
    return object_schema(schema, "response_format")


def object_schema(schema: Any, param: str) -> Mapping[str, Any]:
    """`schema` checked to be an object; absent or empty means any JSON object."""
    if schema is not None and not isinstance(schema, Mapping):
        raise InvalidRequestError("{param}: the schema must be a JSON object", param)
    return schema or {"type": "object"}


def seed_or_random(seed: int | None) -> int | None:
    """The seed; None (random) for llama.cpp's two spellings of it, -1 and 2**32 - 1."""
    return None if seed in (-1, RANDOM_SEED) else seed


def chat_logprobs_count(logprobs: bool | None, top_logprobs: int | None) -> int | None:
    """`SamplingParams.logprobs` for the chat dialect's two parameters."""
    if logprobs:
        return top_logprobs or 0
    if top_logprobs:
        raise InvalidRequestError("{param} needs logprobs set to true", "top_logprobs")
    return None


def _text_message(index: int, message: Any) -> Message:
    if not isinstance(message, Mapping):
        raise ChatFormatError("{param}[{i}] must be an object with role and content", i=index)
    _check_fields(index, message)
    role = message.get("role")
    if not isinstance(role, str):
        raise ChatFormatError("{param}[{i}].role must be system, user or assistant", i=index)
    calls, called = calls_of(index, message), result_of(index, message)
    content = message.get("content")
    text = Message(
        role=_ROLES.get(role, role),
        content="" if calls and content is None else _text_content(index, content),
    )
    if calls:
        text["tool_calls"] = calls
    if called is not None:
        text["tool_call_id"] = called
    destination = message.get("destination")
    if destination is not None:
        if not isinstance(destination, str):
            raise ChatFormatError("{param}[{i}].destination must be a string", i=index)
        text["destination"] = destination
    return text


def _check_fields(index: int, message: Mapping[str, Any]) -> None:
    for name, value in message.items():
        if name in ("role", "content", "destination", *UNREAD, *_CALLS):
            continue
        if name not in _UNUSED_MESSAGE_FIELDS:
            raise ChatFormatError("{param}[{i}] has an unknown field {name!r}", i=index, name=name)
        if value not in _EMPTY:
            raise ChatFormatError(
                "{param}[{i}].{name} is not supported: the model only reads text",
                i=index,
                name=name,
            )


def _text_content(index: int, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ChatFormatError(
            "{param}[{i}].content must be a string or a list of text parts", i=index
        )
    texts = []
    for k, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ChatFormatError(
                "{param}[{i}].content[{k}] must be a part of type text: the model only reads text",
                i=index,
                k=k,
            )
        texts.append(part["text"])
    return "\n".join(texts)
