"""`llama_cpp.Llama`'s calls on an `LLM`: same signatures, same dictionaries, so that switching is one line.

Defaults are those of llama-cpp-python 0.3.36 (`create_completion`: 16 tokens at temperature 0.8;
`create_chat_completion`: temperature 0.2, no limit), not those of `SamplingParams`. What cannot be
honoured is an error that names the parameter, never ignored. Processors and criteria cost every running
request their time (`native.hooks`). Three things differ on purpose: `suffix`
infills, as it was meant to; special tags in text stay text; any number of calls may run at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from codellama.compat.openai import (
    chat_logprobs_count,
    response_schema,
    seed_or_random,
    text_messages,
)
from codellama.compat.replies import ChatReply, Json, TextReply
from codellama.compat.tool_replies import Calls
from codellama.compat.tools import offered
from codellama.errors import InvalidRequestError
from codellama.native.hooks import TokenHooks
from codellama.params import SamplingParams

if TYPE_CHECKING:
    from codellama.running.completion import Completion
    from codellama.running.language_model import LanguageModel, TextTokenizer


class LlamaCompatible:
    """Mixin for `LLM`: `create_completion` (also by calling the object), `create_chat_completion`."""

    def create_completion(
        self: LanguageModel,
        prompt: str | list[int],
        suffix: str | None = None,
        max_tokens: int | None = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | list[str] | None = None,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        top_k: int = 40,
        stream: bool = False,
        seed: int | None = None,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        stopping_criteria: Any = None,
        logits_processor: Any = None,
        grammar: Any = None,
        logit_bias: Mapping[int, float] | None = None,
    ) -> Json | Iterator[Json]:
        """Continue `prompt`: a `text_completion` dictionary, or an iterator of chunks if `stream`.

        `max_tokens` None or below 1 means up to the end of the context. `prompt` as token ids is
        used as it is. `suffix` asks for what stands between `prompt` and it. Closing the iterator
        cancels the request. Raises InvalidRequestError or UnsupportedError before anything runs.
        """
        hooks = TokenHooks.of(logits_processor, stopping_criteria)
        _refuse_tfs_z(tfs_z)
        params: dict[str, Any] = {
            "max_tokens": _max_tokens(max_tokens),
            "temperature": temperature,
            "top_p": top_p,
            "min_p": min_p,
            "typical_p": typical_p,
            "logprobs": logprobs,
            "stop": stop or (),
            "frequency_penalty": frequency_penalty,
            "presence_penalty": presence_penalty,
            "repeat_penalty": repeat_penalty,
            "top_k": top_k,
            "seed": seed_or_random(seed),
            "mirostat": mirostat_mode,
            "mirostat_tau": mirostat_tau,
            "mirostat_eta": mirostat_eta,
            "grammar": _grammar_text(grammar),
            "logit_bias": _biases(logit_bias),
        }
        sampling = SamplingParams.of(**params)
        if suffix is None:
            tokens = self.complete_prompt(prompt)
        else:
            tokens = self.infill_prompt(*_infill_arguments(prompt, suffix, echo))
        completion = self.generate(tokens, params=sampling, echo=echo, hooks=hooks)
        offset = 0 if echo else len(_text(prompt, self.tokenizer))
        reply = TextReply(
            id=completion.id,
            created=completion.created,
            model=model or self.name,
            piece=self.tokenizer.piece,
            logprobs=logprobs is not None,
            starts=(offset,),
        )
        return _answer(completion, reply, stream)

    __call__ = create_completion

    def create_chat_completion(
        self: LanguageModel,
        messages: Sequence[Mapping[str, Any]],
        functions: Any = None,
        function_call: Any = None,
        tools: Any = None,
        tool_choice: Any = None,
        temperature: float = 0.2,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        stream: bool = False,
        stop: str | list[str] | None = None,
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        logits_processor: Any = None,
        grammar: Any = None,
        logit_bias: Mapping[int, float] | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
    ) -> Json | Iterator[Json]:
        """Answer `messages`: a `chat.completion` dictionary, or an iterator of chunks if `stream`.

        Closing the iterator cancels the request. Raises InvalidRequestError or UnsupportedError
        before anything runs. Calls of `tools` come back as `tool_calls`, those of the older `functions` as
        `function_call`.
        """
        offer = offered(tools, tool_choice, None, functions, function_call)
        hooks = TokenHooks.of(logits_processor, None)
        _refuse_tfs_z(tfs_z)
        schema = response_schema(response_format)
        try:
            sampling = SamplingParams.of(
                max_tokens=_max_tokens(max_tokens),
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                min_p=min_p,
                typical_p=typical_p,
                stop=stop or (),
                seed=seed_or_random(seed),
                json_schema=schema,
                presence_penalty=presence_penalty,
                frequency_penalty=frequency_penalty,
                repeat_penalty=repeat_penalty,
                mirostat=mirostat_mode,
                mirostat_tau=mirostat_tau,
                mirostat_eta=mirostat_eta,
                grammar=_grammar_text(grammar),
                logit_bias=_biases(logit_bias),
                logprobs=chat_logprobs_count(logprobs, top_logprobs),
            )
            prompt = self.chat_prompt(
                text_messages(messages), max_tokens=sampling.max_tokens, tools=offer
            )
            completion = self.generate(prompt, params=sampling, hooks=hooks)
        except InvalidRequestError as error:
            if error.param == "json_schema":
                error.rename("response_format")
            raise
        reply = ChatReply(
            id=completion.id,
            created=completion.created,
            model=model or self.name,
            piece=self.tokenizer.piece,
            logprobs=bool(logprobs),
            calls=Calls(offer, anywhere=schema is None, legacy=bool(functions)),
        )
        return _answer(completion, reply, stream)


def _answer(
    completion: Completion, reply: TextReply | ChatReply, stream: bool
) -> Json | Iterator[Json]:
    if stream:
        return _stream(completion, reply)
    return reply.whole(completion.collect())


def _stream(completion: Completion, reply: TextReply | ChatReply) -> Iterator[Json]:
    (answer,) = completion.blank()
    try:
        yield from reply.head(0)
        for _, delta in completion.events():
            answer.add(delta)
            yield from reply.chunks(answer, delta)
    finally:
        completion.cancel()


def _refuse_tfs_z(tfs_z: float) -> None:
    if tfs_z != 1.0:
        raise InvalidRequestError("{param}: llama.cpp no longer has tail-free sampling", "tfs_z")


def _infill_arguments(prompt: str | list[int], suffix: str, echo: bool) -> tuple[str, str]:
    if not isinstance(prompt, str):
        raise InvalidRequestError("suffix needs a {param} that is text, not token ids", "prompt")
    if echo:
        raise InvalidRequestError("{param} cannot be used together with suffix", "echo")
    return prompt, suffix


def _max_tokens(max_tokens: int | None) -> int | None:
    """llama_cpp takes 0 and below for "no limit"."""
    return None if max_tokens is None or max_tokens <= 0 else max_tokens


def _grammar_text(grammar: Any) -> str | None:
    """A grammar as GBNF text: a string, or a `llama_cpp.LlamaGrammar`, which wraps one."""
    text = getattr(grammar, "_grammar", grammar)
    if text is not None and not isinstance(text, str):
        raise InvalidRequestError("{param} must be GBNF text or a LlamaGrammar", "grammar")
    return text


def _biases(logit_bias: Mapping[int, float] | None) -> dict[int, float]:
    try:
        return {int(token): float(bias) for token, bias in (logit_bias or {}).items()}
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(
            "{param} must map token ids to numbers: {reason}", "logit_bias", reason=error
        ) from error


def _text(prompt: str | list[int], tokenizer: TextTokenizer) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
