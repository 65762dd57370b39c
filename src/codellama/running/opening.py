"""Carrying out a `LoadPlan`: weights, contexts, adapters, drafters and the engine, as it says.

What is opened is freed by the `ExitStack` that it is entered in, in the reverse order.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from codellama import system
from codellama.devices.plan import LoadPlan, ModelPlan
from codellama.devices.processor_time import ProcessorTime
from codellama.devices.quota import read_quota
from codellama.engine import (
    Drafter,
    Engine,
    FormDrafter,
    ModelDrafter,
    NgramDrafter,
    PromptCache,
    Scheduler,
    Speculator,
    ThreadCount,
    Threads,
)
from codellama.errors import ModelLoadError, UnsupportedError
from codellama.files.gguf_header import GGUFHeader
from codellama.files.identity import weights_digest
from codellama.files.loadable import read_model
from codellama.files.lost_scores import mended_vocabulary
from codellama.files.provenance import sha256
from codellama.native.context import Context
from codellama.native.library import library
from codellama.native.model import LoraAdapter, Model
from codellama.native.settings import ContextSettings
from codellama.params import ModelConfig, Progress
from codellama.running.adapter_files import AdapterFile, adapter_paths
from codellama.running.adapters import Adapter, AdapterTable
from codellama.running.kv_file import Owner, settings_digest


def read_draft(config: ModelConfig) -> GGUFHeader | None:
    """The header of the draft model, if there is one. Raises ModelLoadError naming `draft_model`."""
    if config.draft_model is None:
        return None
    try:
        return read_model(config.draft_model)
    except ModelLoadError as error:
        raise error.about("draft_model") from error.__cause__


def open_model(plan: ModelPlan, undo: ExitStack, progress: Progress | None = None) -> Model:
    """The weights of `plan`; `progress` takes bytes loaded and in all. Raises ModelLoadError."""

    def loaded(share: float) -> None:
        if progress is not None:
            progress(round(share * plan.weight_bytes), plan.weight_bytes)

    if not plan.mends_vocabulary:
        return undo.enter_context(Model(plan.path, plan.weights, loaded))
    with mended_vocabulary(read_model(plan.path)) as vocabulary:
        return undo.enter_context(Model(plan.path, plan.weights, loaded, vocabulary))


def open_context(model: Model, settings: ContextSettings, undo: ExitStack) -> Context:
    """A context on `model`. Raises ModelLoadError if llama.cpp cannot make it."""
    context = Context(model, settings)
    undo.callback(context.close)
    return context


def open_encoder(
    model: Model, settings: ContextSettings | None, loras: Sequence[LoraAdapter]
) -> Context:
    """The context for embeddings, with all of the model's adapters; whoever opens it closes it.

    Raises ModelLoadError if llama.cpp cannot make it.
    """
    assert settings is not None, "embeddings are refused if the model was loaded without them"
    context = Context(model, settings)
    context.use_adapters(loras)
    return context


def open_adapters(
    adapters: Sequence[AdapterFile],
    model: Model,
    context: Context,
    header: GGUFHeader,
    plan: LoadPlan,
) -> tuple[list[LoraAdapter], AdapterTable, Owner]:
    """The LoRA adapters, in memory and known to `context`, and what requests may say of them.

    Beside them, what a KV state on disk belongs to: model, llama.cpp, settings and adapters' files. It is
    made while loading: later, files of the same names may be others than those in memory.
    """
    with adapter_paths(adapters) as paths:
        loras = [model.load_adapter(path) for path in paths]
        digests = [sha256(Path(path)) for path in paths]
    context.use_adapters(loras)
    table = AdapterTable(
        [
            Adapter(
                i, file.path, file.scale, lora.task_name, lora.prompt_prefix, file.plan is not None
            )
            for i, (file, lora) in enumerate(zip(adapters, loras, strict=True))
        ]
    )
    settings = settings_digest(library().version, *plan.state_settings, digests)
    return loras, table, Owner(weights_digest(header), settings)


def shift_problem(plan: LoadPlan, context: Context, config: ModelConfig) -> str | None:
    """Why the context cannot shift, if it cannot; an error if it was asked to by default."""
    if plan.shift_problem is not None or context.can_shift:
        return plan.shift_problem
    problem = "llama.cpp cannot move the tokens of this model"
    if config.context_shift:
        raise UnsupportedError(f": {problem}", setting="context_shift")
    return problem


def open_drafters(
    plan: LoadPlan, config: ModelConfig, main: Context, substitute: int, undo: ExitStack
) -> list[Drafter]:
    """Who guesses ahead. The draft model sees the token `substitute` where it does not know one, and computes
    with as many threads as the `main` context."""
    drafters: list[Drafter] = []
    if config.spec_type != "none":
        drafters.append(FormDrafter())
    if config.spec_type in ("auto", "ngram"):
        drafters.append(NgramDrafter())
    if plan.draft is not None:
        model = open_model(plan.draft, undo)
        context = open_context(model, plan.draft.context, undo)
        context.follow(main)
        drafters.append(
            ModelDrafter(
                context,
                config.n_seq_max,
                plan.cells,
                min(config.n_batch, max(config.prefill_chunk, 2 * config.n_seq_max)),
                config.spec_draft_p_min,
                plan.foreign_tokens,
                substitute=substitute,
            )
        )
    return drafters


def start_engine(
    plan: LoadPlan, config: ModelConfig, context: Context, drafters: list[Drafter]
) -> Engine:
    """The engine on `context`, running."""
    scheduler = Scheduler(
        config.n_seq_max,
        plan.cells,
        config.n_batch,
        config.prefill_chunk,
        config.max_outputs,
        PromptCache(plan.prompt_cache_bytes, plan.model.kv_bytes_per_cell),
    )
    speculator = Speculator(drafters, config.spec_draft_n_max)
    return Engine(context, scheduler, config.max_queue, speculator, engine_threads(plan))


def engine_threads(plan: LoadPlan) -> Threads:
    """How many threads the engine begins with, and what it may make of that."""
    threads, most = plan.threads, plan.threads.most
    adapts = most > 1 and (threads.adapts or threads.adapts_batch)
    return Threads(
        ThreadCount(threads.n, most, threads.reason, adapts=threads.adapts),
        ThreadCount(threads.n_batch, most, threads.reason, adapts=threads.adapts_batch),
        one_row_varies=plan.model.context.flash_attn != "off",
        processors=ProcessorTime(system.processors(), read_quota(Path("/"))) if adapts else None,
    )
