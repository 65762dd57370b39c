"""Anthropic's dialect: the bodies of `/v1/messages` and `/v1/messages/count_tokens`.

Shapes as in https://docs.anthropic.com/en/api/messages; fields that ask for what this server cannot do are
treated as everywhere (see `fields`). Turns of one role that follow one another are one turn, as Anthropic
documents. What other models thought in earlier turns is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from codellama.errors import ChatFormatError, InvalidRequestError
from codellama.protocol import limits
from codellama.protocol.anthropic_reply import MessageReply
from codellama.protocol.errors import Json
from codellama.protocol.fields import Items, Text
from codellama.protocol.functions import call_json, choice_json, function_json
from codellama.protocol.known import FIGURES, IGNORED
from codellama.protocol.tolerance import note_ignored
from codellama.protocol.translated import Extras, TranslatedChat
from codellama.protocol.turns import Turns, content_text, joined, part_text
from codellama.running.tool_calls import AnswerReader

if TYPE_CHECKING:
    from codellama.running.completion import Completion
    from codellama.running.language_model import LanguageModel

_TEXT = {"text": "text"}


class MessagesChat(TranslatedChat):
    """A chat that was asked for in Anthropic's words."""

    parameters_place = "tools[{name}].input_schema"  # some of the client's tools are left out
    renamed = {"stop": "stop_sequences", "response_format": "output_config"}

    def reply(self, llm: LanguageModel, completions: Sequence[Completion]) -> MessageReply:  # type: ignore[override]
        """What turns the answer into a message or its events."""
        completion = completions[0]
        prompt = completion.prompt
        return MessageReply(
            id=completion.id,
            model=llm.name,
            n_prompt=len(prompt.tokens),
            reader=AnswerReader.of(prompt, completion.params),
            extra=self.dropped_json(prompt),
        )


class MessagesRequest(Extras):
    """The body of `/v1/messages`, and of `/v1/messages/count_tokens`."""

    no_effect = frozenset({"model", "metadata", "service_tier", "cache_control", "inference_geo"})
    ignored = {
        **IGNORED,
        **FIGURES,
        "thinking": ({"type": "disabled"},),
        "speed": ("standard",),
        "context_management": ({},),
        "diagnostics": (),
    }
    neutral = {
        "container": (),
        "mcp_servers": ([],),
    }

    messages: list[Any] = Field(max_length=limits.MESSAGES)
    system: str | list[Any] | None = None
    max_tokens: int | None = None
    stop_sequences: Items[Text] | None = None
    stream: bool = False
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None
    tools: list[Any] = Field(default_factory=list)
    tool_choice: dict[str, Any] = Field(default_factory=dict)

    def chat(self) -> MessagesChat:
        """What the body asks for. Raises InvalidRequestError."""
        return MessagesChat.of(
            self._turns(),
            self.given()
            | {
                "max_tokens": self.max_tokens,
                "stop": self.stop_sequences,
                "stream": self.stream,
                "response_format": self._response_format(),
                "tools": self._functions() or None,
                "tool_choice": self._choice(),
                "parallel_tool_calls": self._parallel(),
            },
        )

    def _turns(self) -> Turns:
        turns = Turns("messages")
        if self.system:
            text = content_text(self.system, _TEXT, "", "system")
            turns.add({"role": "system", "content": text}, "system")
        for i, message in enumerate(self.messages):
            for translated in _messages(i, message):
                turns.add(translated, i)
        return turns

    def _functions(self) -> list[Json]:
        """What is offered, in OpenAI's form; tools that Anthropic's own servers run are left out."""
        functions = []
        for i, tool in enumerate(self.tools):
            if not isinstance(tool, Mapping):
                raise InvalidRequestError("{param}[{i}] must be an object", "tools", i=i)
            if tool.get("type") in (None, "custom"):
                given = (tool.get("name"), tool.get("description"), tool.get("input_schema"))
                functions.append(function_json(*given))
            else:
                note_ignored(f"tools[{i}]")
        return functions

    def _choice(self) -> Any:
        match self.tool_choice:
            case {} if not self.tool_choice:
                return None
            case {"type": "auto" | "none" as kind}:
                return kind
            case {"type": "any"}:
                return "required"
            case {"type": "tool", "name": name}:
                return choice_json(name)
        raise InvalidRequestError(
            "{param}.type must be auto, any, none, or tool with a name", "tool_choice"
        )

    def _parallel(self) -> bool | None:
        """Whether an answer may hold several calls: only where that is said."""
        disabled = self.tool_choice.get("disable_parallel_tool_use")
        return None if disabled is None else not disabled

    def _response_format(self) -> Json | None:
        """OpenAI's form of a format, which is also given directly in the place of its older name."""
        config = self.output_config or {}
        unknown = config.keys() - {"format", "effort"}
        if unknown:
            raise InvalidRequestError(
                "{param} has an unknown field {name!r:.80}", "output_config", name=min(unknown)
            )
        if config.get("effort") is not None:
            note_ignored("output_config.effort")
        wanted = self.output_format or config.get("format")
        if wanted is None:
            return None
        if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
            raise InvalidRequestError(
                "{param}: a format must be an object of type json_schema",
                "output_format" if self.output_format else "output_config",
            )
        return {"type": "json_schema", "json_schema": {"schema": wanted.get("schema")}}


def _messages(index: int, message: Any) -> Iterable[Json]:
    """A message of Anthropic's as OpenAI's."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ChatFormatError("{param}[{i}] must be an object with role and content", i=index)
    unknown = message.keys() - {"role", "content"}
    if unknown:
        raise ChatFormatError(
            "{param}[{i}] has an unknown field {name!r:.80}", i=index, name=min(unknown)
        )
    role, content = message["role"], message.get("content")
    place = f"[{index}].content"
    if not isinstance(content, list):
        yield {"role": role, "content": content_text(content, _TEXT, place, "messages")}
        return
    texts, calls, results = [], [], []
    for k, block in enumerate(content):
        match block:
            case {"type": "thinking" | "redacted_thinking"}:
                note_ignored(f"messages{place}[{k}]")
            case {"type": "tool_use"}:
                calls.append(call_json(block.get("id"), block.get("name"), block.get("input")))
            case {"type": "tool_result"}:
                results.append(_result(block, f"{place}[{k}].content"))
            case _:
                texts.append(part_text(block, _TEXT, f"{place}[{k}]", "messages"))
    # Results belong to the calls right before them; what the user says comes behind.
    yield from results
    if texts or calls or not results:
        turn = {"role": role, "content": joined(texts)}
        yield turn | {"tool_calls": calls} if calls else turn


def _result(block: Mapping[str, Any], place: str) -> Json:
    """The result of a call as OpenAI's message; that it is an error is said in words."""
    text = content_text(block.get("content") or "", _TEXT, place, "messages")
    if block.get("is_error"):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
