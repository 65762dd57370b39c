"""OpenAI's dialect: `/v1/chat/completions`, `/v1/completions`, `/v1/models`.

Requests become prompts and sampling parameters here; answers are rendered by `codellama.compat.replies`.
llama-server's extra fields work in both. `/v1/completions` without `max_tokens` writes 16 tokens, as
OpenAI documents; chat has no limit but the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from codellama.compat.openai import chat_logprobs_count, text_messages
from codellama.compat.replies import ChatReply, Collected, Json, TextReply
from codellama.errors import InvalidRequestError
from codellama.params import ContextPolicy, Prompt, SamplingParams
from codellama.protocol.fields import (
    ALIASES,
    MAX_CHOICES,
    NEUTRAL,
    SamplingFields,
    parse_prompts,
    prompt_text,
)
from codellama.running.completion import mean_logprob

if TYPE_CHECKING:
    from codellama.llm import LLM
    from codellama.native.model import Tokenizer

DEFAULT_MAX_TOKENS = 16


class ChatRequest(SamplingFields):
    """The body of `/v1/chat/completions`."""

    neutral = {**NEUTRAL, "echo": (False,)}

    messages: list[dict[str, Any]]
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=100)
    n_probs: int | None = Field(default=None, ge=0, le=100)
    context_policy: ContextPolicy | None = None

    @property
    def echo(self) -> bool:
        """Chat answers never repeat the prompt."""
        return False

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer carries log probabilities."""
        return bool(self.logprobs or self.n_probs)

    def prompts(self, llm: LLM) -> list[Prompt]:
        """The one prompt of a chat; `context_policy` may leave old turns out of it."""
        limit = None if self.max_tokens == -1 else self.max_tokens
        return [
            llm.chat_prompt(
                text_messages(self.messages), context_policy=self.context_policy, max_tokens=limit
            )
        ]

    def sampling(self, tokenizer: Tokenizer) -> SamplingParams:
        """The sampling parameters asked for."""
        count = chat_logprobs_count(self.logprobs, self.top_logprobs)
        return self.params(tokenizer, logprobs=self.n_probs or count)

    def reply(
        self,
        llm: LLM,
        request_id: str,
        created: int,
        prompts: Sequence[Prompt],
        params: SamplingParams,
    ) -> ChatReply:
        """What turns the answers into a response or its chunks."""
        return ChatReply(
            id=request_id,
            created=created,
            model=llm.name,
            piece=llm.tokenizer.piece,
            n=self.n,
            logprobs=self.wants_logprobs,
            include_usage=self.stream_options.include_usage,
            extras=True,
            dropped=self._dropped(prompts[0]),
        )

    def _dropped(self, prompt: Prompt) -> tuple[int, ...]:
        """Where the turns that were left out stand among `messages`: behind the system turn."""
        first = 1 if self.messages[0].get("role") in ("system", "developer") else 0
        return tuple(range(first, first + len(prompt.dropped)))


class CompletionRequest(SamplingFields):
    """The body of `/v1/completions`. `suffix` asks for what stands between `prompt` and it."""

    aliases = ALIASES | {"n_probs": "logprobs"}

    prompt: Any
    suffix: str | None = None
    echo: bool = False
    best_of: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    logprobs: int | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer carries log probabilities."""
        return self.logprobs is not None

    @property
    def candidates(self) -> int:
        """How many answers are written to every prompt."""
        return self.best_of or self.n

    @property
    def ranked(self) -> bool:
        """Whether the best have to be found among more."""
        return self.candidates > self.n

    def chosen(self, answers: list[Collected]) -> list[Collected]:
        """Of every prompt's candidates the `n` with the highest log probability per token."""
        if not self.ranked:
            return answers
        chosen: list[Collected] = []
        for i in range(0, len(answers), self.candidates):
            group = sorted(
                answers[i : i + self.candidates],
                key=lambda a: mean_logprob(
                    len(a.tokens), a.logprobs, a.usage.prompt_tokens if self.echo else 0
                ),
                reverse=True,
            )
            kept, rest = group[: self.n], group[self.n :]
            kept[0].discarded = sum(answer.usage.completion_tokens for answer in rest)
            for answer in kept:
                answer.index = len(chosen)
                chosen.append(answer)
        return chosen

    def prompts(self, llm: LLM) -> list[Prompt]:
        """One prompt for each in the body."""
        if self.suffix is None:
            return parse_prompts(self.prompt, llm)
        if not isinstance(self.prompt, str):
            raise InvalidRequestError("suffix needs a {param} that is one text", "prompt")
        if self.echo:
            raise InvalidRequestError("{param} cannot be used together with suffix", "echo")
        return [llm.infill_prompt(self.prompt, self.suffix)]

    def sampling(self, tokenizer: Tokenizer) -> SamplingParams:
        """The sampling parameters asked for."""
        if self.best_of is not None and self.best_of < self.n:
            raise InvalidRequestError("{param} must be at least n, {n}", "best_of", n=self.n)
        if self.ranked and self.stream:
            raise InvalidRequestError("the {param} several answers cannot be streamed", "best_of")
        if self.max_tokens is None:
            self.max_tokens = DEFAULT_MAX_TOKENS
        count = 0 if self.ranked and self.logprobs is None else self.logprobs
        return self.params(tokenizer, logprobs=count)

    def answers(self, prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[Collected]:
        """The empty answers; without echo their text begins behind the prompt's."""
        answers = super().answers(prompts, tokenizer)
        if not self.echo:
            for answer in answers:
                answer.offset = len(
                    prompt_text(prompts[answer.index // self.candidates], tokenizer)
                )
        elif tokenizer.add_space_prefix:
            for answer in answers:
                answer.offset = -1  # the first piece has a space that the text has not
        return answers

    def reply(
        self,
        llm: LLM,
        request_id: str,
        created: int,
        prompts: Sequence[Prompt],
        params: SamplingParams,
    ) -> TextReply:
        """What turns the answers into a response or its chunks."""
        return TextReply(
            id=request_id,
            created=created,
            model=llm.name,
            piece=llm.tokenizer.piece,
            n=self.n,
            logprobs=self.wants_logprobs,
            include_usage=self.stream_options.include_usage,
            extras=True,
        )


def model_json(name: str, created: int, meta: Json) -> Json:
    """One entry of `/v1/models`, with llama-server's `meta`."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "codellama",
        "meta": meta,
    }


def models_json(name: str, created: int, meta: Json) -> Json:
    """The body of `/v1/models`."""
    return {"object": "list", "data": [model_json(name, created, meta)]}
