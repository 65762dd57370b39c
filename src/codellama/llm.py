"""`LLM`: a model, its tokenizer and its engine behind one object.

Text becomes tokens here, once, in the caller's thread; so bad parameters, a wrong role order, a broken
grammar and a prompt that is too long fail here, with the parameter's name. What is left is handed to the
engine as token ids. Every way of asking ends in `generate`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from typing_extensions import Unpack

from codellama.compat.embeddings import EmbeddingCompatible
from codellama.compat.llama import LlamaCompatible
from codellama.compat.pretrained import FromPretrained
from codellama.devices.plan import LoadPlan
from codellama.engine import EngineStatus
from codellama.engine.request import Delta
from codellama.errors import ContextLengthError, InvalidRequestError, UnsupportedError
from codellama.files.loadable import read_model
from codellama.files.provenance import published_name
from codellama.models import resolve_model
from codellama.native.hooks import TokenHooks
from codellama.native.model import Tokenizer
from codellama.params import (
    CONTEXT_POLICIES,
    ContextPolicy,
    Message,
    ModelConfig,
    Pooling,
    Progress,
    Prompt,
    SamplingParams,
    Tools,
)
from codellama.params.options import ModelOptions, SamplingOptions
from codellama.prompts.chat import ChatFormat
from codellama.prompts.prompts import Prompts
from codellama.running.adapters import Adapter, LoraScales
from codellama.running.collected import n_candidates
from codellama.running.completion import Completion, Deliver, delivery
from codellama.running.core import Ask, ModelCore, SlotActions, open_here
from codellama.running.embedding import Embeddings, checked_pooling, norm_number
from codellama.running.intake import check_count
from codellama.running.isolated import IsolatedCore
from codellama.running.mailbox import Mailbox
from codellama.variants import Variant, recognise


class LLM(LlamaCompatible, EmbeddingCompatible, FromPretrained):
    """A loaded model that answers many requests at once. Close it, or use it as a context manager.

    ::

        with LLM("codellama-70b-instruct.Q4_K_M.gguf") as llm:
            print(llm.chat("Print a hello world in Python").text())
            for piece in llm.complete("def fibonacci(", max_tokens=100):
                print(piece, end="")
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        **config: Unpack[ModelOptions],
    ) -> None:
        """Load a GGUF, of a split one the first file. `config` are the fields of `ModelConfig`.

        `model` is a path, or a name such as "demo" or "70b-instruct:Q8_0" (see `codellama.models`).
        `progress` is called on this thread with the bytes of weights that have been loaded and that there
        are. What it raises, or Ctrl-C, ends the load. `name` is the published model's, or the file's stem.

        Raises ModelLoadError if the file cannot be read or does not fit, UnsupportedError if GPU
        layers are asked of a llama.cpp without a GPU backend or a context shift of a cache that cannot,
        InvalidRequestError for a bad option.
        """
        self.config = ModelConfig.of(**config)
        self.path = resolve_model(model)
        header = read_model(self.path)
        self.name = published_name(header.metadata) or self.path.stem
        self.metadata = header.metadata
        self.variant: Variant | None = recognise(header.metadata)
        opened = IsolatedCore if self.config.isolated else open_here
        self._core: ModelCore = opened(header, self.config, progress)
        self.n_ctx = self._core.plan.n_ctx
        self.tokenizer: Tokenizer = self._core.tokenizer
        self.prompts = Prompts(self.name, self.tokenizer, self.metadata, self.variant, self.config)

    @property
    def plan(self) -> LoadPlan:
        """How the model was loaded."""
        return self._core.plan

    @property
    def slots(self) -> SlotActions:
        """What the engine's slots do and hold."""
        return self._core.slots

    # -- prompts ------------------------------------------------------------------------------

    @property
    def chat_format(self) -> ChatFormat | None:
        """How dialogs are written; None for base and Python models."""
        return self.prompts.chat_format

    def chat_prompt(
        self,
        messages: str | Iterable[Message],
        *,
        context_policy: ContextPolicy | None = None,
        max_tokens: int | None = None,
        tools: Tools | None = None,
    ) -> Prompt:
        """The ids of a dialog; a text is one user turn. The system turn says what `tools` there are.
        If the last message is the assistant's, the answer goes on with it.

        Raises ChatFormatError, UnsupportedError, and InvalidRequestError for tools without a chat format.

        With `context_policy="drop_oldest"` a dialog that is too long goes without its oldest turns,
        as many as leave room for the answer (`max_tokens`, or a quarter of the context); they are
        in the prompt's `dropped`. None takes the policy that the model was loaded with.
        """
        policy = context_policy or self.config.context_policy
        if policy not in CONTEXT_POLICIES:
            raise InvalidRequestError(
                "{param} must be error or drop_oldest; got {policy!r}",
                "context_policy",
                policy=policy,
            )
        if policy == "error" or isinstance(messages, str):
            return self.prompts.chat(messages, tools)
        return self.prompts.chat_within(list(messages), self.n_ctx, max_tokens, tools)

    def complete_prompt(self, prompt: str | Sequence[int]) -> Prompt:
        """BOS and the text as plain text; token ids are taken as they are."""
        return self.prompts.complete(prompt)

    def infill_prompt(self, prefix: str, suffix: str) -> Prompt:
        """The ids that ask for what stands between `prefix` and `suffix`. Raises UnsupportedError."""
        return self.prompts.infill(prefix, suffix)

    # -- asking -------------------------------------------------------------------------------

    def chat(
        self,
        messages: str | Iterable[Message],
        *,
        n: int = 1,
        context_policy: ContextPolicy | None = None,
        tools: Tools | None = None,
        **params: Unpack[SamplingOptions],
    ) -> Completion:
        """Answer a dialog. `params` are the fields of `SamplingParams`.

        With `tools` a result's choice may have `tool_calls`; what they give is the next messages, of the
        role tool.

        A dialog that is too long is a ContextLengthError, or with `context_policy="drop_oldest"`
        goes without its oldest turns (see `chat_prompt`); they are in the completion's `dropped`.
        """
        sampling = SamplingParams.of(**params)
        limit = sampling.max_tokens
        prompt = self.chat_prompt(
            messages, context_policy=context_policy, max_tokens=limit, tools=tools
        )
        return self.generate(prompt, n=n, params=sampling)

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        n: int = 1,
        best_of: int | None = None,
        echo: bool = False,
        **params: Unpack[SamplingOptions],
    ) -> Completion:
        """Continue a text (or token ids); with `echo` the answer begins with the prompt.

        With `best_of` (at least `n`) so many candidates are written, and the result has the `n` with
        the highest log probability per token, best first; usage counts all. The prompt is decoded once.

        With `echo` and `logprobs` the prompt's tokens are scored too: their log probabilities come
        first, NaN for the very first one. `max_tokens=0` then only scores.
        """
        sampling = SamplingParams.of(**params)
        tokens = self.complete_prompt(prompt)
        return self.generate(tokens, n=n, params=sampling, echo=echo, best_of=best_of)

    def infill(
        self, prefix: str, suffix: str, *, n: int = 1, **params: Unpack[SamplingOptions]
    ) -> Completion:
        """Write what stands between `prefix` and `suffix`."""
        sampling = SamplingParams.of(**params)
        return self.generate(self.infill_prompt(prefix, suffix), n=n, params=sampling)

    def embeddings(
        self,
        prompts: Sequence[Prompt],
        *,
        pooling: Pooling | None = None,
        normalize: bool | int = True,
    ) -> Future[Embeddings]:
        """Turn prompts into vectors; `embed` is the simple call, for texts, that waits.

        `result()` waits, `await asyncio.wrap_future(...)` does in an event loop, `cancel()` stops it.

        Work is done between the steps of running answers, at most `prefill_chunk` tokens at a
        time. `pooling` "mean", "cls" (first token), "last" or "none" (a vector per token); None is
        the loaded model's. `normalize` scales to length 1; a number is llama.cpp's `embd_normalize`.

        Raises UnsupportedError if the model was not loaded with `embeddings`, ContextLengthError,
        InvalidRequestError, QueueFullError and EngineDeadError before anything is decoded.
        """
        if not self.config.embeddings:
            raise UnsupportedError(
                "this model was loaded without embeddings", "load it with embeddings=True"
            )
        way = checked_pooling(pooling or self.config.pooling)
        for prompt in prompts:
            if len(prompt.tokens) > self.n_ctx:
                raise ContextLengthError(
                    len(prompt.tokens), self.n_ctx, "input", trained=self.plan.n_ctx_train
                )
        if not prompts:
            raise InvalidRequestError("{param} is empty: give at least one text", "input")
        return self._core.embed([p.tokens for p in prompts], way, norm_number(normalize))

    def generate(
        self,
        prompt: Prompt,
        *,
        params: SamplingParams,
        n: int = 1,
        echo: bool = False,
        best_of: int | None = None,
        deliver: Deliver | None = None,
        reports: bool = False,
        hooks: TokenHooks | None = None,
    ) -> Completion:
        """Submit a prompt; the one path under all others.

        `deliver(index, delta)` gets what is new in choice `index`, on the engine's thread, so it must be
        quick; each choice has exactly one final delta, and an error comes in it. Without `deliver`, deltas
        are read from the completion. With `reports` each delta has usage and timings as of then, and deltas
        that are otherwise empty say how much of the prompt has been decoded. `hooks` have a
        say in each token.

        Raises ContextLengthError, GrammarError, InvalidRequestError, UnsupportedError, QueueFullError
        and EngineDeadError before anything is decoded. With a seed, choice i is drawn with seed + i.
        """
        candidates = n_candidates(n, best_of)
        check_count(candidates, self.config)
        params = params.with_defaults(self.config)
        if best_of is not None:
            params = replace(params, logprobs=params.logprobs or 0)
        mailbox: Mailbox[tuple[int, Delta]] | None = None
        if deliver is None:
            mailbox = Mailbox()
            deliver = delivery(mailbox)
        ask = Ask(prompt, params, candidates, echo, reports)
        running = self._core.submit(ask, deliver, hooks)
        return Completion(
            prompt,
            candidates,
            mailbox,
            running.cancel,
            params=params,
            scored=echo,
            keep=None if best_of is None else n,
            tasks=running.tasks,
        )

    def check(self, params: SamplingParams) -> None:
        """Raise what a request with these would raise; nothing is decoded."""
        self._core.check(Ask(self.complete_prompt(""), params.with_defaults(self.config)))

    # -- LoRA adapters ------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The loaded LoRA adapters and their scales for requests that name none."""
        return self._core.adapters

    def set_adapters(self, lora: LoraScales) -> None:
        """Change these scales, for requests from now on; adapters that are not named get 0.

        Raises InvalidRequestError for an unknown adapter or a scale that is no number.
        """
        self._core.set_adapters(lora)

    def warm_up(self) -> None:
        """Do now what the first answer under a schema would wait for, up to half a second; the server does.

        Raises EngineDeadError after `close`."""
        self._core.warm_up()

    # -- the end ------------------------------------------------------------------------------

    @property
    def problem(self) -> str | None:
        """Why no request is taken now, such as an engine that has stopped; None if they are."""
        return self._core.problem

    def status(self) -> EngineStatus:
        """A snapshot of the engine after its latest step."""
        return self._core.status()

    def save_state(
        self, tokens: Sequence[int], path: str | Path, *, lora: LoraScales | None = None
    ) -> bool:
        """Write the KV state that shares most with `tokens` to a file; False if there is none.

        `lora` is that of the request that left the state there.
        """
        return self._core.save_state(tokens, lora, Path(path))

    def load_state(self, path: str | Path) -> None:
        """Take in what `save_state` wrote: the next prompt that begins with its tokens resumes there.

        Raises StaleStateError if the file belongs to another model or other settings, or is damaged.
        """
        self._core.load_state(Path(path))

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests and wait for the running ones; False after `timeout` seconds."""
        return self._core.drain(timeout)

    def close(self) -> None:
        """End all requests and free the model; closing twice is harmless."""
        self._core.close()

    def __repr__(self) -> str:
        chat = self.chat_format.name if self.chat_format else "none"
        layers = self.metadata["llama.block_count"]
        return f"<LLM {self.name}: context {self.n_ctx}, chat format {chat}, {layers} layers>"

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
