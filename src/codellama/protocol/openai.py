"""OpenAI's dialect: `/v1/chat/completions`, `/v1/completions`, `/v1/models`.

Requests become prompts and sampling parameters here; answers are rendered by `codellama.compat.replies`.
llama-server's extra fields work in both. `/v1/completions` without `max_tokens` writes 16 tokens, as
OpenAI documents; chat has no limit but the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from codellama.compat.openai import chat_logprobs_count
from codellama.compat.replies import ChatReply, Json, TextReply
from codellama.compat.tool_replies import Calls
from codellama.errors import (
    ChatFormatError,
    ContextLengthError,
    InvalidRequestError,
    check_text,
)
from codellama.params import ContextPolicy, Prompt, SamplingParams
from codellama.prompts.prompts import prompt_text
from codellama.protocol.fields import SamplingFields
from codellama.protocol.known import ALIASES, NEUTRAL
from codellama.protocol.llama_server import native_reply
from codellama.protocol.prompts import Dialog, dropped_indices, parse_prompts
from codellama.protocol.tools import ToolFields
from codellama.running.collected import n_candidates

if TYPE_CHECKING:
    from codellama.running.completion import Completion
    from codellama.running.language_model import LanguageModel, TextTokenizer

DEFAULT_MAX_TOKENS = 16


class ChatRequest(Dialog, ToolFields, SamplingFields):
    """The body of `/v1/chat/completions`."""

    neutral = {**NEUTRAL, "echo": (False,)}

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

    def respell(self, error: InvalidRequestError) -> None:
        """Put the error in the client's own spelling of the parameter."""
        super().respell(error)
        self.respell_parameters(error)

    def prompts(self, llm: LanguageModel) -> list[Prompt]:
        """The one prompt of a chat; `context_policy` may leave old turns out of it."""
        messages, policy, tools = self.dialog(), self.context_policy, self.offer_to(llm)
        try:
            prompt = llm.chat_prompt(
                messages, context_policy=policy, max_tokens=self.limit, tools=tools
            )
        except ChatFormatError:
            # Clients trim a dialog that is too long: they hear of that first, whatever else is wrong.
            n = sum(len(llm.tokenizer.encode(message["content"])) for message in messages)
            if n < llm.n_ctx:
                raise
            trained = llm.plan.n_ctx_train
            raise ContextLengthError(n, llm.n_ctx, "messages", trained=trained) from None
        return [prompt]

    def sampling(self, tokenizer: TextTokenizer) -> SamplingParams:
        """The sampling parameters asked for."""
        count = chat_logprobs_count(self.logprobs, self.top_logprobs)
        return self.params(tokenizer, logprobs=self.n_probs or count)

    def reply(self, llm: LanguageModel, completions: Sequence[Completion]) -> ChatReply:
        """What turns the answers into a response or its chunks."""
        return ChatReply(
            id=completions[0].id,
            created=completions[0].created,
            model=llm.name,
            piece=llm.tokenizer.piece,
            n=self.n,
            logprobs=self.wants_logprobs,
            include_usage=self.stream_options.include_usage,
            extras=True,
            response_fields=self.picked_fields(),
            verbose=native_reply(self, llm, completions).final if self.verbose else None,
            timed=self.timings_per_token,
            progress=self.return_progress,
            plain=completions[0].params.post_sampling_probs,
            dropped=dropped_indices(self.messages, completions[0].prompt),
            calls=Calls(
                completions[0].prompt.tools,
                anywhere=completions[0].params.json_schema is None,
                legacy=bool(self.functions),
            ),
        )


class CompletionRequest(SamplingFields):
    """The body of `/v1/completions`. `suffix` asks for what stands between `prompt` and it."""

    aliases = ALIASES | {"n_probs": "logprobs"}
    default_limit = DEFAULT_MAX_TOKENS

    prompt: Any
    suffix: str | None = None
    echo: bool = False
    best_of: int | None = None
    logprobs: int | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer carries log probabilities."""
        return self.logprobs is not None

    @property
    def candidates(self) -> int:
        """How many answers are written to every prompt."""
        return n_candidates(self.n, self.best_of)

    @property
    def ranked(self) -> bool:
        """Whether the best have to be found among more."""
        return self.candidates > self.n

    def prompts(self, llm: LanguageModel) -> list[Prompt]:
        """One prompt for each in the body."""
        if self.suffix is None:
            return parse_prompts(self.prompt, llm)
        if not isinstance(self.prompt, str):
            raise InvalidRequestError("suffix needs a {param} that is one text", "prompt")
        if self.echo:
            raise InvalidRequestError("{param} cannot be used together with suffix", "echo")
        check_text(self.prompt, "prompt")
        check_text(self.suffix, "suffix")
        return [llm.infill_prompt(self.prompt, self.suffix)]

    def sampling(self, tokenizer: TextTokenizer) -> SamplingParams:
        """The sampling parameters asked for."""
        if self.ranked and self.stream:
            raise InvalidRequestError("the {param} several answers cannot be streamed", "best_of")
        count = 0 if self.ranked and self.logprobs is None else self.logprobs
        return self.params(tokenizer, logprobs=count)

    def reply(self, llm: LanguageModel, completions: Sequence[Completion]) -> TextReply:
        """What turns the answers into a response or its chunks."""
        return TextReply(
            id=completions[0].id,
            created=completions[0].created,
            model=llm.name,
            piece=llm.tokenizer.piece,
            n=self.candidates,
            logprobs=self.wants_logprobs,
            include_usage=self.stream_options.include_usage,
            extras=True,
            response_fields=self.picked_fields(),
            verbose=native_reply(self, llm, completions).final if self.verbose else None,
            timed=self.timings_per_token,
            progress=self.return_progress,
            starts=[self._start(completion.prompt, llm.tokenizer) for completion in completions],
            keep=self.n if self.ranked else None,
            scored=self.echo,
        )

    def _start(self, prompt: Prompt, tokenizer: TextTokenizer) -> int:
        """Where the text of an answer begins, in characters: behind the prompt's unless it is echoed."""
        if not self.echo:
            return len(prompt_text(prompt, tokenizer))
        # The first piece of an echoed prompt has a space that its text has not.
        return -1 if tokenizer.add_space_prefix else 0


def model_json(name: str, created: int, meta: Json, names: Json) -> Json:
    """One entry of `/v1/models`, with llama-server's `meta`, and its `aliases` and `tags` (`names`)."""
    return {
        "id": name,
        **names,
        "object": "model",
        "created": created,
        "owned_by": "codellama",
        "meta": meta,
    }


def models_json(name: str, created: int, meta: Json, names: Json) -> Json:
    """The body of `/v1/models`."""
    return {"object": "list", "data": [model_json(name, created, meta, names)]}
