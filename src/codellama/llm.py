"""`LLM`: a model, its tokenizer and its engine behind one object.

Text becomes tokens here, once, in the caller's thread; so bad parameters, a wrong role order, a broken
grammar and a prompt that is too long fail here, with the parameter's name. What is left is handed to the
engine as token ids. Every way of asking ends in `generate`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from codellama.chat import ChatFormat
from codellama.compat import LlamaCompatible
from codellama.completion import Completion, Mailbox
from codellama.devices import fit
from codellama.engine import Engine, EngineStatus, Scheduler
from codellama.engine.detokenizer import Detokenizer
from codellama.engine.sequence import Sequence as Request
from codellama.errors import (
    ContextLengthError,
    InvalidRequestError,
    ModelLoadError,
    UnsupportedError,
)
from codellama.native.context import Context
from codellama.native.library import library
from codellama.native.model import Model, Tokenizer
from codellama.native.sampler import Sampler
from codellama.params import Message, ModelConfig, Prompt, SamplingParams
from codellama.prompts import Prompts, corrections
from codellama.variants import Variant, recognise
from codellama.weights.gguf_header import GGUFHeader
from codellama.weights.split import read_model_header

MOST_CHOICES = 128  # OpenAI's limit for n

_BYTES_PER_VALUE = {  # of ggml's block types: bytes per block / values per block
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
    "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip


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
        header = _read_header(self.path)
        self.metadata = header.metadata
        self.variant: Variant | None = recognise(header.metadata)
        self.n_ctx = self.config.n_ctx or _trained_ctx(header, self.variant)
        cells = self.config.kv_cells or self._choose_cells(header)
        self.n_ctx = min(self.n_ctx, cells)
        self._model = Model(
            self.path,
            n_gpu_layers=self._gpu_layers(header, cells),
            main_gpu=self.config.main_gpu,
            split_mode=self.config.split_mode,
            tensor_split=self.config.tensor_split,
            use_mmap=self.config.use_mmap,
            use_mlock=self.config.use_mlock,
            overrides=corrections(header.metadata, self.variant),
        )
        try:
            self.tokenizer: Tokenizer = self._model.tokenizer
            self.prompts = Prompts(
                self.name, self.tokenizer, self.metadata, self.variant, self.config
            )
            context = Context(self._model, self.config, cells)
        except BaseException:
            self._model.close()
            raise
        scheduler = Scheduler(
            self.config.n_seq_max, cells, self.config.n_batch, self.config.prefill_chunk
        )
        self._engine = Engine(context, scheduler, self.config.max_queue)

    # -- loading ------------------------------------------------------------------------------

    def _kv_bytes_per_cell(self, header: GGUFHeader) -> int:
        meta = header.metadata
        heads = int(meta.get("llama.attention.head_count") or 1)
        kv_heads = int(meta.get("llama.attention.head_count_kv") or heads)
        head_dim = int(meta.get("llama.attention.key_length") or 0) or (
            int(meta.get("llama.embedding_length") or 0) // heads
        )
        per_value = (
            _BYTES_PER_VALUE[self.config.type_k] + _BYTES_PER_VALUE[self.config.type_v]
        ) / 2
        return fit.kv_bytes_per_cell(_n_layer(header), kv_heads, head_dim, per_value)

    def _choose_cells(self, header: GGUFHeader) -> int:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        per_cell = self._kv_bytes_per_cell(header)
        return fit.choose_cells(self.n_ctx, self.config.n_seq_max, per_cell, memory)

    def _gpu_layers(self, header: GGUFHeader, cells: int) -> int:
        wanted = self.config.n_gpu_layers
        gpus = library().gpus()
        if not gpus:
            if wanted in ("auto", 0):
                return 0
            raise UnsupportedError(
                f"n_gpu_layers={wanted} was asked for, but this llama.cpp has no GPU backend or sees "
                "no GPU: set n_gpu_layers to auto or 0, or run scripts/setup on a machine with one"
            )
        if wanted == "auto":
            tensors = {tensor.name: tensor.nbytes for tensor in header.tensors}
            layers = fit.layer_bytes(tensors, _n_layer(header))
            kv = self._kv_bytes_per_cell(header) * cells if self.config.offload_kqv else 0
            return fit.place_layers(layers, kv, [gpu.free_bytes for gpu in gpus]).n_gpu_layers
        return _n_layer(header) + 1 if wanted == "all" else int(wanted)

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

    def chat(self, messages: str | Iterable[Message], *, n: int = 1, **params: Any) -> Completion:
        """Answer a dialog. `params` are the fields of `SamplingParams`."""
        sampling = SamplingParams.of(**params)
        return self.generate(self.chat_prompt(messages), n=n, params=sampling)

    def complete(
        self, prompt: str | Sequence[int], *, n: int = 1, echo: bool = False, **params: Any
    ) -> Completion:
        """Continue a text (or token ids); with `echo` the answer begins with the prompt."""
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
                    requests.append(self._request(prompt, params, limit, i, mailbox))
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
        self, prompt: Prompt, params: SamplingParams, limit: int, index: int, mailbox: Mailbox
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
            detokenizer=Detokenizer(self.tokenizer.piece, params.stop, prompt.drop_leading_space),
            stop_tokens=stop_tokens | frozenset(params.stop_tokens),
            logprobs=params.logprobs,
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

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests and wait for the running ones; False after `timeout` seconds."""
        return self._engine.drain(timeout)

    def close(self) -> None:
        """End all requests and free the model; closing twice is harmless."""
        self._engine.close()
        self._model.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _read_header(path: Path) -> GGUFHeader:
    if path.is_dir():
        raise ModelLoadError(
            f"{path} is a folder: give a GGUF file, or make one with `codellama convert {path}`"
        )
    header = read_model_header(path)
    architecture = header.metadata.get("general.architecture")
    if architecture != "llama":
        raise ModelLoadError(
            f"{path} holds a model of architecture {architecture!r}: this runtime serves the Code "
            "Llama family, architecture 'llama'"
        )
    return header


def _n_layer(header: GGUFHeader) -> int:
    return int(header.metadata.get("llama.block_count") or 0)


def _trained_ctx(header: GGUFHeader, variant: Variant | None) -> int:
    """Early checkpoints of some variants claim too short a context: what the family table knows wins."""
    claimed = int(header.metadata.get("llama.context_length") or 0)
    return variant.n_ctx if variant else claimed or 4096
