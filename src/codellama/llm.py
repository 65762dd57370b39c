"""`LLM`: a model, its tokenizer and its engine behind one object.

Text becomes tokens here, once, in the caller's thread; so bad parameters, a wrong role order, a broken
grammar and a prompt that is too long fail here, with the parameter's name. What is left is handed to the
engine as token ids. Every way of asking ends in `generate`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from codellama import loading
from codellama.chat import ChatFormat
from codellama.compat import LlamaCompatible
from codellama.completion import Completion, Mailbox
from codellama.engine import (
    Drafter,
    Engine,
    EngineStatus,
    ModelDrafter,
    NgramDrafter,
    PromptCache,
    Scheduler,
    Speculator,
)
from codellama.engine.detokenizer import Detokenizer
from codellama.engine.sequence import Sequence as Request
from codellama.errors import (
    ContextLengthError,
    InvalidRequestError,
)
from codellama.history import drop_oldest
from codellama.kv_file import StaleStateError, fingerprint, read_state, write_state
from codellama.native.context import Context
from codellama.native.library import library
from codellama.native.model import Model, Tokenizer
from codellama.native.sampler import Sampler
from codellama.params import Message, ModelConfig, Prompt, SamplingParams
from codellama.prompts import Prompts, corrections
from codellama.variants import Variant, recognise
from codellama.weights.gguf_header import GGUFHeader
from codellama.weights.loadable import check_adapter, read_model

ContextPolicy = Literal["error", "drop_oldest"]
MIB = 2**20
MOST_CHOICES = 128  # OpenAI's limit for n


class LLM(LlamaCompatible):
    """A loaded model that answers many requests at once. Close it, or use it as a context manager.

    ::

        with LLM("codellama-70b-instruct.Q4_K_M.gguf") as llm:
            print(llm.chat("Print a hello world in Python").text())
            for piece in llm.complete("def fibonacci(", max_tokens=100):
                print(piece, end="")
    """

    def __init__(self, model: str | Path, **config: Any) -> None:
        """Load a GGUF, of a split one the first file. `config` are the fields of `ModelConfig`.

        Raises ModelLoadError if the file cannot be read or does not fit, UnsupportedError if GPU
        layers are asked of a llama.cpp without a GPU backend, InvalidRequestError for a bad option.
        """
        self.config = ModelConfig.of(**config)
        self.path = Path(model)
        self.name = self.path.stem
        header = read_model(self.path)
        self.metadata = header.metadata
        self.variant: Variant | None = recognise(header.metadata)
        self.n_ctx = self.config.n_ctx or loading.trained_ctx(header, self.variant)
        cells = self.config.kv_cells or loading.choose_cells(header, self.config, self.n_ctx)
        self.n_ctx = min(self.n_ctx, cells)
        draft = self._draft_header()
        for adapter, _ in self.config.adapters:
            check_adapter(adapter)
        with ExitStack() as undo:
            self._model = undo.enter_context(
                self._open(self.path, header, cells, self.config.n_gpu_layers)
            )
            self.tokenizer: Tokenizer = self._model.tokenizer
            self.prompts = Prompts(
                self.name, self.tokenizer, self.metadata, self.variant, self.config
            )
            context = Context(self._model, self.config, cells)
            undo.callback(context.close)
            context.apply_adapters(self.config.adapters)
            drafters = self._drafters(draft, cells, undo)
            self._resources = undo.pop_all()
        self._cells = cells
        self._owner = fingerprint(
            self.path,
            header.data_offset,
            library().version,
            self.config.type_k,
            self.config.type_v,
            self.config.rope,
            self.config.adapters,
        )
        scheduler = Scheduler(
            self.config.n_seq_max,
            cells,
            self.config.n_batch,
            self.config.prefill_chunk,
            self.config.max_outputs,
            PromptCache(
                self.config.cache_ram * MIB, loading.kv_bytes_per_cell(header, self.config)
            ),
        )
        speculator = Speculator(drafters, self.config.spec_draft_n_max)
        self._engine = Engine(context, scheduler, self.config.max_queue, speculator)

    # -- loading ------------------------------------------------------------------------------

    def _open(
        self, path: Path, header: GGUFHeader, cells: int, layers: int | Literal["all", "auto"]
    ) -> Model:
        return Model(
            path,
            n_gpu_layers=loading.gpu_layers(header, self.config, cells, layers),
            main_gpu=self.config.main_gpu,
            split_mode=self.config.split_mode,
            tensor_split=self.config.tensor_split,
            use_mmap=self.config.use_mmap,
            use_mlock=self.config.use_mlock,
            overrides=corrections(header.metadata, recognise(header.metadata)),
        )

    def _draft_header(self) -> GGUFHeader | None:
        """The draft model's header; its vocabulary is checked before anything is loaded."""
        if self.config.draft_model is None:
            return None
        header = read_model(self.config.draft_model)
        loading.foreign_tokens(self.metadata, header.metadata)
        return header

    def _drafters(self, draft: GGUFHeader | None, cells: int, undo: ExitStack) -> list[Drafter]:
        """Who guesses ahead; `undo` frees the draft model."""
        config = self.config
        drafters: list[Drafter] = []
        if config.spec_type in ("auto", "ngram"):
            drafters.append(NgramDrafter())
        if draft is not None and config.draft_model is not None:
            path = Path(config.draft_model)
            model = undo.enter_context(self._open(path, draft, cells, config.draft_gpu_layers))
            context = Context(model, config, cells)
            undo.callback(context.close)
            chunk = min(config.n_batch, max(config.prefill_chunk, 2 * config.n_seq_max))
            foreign = loading.foreign_tokens(self.metadata, draft.metadata)
            drafters.append(
                ModelDrafter(
                    context,
                    config.n_seq_max,
                    cells,
                    chunk,
                    config.spec_draft_p_min,
                    foreign,
                    substitute=self.tokenizer.eos,
                )
            )
        return drafters

    # -- prompts ------------------------------------------------------------------------------

    @property
    def chat_format(self) -> ChatFormat | None:
        """How dialogs are written; None for base and Python models."""
        return self.prompts.chat_format

    def chat_prompt(self, messages: str | Iterable[Message]) -> Prompt:
        """The ids of a dialog; a text is one user turn. Raises ChatFormatError, UnsupportedError."""
        return self.prompts.chat(messages)

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
        context_policy: ContextPolicy = "error",
        **params: Any,
    ) -> Completion:
        """Answer a dialog. `params` are the fields of `SamplingParams`.

        A dialog that is too long is a ContextLengthError, or with `context_policy="drop_oldest"`
        goes without its oldest turns, as many as leave room for the answer (`max_tokens`, or a
        quarter of the context); they are in the completion's `dropped`.
        """
        sampling = SamplingParams.of(**params)
        dropped: list[Message] = []
        if context_policy == "drop_oldest" and not isinstance(messages, str):
            messages, dropped = self._shortened(list(messages), sampling.max_tokens)
        elif context_policy not in ("error", "drop_oldest"):
            raise InvalidRequestError(
                f"context_policy must be error or drop_oldest; got {context_policy!r}",
                "context_policy",
            )
        completion = self.generate(self.chat_prompt(messages), n=n, params=sampling)
        completion.dropped = tuple(dropped)
        return completion

    def _shortened(
        self, messages: list[Message], max_tokens: int | None
    ) -> tuple[list[Message], list[Message]]:
        quarter = self.n_ctx // 4
        room = self.n_ctx - min(quarter if max_tokens is None else max_tokens, self.n_ctx - 1)
        self.chat_prompt(messages)  # a wrong dialog is an error as it stands
        return drop_oldest(messages, lambda kept: len(self.chat_prompt(kept).tokens) <= room)

    def complete(
        self, prompt: str | Sequence[int], *, n: int = 1, echo: bool = False, **params: Any
    ) -> Completion:
        """Continue a text (or token ids); with `echo` the answer begins with the prompt.

        With `echo` and `logprobs` the prompt's tokens are scored too: their log probabilities come
        first, NaN for the very first one. `max_tokens=0` then only scores.
        """
        sampling = SamplingParams.of(**params)
        return self.generate(self.complete_prompt(prompt), n=n, params=sampling, echo=echo)

    def infill(self, prefix: str, suffix: str, *, n: int = 1, **params: Any) -> Completion:
        """Write what stands between `prefix` and `suffix`."""
        sampling = SamplingParams.of(**params)
        return self.generate(self.infill_prompt(prefix, suffix), n=n, params=sampling)

    def generate(
        self, prompt: Prompt, *, params: SamplingParams, n: int = 1, echo: bool = False
    ) -> Completion:
        """Submit a prompt; the one path under all others.

        Raises ContextLengthError, GrammarError, InvalidRequestError, QueueFullError and
        EngineDeadError before anything is decoded. With a seed, choice i is drawn with seed + i.
        """
        if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MOST_CHOICES:
            raise InvalidRequestError(f"n must be from 1 to {MOST_CHOICES}; got {n!r}", "n")
        room = self.n_ctx - len(prompt.tokens)
        if room <= 0:
            raise ContextLengthError(len(prompt.tokens), self.n_ctx)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        self._check_ids("stop_tokens", params.stop_tokens)
        mailbox = Mailbox()
        requests: list[Request] = []
        try:
            with self._model.using():
                for i in range(n):
                    requests.append(self._request(prompt, params, limit, i, mailbox, echo))
            self._engine.submit(requests)
        except BaseException:
            for request in requests:
                request.sampler.close()
            raise
        return Completion(
            prompt, n, mailbox, lambda: self._cancel(requests), self._text(prompt) if echo else ""
        )

    def _text(self, prompt: Prompt) -> str:
        """What was tokenized: without the space that the vocabulary put before it."""
        text = self.tokenizer.decode(prompt.tokens)
        return text.removeprefix(" ") if self.tokenizer.add_space_prefix else text

    def _request(
        self,
        prompt: Prompt,
        params: SamplingParams,
        limit: int,
        index: int,
        mailbox: Mailbox,
        echo: bool,
    ) -> Request:
        stop_tokens = prompt.stop_tokens | self.tokenizer.eog_tokens
        banned = sorted(stop_tokens) if params.ignore_eos else []
        if params.seed is not None:
            params = replace(params, seed=params.seed + index)
        return Request(
            prompt=prompt.tokens,
            max_tokens=limit,
            sampler=Sampler(params, self.tokenizer, self.n_ctx, prompt.tokens, banned),
            sink=functools.partial(mailbox.put, index),
            detokenizer=Detokenizer(
                self.tokenizer.piece, params.stop, prompt.drop_leading_space, params.n_indent
            ),
            stop_tokens=stop_tokens | frozenset(params.stop_tokens),
            logprobs=params.logprobs,
            prompt_logprobs=params.logprobs if echo else None,
            deadline=None if params.timeout_s is None else time.perf_counter() + params.timeout_s,
            max_decode_s=params.t_max_predict_ms / 1000 or None,
        )

    def _check_ids(self, param: str, tokens: Iterable[int]) -> None:
        for token in tokens:
            if token >= self.tokenizer.n_vocab:
                raise InvalidRequestError(
                    f"{param}: token id {token} is not in the vocabulary "
                    f"(0 to {self.tokenizer.n_vocab - 1})",
                    param,
                )

    def _cancel(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._engine.cancel(request)

    # -- the end ------------------------------------------------------------------------------

    def status(self) -> EngineStatus:
        """A snapshot of the engine after its latest step."""
        return self._engine.status

    def save_state(self, tokens: Sequence[int], path: str | Path) -> bool:
        """Write the KV state that shares most with `tokens` to a file; False if there is none."""
        state = self._engine.save_state(tokens)
        if state is None:
            return False
        write_state(Path(path), self._owner, state)
        return True

    def load_state(self, path: str | Path) -> None:
        """Take in what `save_state` wrote: the next prompt that begins with its tokens resumes there.

        Raises StaleStateError if the file belongs to another model or other settings, or is damaged.
        """
        state = read_state(Path(path), self._owner)
        if len(state.tokens) > self._cells:
            raise StaleStateError(f"{path} holds {len(state.tokens)} tokens, more than fit here")
        self._engine.add_state(state)

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests and wait for the running ones; False after `timeout` seconds."""
        return self._engine.drain(timeout)

    def close(self) -> None:
        """End all requests and free the model; closing twice is harmless."""
        self._engine.close()
        self._resources.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
