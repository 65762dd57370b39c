"""CodeLlama-70b-Instruct's chat format for plain `llama_cpp.Llama`.

::

    from codellama.integrations.llama_cpp_python import CodeLlama70BInstructHandler, register

    llama = Llama("codellama-70b-instruct.Q4_K_M.gguf", chat_handler=CodeLlama70BInstructHandler())
    # or: register() once, then Llama(..., chat_format="codellama-70b-instruct")
    llama.create_chat_completion(messages=[{"role": "user", "content": "Hi"}])

It is a chat *handler*, not a formatter: a formatter hands llama_cpp a string, and tokenizing that gives
57 ids where the model's own format has 49, and lets a user type control tokens. The handler passes ids.
An answer ends at `<step>`, which llama.cpp may not know as an end and may not even show as text.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp.llama_chat_format import LlamaChatCompletionHandlerRegistry
from llama_cpp.llama_grammar import LlamaGrammar

from codellama.compat.openai import chat_logprobs_count, response_schema, text_messages
from codellama.compat.tool_replies import Calls
from codellama.compat.tools import offered
from codellama.errors import ContextLengthError, InvalidRequestError
from codellama.integrations.llama_vocabulary import LlamaVocabulary
from codellama.integrations.schema_processor import SchemaProcessor, Schemas
from codellama.params import SpecialTags
from codellama.prompts.chat import TurnFormat

NAME = "codellama-70b-instruct"
"""What `register` makes known as a `chat_format`."""

Json = dict[str, Any]
Logits = npt.NDArray[np.single]


def register(overwrite: bool = False) -> None:
    """Make `Llama(..., chat_format="codellama-70b-instruct")` work in this process.

    llama_cpp's registry raises ValueError for a name it has, unless `overwrite` is set.
    """
    registry: Any = LlamaChatCompletionHandlerRegistry
    registry().register_chat_completion_handler(
        NAME, CodeLlama70BInstructHandler(), overwrite=overwrite
    )


class CodeLlama70BInstructHandler:
    """A `chat_handler` for `llama_cpp.Llama`; one object serves any number of models.

    `special_tags` says what `<step>` and its kin in a message are: "literal" (text like any other)
    or "reject" (ChatFormatError, as Meta's code has it). With `parallel_tool_calls` an answer may call
    several functions; `Llama.create_chat_completion` has no such parameter, so it is said here. Who calls
    the handler may say it each time.
    """

    def __init__(
        self, special_tags: SpecialTags = "literal", parallel_tool_calls: bool = False
    ) -> None:
        self._special_tags = special_tags
        self._parallel_tool_calls = parallel_tool_calls
        self._models: weakref.WeakKeyDictionary[llama_cpp.Llama, _Model] = (
            weakref.WeakKeyDictionary()
        )

    def __call__(
        self,
        *,
        llama: llama_cpp.Llama,
        messages: Iterable[Mapping[str, Any]],
        functions: Any = None,
        function_call: Any = None,
        tools: Any = None,
        tool_choice: Any = None,
        parallel_tool_calls: bool | None = None,
        temperature: float = 0.2,
        max_tokens: int | None = None,
        stream: bool = False,
        response_format: Mapping[str, Any] | None = None,
        grammar: LlamaGrammar | None = None,
        logit_bias: Mapping[Any, float] | None = None,
        logits_processor: Iterable[Any] | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        **options: Any,
    ) -> Any:
        """Answer `messages` as `Llama.create_chat_completion` does; `options` go to
        `Llama.create_completion`. Returns its dictionary, or an iterator of chunks if `stream`. Calls of
        `tools` come back as `tool_calls`, those of the older `functions` as `function_call`; stop strings
        count in calls too, unless a call is all there may be.

        Raises ChatFormatError, ContextLengthError, InvalidRequestError (all of them ValueErrors) or
        UnsupportedError before anything is decoded, also when streaming.
        """
        schema = response_schema(response_format)
        parallel = self._parallel_tool_calls if parallel_tool_calls is None else parallel_tool_calls
        offer = offered(tools, tool_choice, parallel, functions, function_call)
        for name, form in (("response_format", schema), ("tools", offer)):
            if form is not None and grammar is not None:
                raise InvalidRequestError(
                    "{param} and grammar exclude each other: give one of them", name
                )
        if offer is not None and offer.choice != "auto":
            options.pop("stop", None)
        model = self._model(llama)
        turns = model.turns
        prompt = turns.encode(text_messages(messages), offer)
        if len(prompt.tokens) >= llama.n_ctx():
            raise ContextLengthError(len(prompt.tokens), llama.n_ctx(), "messages")
        # llama_cpp forgets all processors when logit_bias is given beside them, so it is one too.
        processors = llama_cpp.LogitsProcessorList(logits_processor or [])
        if logit_bias:
            processors.append(_Bias({int(k): float(v) for k, v in logit_bias.items()}))
        follows = None
        if schema is not None or offer is not None:
            follows = model.schemas.processor(schema, len(prompt.tokens), offer)
        if follows is not None:
            processors.append(follows)
        processors.append(_EndOfTurn(turns.step, llama.token_eos()))
        reply: Any = llama.create_completion(
            prompt=list(prompt.tokens),
            temperature=temperature,
            max_tokens=max_tokens,
            stream=stream,
            grammar=grammar,
            logits_processor=processors,
            logprobs=chat_logprobs_count(logprobs, top_logprobs),
            **options,
        )
        calls = Calls(offer, anywhere=schema is None, legacy=bool(functions))
        if stream:
            return _chat_chunks(_checked(reply, follows), prompt.drop_leading_space, calls)
        if follows is not None:
            follows.check()
        return _chat_completion(reply, prompt.drop_leading_space, calls)

    def _model(self, llama: llama_cpp.Llama) -> _Model:
        if llama not in self._models:
            vocabulary = LlamaVocabulary(llama)
            turns = TurnFormat(vocabulary, self._special_tags)
            self._models[llama] = _Model(turns, Schemas(vocabulary, turns.step))
        return self._models[llama]


@dataclass(frozen=True)
class _Model:
    """What is made of a `Llama`'s vocabulary once."""

    turns: TurnFormat
    schemas: Schemas


class _EndOfTurn:
    """A logits processor that makes `<step>` the end of generation: its logit becomes EOS's.

    llama.cpp then ends the answer itself, at the right token. A stopping criterion is asked one
    token late, which costs a decode and leaves `<step>` in the answer; and a grammar, which allows
    nothing but EOS at its end, would never let a `<step>` through.
    """

    def __init__(self, step: int, eos: int) -> None:
        self._step = step
        self._eos = eos

    def __call__(self, input_ids: object, scores: Logits) -> Logits:
        if self._step != self._eos:
            scores[self._eos] = max(scores[self._eos], scores[self._step])
            scores[self._step] = -np.inf
        return scores


class _Bias:
    """OpenAI's `logit_bias` as a logits processor."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._tokens = list(bias)
        self._values = np.array(list(bias.values()), dtype=np.single)

    def __call__(self, input_ids: object, scores: Logits) -> Logits:
        scores[self._tokens] += self._values
        return scores


def _checked(chunks: Iterator[Json], follows: SchemaProcessor | None) -> Iterator[Json]:
    """The chunks, and what went wrong where llama.cpp called the processor."""
    for chunk in chunks:
        if follows is not None:
            follows.check()
        yield chunk


def _chat_completion(completion: Json, drop_leading_space: bool, calls: Calls) -> Json:
    """A `text_completion` of llama_cpp as its `chat.completion`."""
    choice = completion["choices"][0]
    text = choice["text"].removeprefix(" ") if drop_leading_space else choice["text"]
    message, called = calls.message(text)
    return {
        "id": "chat" + completion["id"],
        "object": "chat.completion",
        "created": completion["created"],
        "model": completion["model"],
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": _logprobs(choice["logprobs"]),
                "finish_reason": calls.reason(choice["finish_reason"], called),
            }
        ],
        "usage": completion["usage"],
    }


def _chat_chunks(chunks: Iterator[Json], drop_leading_space: bool, calls: Calls) -> Iterator[Json]:
    """A stream of `text_completion` as one of `chat.completion.chunk`: role, text and calls, end."""
    opened = False
    at_start = drop_leading_space
    for chunk in chunks:
        choice = chunk["choices"][0]
        text = choice["text"].removeprefix(" ") if at_start else choice["text"]
        at_start = at_start and not choice["text"]
        if not opened:
            yield _chunk(chunk, {"role": "assistant"}, None, None)
            opened = True
        ended = choice["finish_reason"]
        logprobs = _logprobs(choice["logprobs"])
        for delta in calls.deltas(0, text, last=bool(ended), anyway=logprobs is not None):
            yield _chunk(chunk, delta, logprobs, None)
            logprobs = None
        if ended:
            yield _chunk(chunk, {}, None, calls.ended(0, ended))


def _chunk(chunk: Json, delta: Json, logprobs: Json | None, finish_reason: str | None) -> Json:
    return {
        "id": "chat" + chunk["id"],
        "object": "chat.completion.chunk",
        "created": chunk["created"],
        "model": chunk["model"],
        "choices": [
            {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        ],
    }


def _logprobs(logprobs: Json | None) -> Json | None:
    """llama_cpp's completion logprobs in the shape of its chat logprobs."""
    if logprobs is None:
        return None
    rows = zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    )
    return {
        "content": [
            {
                "token": token,
                "bytes": list(token.encode()),
                "logprob": logprob,
                "top_logprobs": [
                    {"token": other, "bytes": list(other.encode()), "logprob": value}
                    for other, value in top.items()
                ],
            }
            for token, logprob, top in rows
        ],
        "refusal": None,
    }
