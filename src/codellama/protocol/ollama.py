"""Ollama's dialect: the bodies of `/api/chat` and `/api/generate`.

Shapes: https://github.com/ollama/ollama/blob/main/docs/api.md. Answers are streams unless `stream` is false.
`options` are sampling parameters in Ollama's words or in llama-server's; those that say how a model is loaded
change nothing here. What has no prompt and no messages only asks whether the model is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from codellama.compat.logprobs import Shown
from codellama.errors import ChatFormatError, InvalidRequestError
from codellama.params import Prompt
from codellama.protocol import limits
from codellama.protocol.body import Fields
from codellama.protocol.errors import Json
from codellama.protocol.fields import NO_LIMIT, Items, Text
from codellama.protocol.functions import call_json
from codellama.protocol.ollama_reply import OllamaReply, stamp
from codellama.protocol.prompts import parse_prompts
from codellama.protocol.tolerance import note_ignored
from codellama.protocol.translated import Extras, TranslatedChat
from codellama.protocol.turns import Turns
from codellama.running.tool_calls import AnswerReader

if TYPE_CHECKING:
    from codellama.running.completion import Completion
    from codellama.running.language_model import LanguageModel

_FILL_CONTEXT = -2  # of num_predict; -1 has no limit either


class OllamaOptions(Extras):
    """The `options` of a request."""

    aliases = {"num_predict": "max_tokens", "num_keep": "n_keep"}
    no_effect = frozenset()
    ignored = dict.fromkeys(
        (
            *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_gqa", "numa"),
            *("low_vram", "f16_kv", "vocab_only", "use_mmap", "use_mlock", "logits_all"),
            *("embedding_only", "penalize_newline", "rope_frequency_base", "rope_frequency_scale"),
        ),
        (),
    )
    neutral = {"tfs_z": (1, 0)}
    place = "options."

    max_tokens: int | None = None
    stop: Text | Items[Text] | None = None

    def chat_fields(self) -> Json:
        """The options as fields of a `ChatRequest`."""
        most = NO_LIMIT if self.max_tokens == _FILL_CONTEXT else self.max_tokens
        return self.given() | {"max_tokens": most, "stop": self.stop}


class OllamaChat(TranslatedChat):
    """A chat that was asked for in Ollama's words."""

    renamed = {
        "max_tokens": "num_predict",
        "n_keep": "num_keep",
        "response_format": "format",
        "context_policy": "truncate",
        "context_shift": "shift",
    }

    _started: int = PrivateAttr(default_factory=time.perf_counter_ns)

    def reply(self, llm: LanguageModel, completions: Sequence[Completion]) -> OllamaReply:  # type: ignore[override]
        """What turns the answer into a response or its lines."""
        return self._reply(llm, completions, is_chat=True)

    def _reply(
        self, llm: LanguageModel, completions: Sequence[Completion], *, is_chat: bool
    ) -> OllamaReply:
        return OllamaReply(
            llm.name,
            Shown(llm.tokenizer.piece),
            self.wants_logprobs,
            is_chat,
            self._started,
            AnswerReader.of(completions[0].prompt, completions[0].params),
            self.dropped_json(completions[0].prompt),
        )


class OllamaGeneration(OllamaChat):
    """A text that was asked for in Ollama's words: a chat of one question, unless the model has no chat
    format, the prompt is `raw`, or something follows the answer."""

    _prompt: str = PrivateAttr()
    _suffix: str | None = PrivateAttr()
    _raw: bool = PrivateAttr()

    def prompts(self, llm: LanguageModel) -> list[Prompt]:
        """The one prompt."""
        if self._suffix is None and not self._raw and llm.chat_format is not None:
            return super().prompts(llm)
        if self.messages[0]["role"] == "system":
            raise InvalidRequestError(
                "{param} needs a chat: a model that has one, and neither raw nor suffix", "system"
            )
        if self._suffix is None:
            return parse_prompts(self._prompt, llm)
        return [llm.infill_prompt(self._prompt, self._suffix)]

    def reply(self, llm: LanguageModel, completions: Sequence[Completion]) -> OllamaReply:  # type: ignore[override]
        """What turns the answer into a response or its lines."""
        return self._reply(llm, completions, is_chat=False)


class OllamaRequest(Fields):
    """What the bodies of both routes share."""

    no_effect = frozenset({"model", "keep_alive", "metadata"})
    ignored = {}
    neutral = {"think": (False,), "template": ("",)}

    options: OllamaOptions = Field(default_factory=OllamaOptions)
    stream: bool = True
    format: Literal["", "json"] | dict[str, Any] = ""
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    truncate: bool = False
    shift: bool | None = None

    def fields(self) -> Json:
        """The fields of the `ChatRequest` but for its messages."""
        form: Json | None = None
        if self.format == "json":
            form = {"type": "json_object"}
        elif self.format:
            form = {"type": "json_schema", "json_schema": {"schema": self.format}}
        return {
            "context_policy": "drop_oldest" if self.truncate else None,
            "context_shift": self.shift,
            **self.options.chat_fields(),
            "stream": self.stream,
            "response_format": form,
            "logprobs": self.logprobs,
            "top_logprobs": self.top_logprobs,
        }


class OllamaChatRequest(OllamaRequest):
    """The body of `/api/chat`."""

    messages: list[Any] = Field(default_factory=list, max_length=limits.MESSAGES)
    system: str = ""
    tools: list[Any] = Field(default_factory=list)

    def load_answer(self, model: str) -> Json | None:
        """The whole answer, if nothing is asked."""
        if self.messages:
            return None
        return _loaded(model) | {"message": {"role": "assistant", "content": ""}}

    def chat(self) -> OllamaChat:
        """What the body asks for. Raises InvalidRequestError."""
        turns = Turns("messages")
        if self.system:
            turns.add({"role": "system", "content": self.system}, "system")
        calls = _Calls()
        for i, message in enumerate(self.messages):
            turns.add(_message(i, message, calls), i)
        return OllamaChat.of(turns, self.fields() | {"tools": self.tools or None})


class OllamaGenerateRequest(OllamaRequest):
    """The body of `/api/generate`. With `suffix` it asks for what stands between `prompt` and it."""

    neutral = {**OllamaRequest.neutral, "images": ([],), "context": ([],)}

    prompt: str = ""
    suffix: str | None = None
    system: str = ""
    raw: bool = False

    def load_answer(self, model: str) -> Json | None:
        """The whole answer, if nothing is asked."""
        if self.prompt or self.suffix:
            return None
        return _loaded(model) | {"response": ""}

    def chat(self) -> OllamaGeneration:
        """What the body asks for. Raises InvalidRequestError."""
        turns = Turns("prompt")
        if self.system:
            turns.add({"role": "system", "content": self.system}, "system")
        turns.add({"role": "user", "content": self.prompt}, "prompt")
        asked = OllamaGeneration.of(turns, self.fields())
        # An empty suffix is sent by clients that have none.
        asked._prompt, asked._suffix, asked._raw = self.prompt, self.suffix or None, self.raw
        return asked


MOST_CALLS = 1000
"""Calls in one message."""
_MESSAGE_FIELDS = frozenset(
    {"role", "content", "images", "thinking", "tool_calls", "tool_name", "tool_call_id", "name"}
)


class _Calls:
    """The calls in a dialog that wait for their results; Ollama's need not have ids."""

    def __init__(self) -> None:
        self._waiting: dict[str, Any] = {}  # the functions' names by the calls' ids, in order

    def add(self, i: int, calls: Any) -> list[Json]:
        """The calls of message number `i` in OpenAI's form."""
        if not isinstance(calls, list) or len(calls) > MOST_CALLS:
            raise ChatFormatError(
                "{param}[{i}].tool_calls must be a list of {most} calls at most",
                i=i,
                most=MOST_CALLS,
            )
        self._waiting = {}
        return [self._call(i, k, call) for k, call in enumerate(calls)]

    def _call(self, i: int, k: int, call: Any) -> Json:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise ChatFormatError("{param}[{i}].tool_calls[{k}] must have a function", i=i, k=k)
        called = call.get("id") or f"call_{i}_{k}"
        if not isinstance(called, str):
            raise ChatFormatError("{param}[{i}].tool_calls[{k}].id must be a text", i=i, k=k)
        self._waiting[called] = function.get("name")
        return call_json(called, function.get("name"), function.get("arguments"))

    def answered(self, i: int, message: Mapping[str, Any]) -> str:
        """The id of the call whose result message number `i` is: the one that it names, or the next."""
        given = message.get("tool_call_id")
        name = message.get("tool_name") or message.get("name")
        for called, function in self._waiting.items():
            if given == called or (not given and name in (None, "", function)):
                del self._waiting[called]
                return called
        raise ChatFormatError("{param}[{i}] is the result of no call before it", i=i)


def _message(index: int, message: Any, calls: _Calls) -> Json:
    """A message of Ollama's as OpenAI's."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ChatFormatError("{param}[{i}] must be an object with role and content", i=index)
    unknown = message.keys() - _MESSAGE_FIELDS
    if unknown:
        raise ChatFormatError(
            "{param}[{i}] has an unknown field {name!r:.80}", i=index, name=min(unknown)
        )
    if message.get("images"):
        raise ChatFormatError(
            "{param}[{i}].images is not supported: the model only reads text", i=index
        )
    if message.get("thinking"):
        note_ignored(f"messages[{index}].thinking")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise ChatFormatError("{param}[{i}].content must be a text", i=index)
    translated: Json = {"role": message["role"], "content": content}
    if message.get("tool_calls"):
        translated["tool_calls"] = calls.add(index, message["tool_calls"])
    if message["role"] == "tool":
        translated["tool_call_id"] = calls.answered(index, message)
    return translated


def _loaded(model: str) -> Json:
    return {"model": model, "created_at": stamp(), "done": True, "done_reason": "load"}
