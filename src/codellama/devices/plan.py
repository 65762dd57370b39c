"""The plan of a load: everything that is chosen before weights are read, and why.

`planner.plan_load` makes it, `LLM` carries it out. A plan is a value: it can be printed, logged and written
as JSON, and holds no model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.devices.host_use import HostUse
from codellama.devices.placement import DeviceLayers
from codellama.devices.sizes import size_text
from codellama.devices.speed import ExpectedSpeed
from codellama.devices.thread_plan import ThreadPlan
from codellama.errors import CodeLlamaError
from codellama.native.settings import ContextSettings, WeightSettings

logger = logging.getLogger(__name__)

_ATTENTION = {"auto": "llama.cpp decides", "on": "flash attention", "off": "plain"}


@dataclass(frozen=True)
class ModelPlan:
    """How one GGUF is opened, and where its layers go: those on GPUs first, the CPU's last.

    Sizes are in bytes; `kv_bytes` are those of all its caches, an encoder's among them. `mends_vocabulary`
    says that its vocabulary has lost its scores (see `files.lost_scores`). `host` is how it lies in main
    memory, `expected` how fast it will be, None where a bandwidth is not known.
    """

    path: Path
    weights: WeightSettings
    context: ContextSettings
    placements: tuple[DeviceLayers, ...]
    n_params: int
    weight_bytes: int
    kv_bytes: int
    kv_bytes_per_cell: int
    host: HostUse
    expected: ExpectedSpeed | None = None
    mends_vocabulary: bool = False

    @property
    def host_bytes(self) -> int:
        """Bytes of weights, KV cache and scratch in the machine's main memory."""
        return self.placements[-1].nbytes


@dataclass(frozen=True)
class LoadPlan:
    """What an `LLM` opens, with the reasons in words; `print` it for a table.

    `n_ctx` is the context of one request in tokens, `n_ctx_train` what the model was trained for.
    `encoder` is the context for embeddings, None without them. `draft` is the model that guesses ahead,
    None without one; `foreign_tokens` are ids of the model that mean something else to it. `threads` are
    those to begin with.
    `prompt_cache_bytes` bounds the memory for prompts outside the KV cache. `shift_problem` says why
    the context cannot shift, None if it can. `memory_bytes` is the machine's main memory.
    `warnings` are those of the `reasons` that somebody should act on.
    """

    model: ModelPlan
    n_ctx: int
    n_ctx_train: int
    encoder: ContextSettings | None
    draft: ModelPlan | None
    foreign_tokens: frozenset[int]
    threads: ThreadPlan
    prompt_cache_bytes: int
    shift_problem: str | None
    memory_bytes: int
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def cells(self) -> int:
        """KV cells, shared by all requests."""
        return self.model.context.cells

    @property
    def host_bytes(self) -> int:
        """Bytes of weights and KV caches in the machine's main memory; the prompt cache comes on top."""
        return self.model.host_bytes + (self.draft.host_bytes if self.draft else 0)

    @property
    def pinned_bytes(self) -> int:
        """Those of them that cannot leave it."""
        return self.model.host.pinned + (self.draft.host.pinned if self.draft else 0)

    @property
    def line(self) -> str:
        """The plan in one line, without the reasons."""
        size = f"{self.model.context.n_seq_max} x {self.n_ctx} tokens"
        return f"{self.model.path.name}; {size}; layers: {self.where}"

    @property
    def where(self) -> str:
        """Where the layers are and how weights lie in main memory, in bytes too, and the speed to expect."""
        model = self.model
        speed = f"; {model.expected}" if model.expected else ""
        return f"{_layers_text(model)}, {model.host}{speed}"

    @property
    def state_settings(self) -> tuple[object, ...]:
        """What a KV state on disk depends on, besides the model's file, llama.cpp and the adapters."""
        context = self.model.context
        # Attention is among them because it decides which way round values are kept.
        return context.type_k, context.type_v, context.flash_attn, context.rope

    def __str__(self) -> str:
        rows = [f"{name:<13} {text}" for name, text in self._rows()]
        return "\n".join([*rows, "reasons", *(f"  {reason}" for reason in self.reasons)])

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON document; sizes are in bytes, contexts in tokens."""
        context = self.model.context
        document: dict[str, Any] = {
            "line": self.line,
            **_model_json(self.model),
            "n_ctx": self.n_ctx,
            "n_ctx_train": self.n_ctx_train,
            "n_seq_max": context.n_seq_max,
            "type_k": context.type_k,
            "type_v": context.type_v,
            "flash_attn": context.flash_attn,
            "threads": context.threads,
            "threads_batch": context.threads_batch,
            "threads_adapt": self.threads.adapts,
            "encoder": None,
            "draft": None,
            "prompt_cache_bytes": self.prompt_cache_bytes,
            "shift_problem": self.shift_problem,
            "host_bytes": self.host_bytes,
            "memory_bytes": self.memory_bytes,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
        }
        if self.encoder is not None:
            document["encoder"] = {"cells": self.encoder.cells, "n_batch": self.encoder.n_batch}
        if self.draft is not None:
            foreign = sorted(self.foreign_tokens)
            document["draft"] = {**_model_json(self.draft), "foreign_tokens": foreign}
        return document

    def log(self, failure: CodeLlamaError | None = None) -> None:
        """Write the table to this module's logger at INFO, and what to act on at WARNING.

        With `failure` this is what is tried after a plan for which memory did not suffice.
        """
        if failure is not None:
            logger.warning("memory ran out (%s): trying again with %s", failure, self.line)
        for line in str(self).splitlines():
            logger.info("%s", line)
        for warning in self.warnings:
            logger.warning("%s: %s", self.model.path.name, warning)

    def _rows(self) -> Iterator[tuple[str, str]]:
        context = self.model.context
        yield "model", _model_text(self.model)
        yield "layers", _layers_text(self.model)
        yield "context", f"{self.n_ctx} tokens a request, {context.n_seq_max} at a time"
        kinds = (
            context.type_k
            if context.type_k == context.type_v
            else (f"keys {context.type_k}, values {context.type_v}")
        )
        yield "KV cache", f"{self.cells} cells, {kinds}, {size_text(self.model.kv_bytes)}"
        if self.encoder is not None:
            yield (
                "embeddings",
                f"{self.encoder.cells} more cells, {self.encoder.n_batch} rows at a time",
            )
        yield "attention", _ATTENTION[context.flash_attn]
        if self.draft is not None:
            foreign = len(self.foreign_tokens)
            yield "draft model", f"{_model_text(self.draft)}, {foreign} foreign tokens"
            yield "draft layers", _layers_text(self.draft)
        yield "prompt cache", f"at most {size_text(self.prompt_cache_bytes)}"
        yield "context shift", self.shift_problem or "possible"
        adapts = ", as measured while it runs" if self.threads.adapts else ""
        yield "threads", f"{context.threads}, for prompts {context.threads_batch}{adapts}"
        yield (
            "memory",
            f"{size_text(self.host_bytes)} of {size_text(self.memory_bytes)}, {self.model.host}",
        )
        if self.model.expected is not None:
            slowest = f", {self.model.expected.share:.0%} of it on {self.model.expected.slowest}"
            yield "expected", f"{self.model.expected}{slowest}"


def _model_text(model: ModelPlan) -> str:
    return f"{model.path.name}, {model.n_params:,} weights, {size_text(model.weight_bytes)}"


def _layers_text(model: ModelPlan) -> str:
    return ", ".join(f"{p.layers} on {p.place} ({size_text(p.nbytes)})" for p in model.placements)


def _model_json(model: ModelPlan) -> dict[str, Any]:
    return {
        "file": model.path.name,
        "n_params": model.n_params,
        "weight_bytes": model.weight_bytes,
        "kv_bytes": model.kv_bytes,
        "cells": model.context.cells,
        "layers": [
            {
                "device": p.device,
                "endpoint": p.endpoint or None,
                "layers": p.layers,
                "bytes": p.nbytes,
                "weight_bytes": p.weights,
                "kv_bytes": p.kv,
                "compute_bytes": p.compute,
            }
            for p in model.placements
        ],
        "host_tensors": list(model.weights.host_tensors),
        "host_memory": {
            "way": model.host.way,
            "pinned_bytes": model.host.pinned,
            "mapped_bytes": model.host.mapped,
        },
        "expected": None
        if model.expected is None
        else {
            "tokens_per_second": round(model.expected.decode, 3),
            "prompt_tokens_per_second": round(model.expected.prompt, 2),
            "slowest": model.expected.slowest,
        },
    }
