"""OpenAI's Responses: the body of `/v1/responses`, and of `/v1/responses/input_tokens`.

Shapes: https://platform.openai.com/docs/api-reference/responses. No response is kept, so an earlier one
cannot be gone on from by its id: `previous_response_id` and items that only refer to others are refused.
Items of one role that follow one another are one turn. What other models thought is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from codellama.compat.logprobs import Shown
from codellama.errors import ChatFormatError, InvalidRequestError
from codellama.protocol import limits
from codellama.protocol.errors import Json
from codellama.protocol.functions import NAMED, call_json, choice_json, function_json
from codellama.protocol.known import IGNORED
from codellama.protocol.responses_items import Items
from codellama.protocol.responses_reply import ResponseReply
from codellama.protocol.tolerance import note_ignored
from codellama.protocol.translated import Extras, TranslatedChat
from codellama.protocol.turns import Turns, content_text
from codellama.running.tool_calls import AnswerReader

if TYPE_CHECKING:
    from codellama.running.completion import Completion
    from codellama.running.language_model import LanguageModel

LOGPROBS = "message.output_text.logprobs"
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}


class ResponsesChat(TranslatedChat):
    """A chat that was asked for as a response."""

    parameters_place = "tools[{name}].parameters"  # some of the client's tools are left out
    renamed = {
        "max_tokens": "max_output_tokens",
        "response_format": "text",
        "context_policy": "truncation",
    }

    _asked: Json = PrivateAttr()

    def reply(self, llm: LanguageModel, completions: Sequence[Completion]) -> ResponseReply:  # type: ignore[override]
        """What turns the answer into a response or its events."""
        completion = completions[0]
        return ResponseReply(
            id=completion.id,
            created=completion.created,
            model=llm.name,
            shown=Shown(llm.tokenizer.piece),
            params=completion.params,
            asked=self._asked | self.dropped_json(completion.prompt),
            reader=AnswerReader.of(completion.prompt, completion.params),
            items=Items(completion.id),
            timed=self.timings_per_token,
            progress=self.return_progress,
        )


class ResponsesRequest(Extras):
    """The body of `/v1/responses`."""

    no_effect = frozenset(
        {
            *("model", "user", "store", "service_tier", "safety_identifier", "stream_options"),
            *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
        }
    )
    ignored = {
        **IGNORED,
        "verbose": (False,),
        "reasoning": ({},),
        "max_tool_calls": (),
        "prompt_cache_diagnostics": (),
    }
    neutral = {
        "background": (False,),
        "conversation": (),
        "prompt": (),
        "moderation": (),
        "context_management": ([],),
    }

    input: str | Annotated[list[Any], Field(max_length=limits.MESSAGES)]
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool = False
    timings_per_token: bool = False
    return_progress: bool = False
    text: dict[str, Any] = Field(default_factory=dict)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: list[str] = Field(default_factory=list)
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    tools: list[Any] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None

    def chat(self) -> ResponsesChat:
        """What the body asks for. Raises InvalidRequestError."""
        if self.previous_response_id:
            raise InvalidRequestError(
                "{param}: no responses are kept here", "previous_response_id",
                "send the items so far in input",
            )  # fmt: skip
        logprobs = LOGPROBS in self.include or bool(self.top_logprobs)
        chat = ResponsesChat.of(
            self._turns(),
            self.given()
            | {
                "max_tokens": self.max_output_tokens,
                "stream": self.stream,
                "timings_per_token": self.timings_per_token,
                "return_progress": self.return_progress,
                "response_format": self._response_format(),
                "tools": self._functions() or None,
                "tool_choice": _choice(self.tool_choice),
                "parallel_tool_calls": self.parallel_tool_calls,
                "logprobs": logprobs or None,
                "top_logprobs": self.top_logprobs if logprobs else None,
            }
            | ({"context_policy": "drop_oldest"} if self.truncation == "auto" else {}),
        )
        chat._asked = self._echoed()
        return chat

    def _turns(self) -> Turns:
        turns = Turns("input")
        if self.instructions:
            turns.add({"role": "system", "content": self.instructions}, "instructions")
        items = self.input
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        for i, item in enumerate(items):
            for message in _messages(i, item):
                turns.add(message, i)
        return turns

    def _functions(self) -> list[Json]:
        """What is offered, in the form of OpenAI's chats; tools that OpenAI's servers run are left out."""
        functions = []
        for i, tool in enumerate(self.tools):
            if not isinstance(tool, Mapping) or not isinstance(tool.get("type"), str):
                raise InvalidRequestError(
                    "{param}[{i}] must be an object with a type", "tools", i=i
                )
            if tool["type"] == NAMED:
                given = (tool.get("name"), tool.get("description"), tool.get("parameters"))
                functions.append(function_json(*given))
            else:
                note_ignored(f"tools[{i}]")
        return functions

    def _response_format(self) -> Json | None:
        unknown = self.text.keys() - {"format", "verbosity"}
        if unknown:
            raise InvalidRequestError(
                "{param} has an unknown field {name!r:.80}", "text", name=min(unknown)
            )
        if self.text.get("verbosity") not in (None, "medium"):
            note_ignored("text.verbosity")
        wanted = self.text.get("format")
        if wanted is None:
            return None
        if not isinstance(wanted, Mapping):
            raise InvalidRequestError("{param}: a format must be an object", "text")
        if wanted.get("type") == "json_schema":
            return {"type": "json_schema", "json_schema": {"schema": wanted.get("schema")}}
        return {"type": wanted.get("type")}

    def _echoed(self) -> Json:
        """What a response repeats of its request."""
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata,
            "parallel_tool_calls": bool(self.parallel_tool_calls),
            "text": {"format": {"type": "text"}} | self.text,
            "tool_choice": self.tool_choice,
            "tools": self.tools,
            "top_logprobs": self.top_logprobs or 0,
            "truncation": self.truncation or "disabled",
        }


def _messages(index: int, item: Any) -> Iterator[Json]:
    """An item of the input as OpenAI's messages."""
    if not isinstance(item, Mapping):
        raise ChatFormatError("{param}[{i}] must be an object", "input", i=index)
    kind = item.get("type", "message")
    if kind == "reasoning":
        note_ignored(f"input[{index}]")
        return
    if kind == "function_call":
        call = call_json(item.get("call_id"), item.get("name"), item.get("arguments"))
        yield {"role": "assistant", "content": "", "tool_calls": [call]}
        return
    if kind == "function_call_output":
        output = content_text(item.get("output"), _TEXTS, f"[{index}].output", "input")
        yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": output}
        return
    if kind != "message":
        raise ChatFormatError(
            "{param}[{i}]: items of type {kind!r:.80} are not supported",
            "input",
            i=index,
            kind=kind,
        )
    unknown = item.keys() - {"type", "role", "content", "id", "status", "phase"}
    if unknown:
        raise ChatFormatError(
            "{param}[{i}] has an unknown field {name!r:.80}", "input", i=index, name=min(unknown)
        )
    role = item.get("role")
    if not isinstance(role, str):
        raise ChatFormatError(
            "{param}[{i}].role must be system, user or assistant", "input", i=index
        )
    content = content_text(item.get("content"), _TEXTS, f"[{index}].content", "input")
    yield {"role": "system" if role == "developer" else role, "content": content}


def _choice(choice: Any) -> Any:
    """A choice as OpenAI's chats make it."""
    match choice:
        case {"type": "function", "name": name}:
            return choice_json(name)
        case {"type": "allowed_tools", "mode": mode, "tools": [*tools]}:
            allowed = {"mode": mode, "tools": [_choice(tool) for tool in tools]}
            return {"type": "allowed_tools", "allowed_tools": allowed}
    return choice
