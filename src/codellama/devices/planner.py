"""Makes the plan of a load from headers, a `ModelConfig` and a `Machine`. Pure.

Everything that is chosen before weights are read is chosen here, each choice with its reason in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from codellama.devices import fit, sizes
from codellama.devices.contexts import context_settings, encoder_settings
from codellama.devices.draft_vocabulary import foreign_tokens
from codellama.devices.fitting import readings
from codellama.devices.host_use import DISK, host_use
from codellama.devices.layers import Setting, choose_layers, without
from codellama.devices.machine import Machine
from codellama.devices.plan import LoadPlan, ModelPlan
from codellama.devices.processors import choose_threads
from codellama.devices.remedies import smaller_config, smaller_type
from codellama.devices.shift import shift_problem
from codellama.devices.sizes import size_text
from codellama.devices.speed import expected
from codellama.devices.thread_plan import plan_threads
from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.files.gguf_header import GGUFHeader
from codellama.files.lost_scores import MENDED, scores_are_lost
from codellama.native.settings import ContextSettings, WeightSettings
from codellama.params import FlashAttention, ModelConfig
from codellama.prompts.prompts import corrections
from codellama.variants import Variant, recognise


def plan_load(
    header: GGUFHeader,
    config: ModelConfig,
    machine: Machine,
    draft: GGUFHeader | None = None,
    adapter_bytes: int = 0,
) -> LoadPlan:
    """Plan to load the model of `header` on `machine`, with `draft` to guess ahead and LoRA adapters of so
    many bytes.

    Raises InvalidRequestError if the draft model has another vocabulary, a 70B was not trained for the
    context, or what must be in main memory does not fit. Raises UnsupportedError if GPU layers are asked of
    a machine without a GPU, or a context shift of a cache that cannot.
    """
    plan = _plan(header, config, machine, draft, adapter_bytes)
    need = plan.pinned_bytes
    if need > machine.room:
        raise _too_large(header, config, machine, draft, plan, need)
    return plan


def _plan(
    header: GGUFHeader,
    config: ModelConfig,
    machine: Machine,
    draft: GGUFHeader | None,
    adapter_bytes: int = 0,
) -> LoadPlan:
    foreign = foreign_tokens(header.metadata, draft.metadata) if draft else frozenset[int]()
    variant = recognise(header.metadata)
    trained = sizes.trained_ctx(header, variant)
    _check_context(config, variant)
    n_ctx, cells, size_reasons = _choose_sizes(header, config, machine, trained)
    flash_attn, attention_reason = _choose_attention(header, config, machine, cells)
    choice = choose_threads(machine.processors)
    context = context_settings(config, cells, flash_attn, choice.n)
    encoder = encoder_settings(config, n_ctx, choice.n)
    contexts = [context, *([encoder] if encoder else [])]
    model, reasons, found = _plan_model(header, config, contexts, machine, adapter_bytes)
    reasons = [*size_reasons, *reasons, f"attention: {attention_reason}"]
    drafting = None
    if draft is not None:
        drafting, draft_reasons, more = _plan_draft(draft, config, cells, machine, model)
        reasons += [f"draft {reason}" for reason in draft_reasons]
        found += more
    cache_bytes, cache_reason = _choose_prompt_cache(config, machine)
    threads = plan_threads(config, choice, model.placements)
    problem = shift_problem(header, config, machine)
    if problem is not None and config.context_shift:
        raise UnsupportedError(f": {problem}", setting="context_shift")
    warnings = (
        *((f"vocabulary: {MENDED}",) if model.mends_vocabulary else ()),
        *_context_warnings(n_ctx, trained),
        *found,
        *_memory_warnings(header, model, drafting, cache_bytes, machine),
    )
    return LoadPlan(
        model=model,
        n_ctx=n_ctx,
        n_ctx_train=trained,
        encoder=encoder,
        draft=drafting,
        foreign_tokens=foreign,
        threads=threads,
        prompt_cache_bytes=cache_bytes,
        shift_problem=problem,
        memory_bytes=machine.memory_bytes,
        reasons=(
            *reasons,
            f"prompt cache: {cache_reason}",
            f"threads: {threads.reason}",
            *warnings,
        ),
        warnings=warnings,
    )


def _choose_sizes(
    header: GGUFHeader, config: ModelConfig, machine: Machine, trained: int
) -> tuple[int, int, list[str]]:
    """Tokens of a request, KV cells for all of them, and the reasons."""
    n_ctx = config.n_ctx or trained
    asked = f"{n_ctx} tokens, as asked for"
    reason = asked if config.n_ctx else f"{n_ctx} tokens, what the model was trained for"
    if config.kv_cells:
        cells, cells_reason = config.kv_cells, "as asked for"
        if cells < n_ctx:
            n_ctx, reason = cells, f"{cells} tokens, all the cells there are"
    else:
        per_cell = sizes.kv_bytes_per_cell(header, config)
        cells = fit.choose_cells(n_ctx, config.n_seq_max, per_cell, machine.memory_bytes)
        cells_reason = (
            f"a full context for each of {config.n_seq_max} requests"
            if cells == n_ctx * config.n_seq_max
            else f"what an eighth of {size_text(machine.memory_bytes)} of memory holds, "
            "and at least one full context"
        )
    return n_ctx, cells, [f"context: {reason}", f"cells: {cells}, {cells_reason}"]


def _choose_attention(
    header: GGUFHeader, config: ModelConfig, machine: Machine, cells: int
) -> tuple[FlashAttention, str]:
    """What was asked for; "auto" is "off" where plain attention is better, else llama.cpp decides."""
    if config.flash_attn != "auto":
        return config.flash_attn, f"flash attention {config.flash_attn}, as asked for"
    if config.type_v not in ("f32", "f16", "bf16"):
        return "auto", f"llama.cpp decides; values of type {config.type_v} need flash attention"
    if machine.gpus and config.n_gpu_layers != 0:
        return "auto", "llama.cpp decides for the GPU"
    if fit.plain_attention(config.n_seq_max, sizes.n_heads(header), cells, config.n_ubatch):
        return "off", "flash attention off: one request at a time on a CPU"
    if config.n_seq_max > 1:
        return "auto", "llama.cpp decides: several requests at a time on a CPU"
    most = size_text(fit.MOST_SCORES)
    return "auto", f"llama.cpp decides: without flash attention scores would take over {most}"


def _choose_prompt_cache(config: ModelConfig, machine: Machine) -> tuple[int, str]:
    if config.cache_ram is not None:
        return config.cache_ram << 20, "as asked for"
    nbytes = fit.choose_cache_bytes(machine.memory_bytes)
    memory = size_text(machine.memory_bytes)
    return nbytes, f"at most {size_text(nbytes)}, for {memory} of memory"


def _plan_model(
    header: GGUFHeader,
    config: ModelConfig,
    contexts: Sequence[ContextSettings],
    machine: Machine,
    adapter_bytes: int = 0,
    setting: Setting = "n_gpu_layers",
) -> tuple[ModelPlan, list[str], list[str]]:
    """How the file is opened and where it lies; the reasons; and what to warn of."""
    model = sizes.model_sizes(header, machine.rearranges, adapter_bytes)
    choice = choose_layers(model, contexts, config, machine.gpus, machine.bandwidth, setting)
    work, split = choice.work, choice.split
    placements = work.placed(split)
    cpu = placements[-1]
    use, use_reason = host_use(
        config, cpu.weights, work.rearranged(split), cpu.kv + cpu.compute, machine.room
    )
    disk = 0.0 if use.fits else machine.disk_bandwidth or DISK
    found = expected(
        readings(work, split, machine.bandwidth, disk),
        config.n_ubatch,
        sizes.n_params(header) / max(1, sizes.weight_bytes(header)),
    )
    alone = config.split_mode == "none"
    weights = WeightSettings(
        n_gpu_layers=split.n_gpu_layers,
        main_gpu=0 if alone else config.main_gpu,
        split_mode=config.split_mode,
        tensor_split=choice.tensor_split,
        use_mmap=config.use_mmap,
        use_mlock=config.use_mlock,
        devices=work.gpus,
        host_tensors=choice.host_tensors,
        rearrange=use.way == "rearranged" or (use.way != "mapped" and config.repack != "off"),
        overrides=corrections(header.metadata, recognise(header.metadata)),
    )
    plan = ModelPlan(
        path=header.path,
        weights=weights,
        context=contexts[0],
        placements=placements,
        n_params=sizes.n_params(header),
        weight_bytes=sizes.weight_bytes(header),
        kv_bytes=work.layer_kv * work.sizes.n_layer,
        kv_bytes_per_cell=sizes.kv_bytes_per_cell(header, config),
        host=use,
        expected=found,
        mends_vocabulary=scores_are_lost(header.metadata),
    )
    reasons = [f"layers: {choice.reason}", f"main memory: {use_reason}"]
    return plan, reasons, list(choice.warnings)


def _plan_draft(
    header: GGUFHeader, config: ModelConfig, cells: int, machine: Machine, model: ModelPlan
) -> tuple[ModelPlan, list[str], list[str]]:
    """The draft model, on what the model has left of GPUs and main memory."""
    left = replace(
        machine,
        gpus=tuple(without(machine.gpus, model.placements)),
        available_bytes=max(0, machine.room - model.host.pinned - model.host.mapped),
    )
    kept = replace(config, use_mlock=False, repack="auto") if config.use_mmap else config
    threads = choose_threads(machine.processors).n
    context = context_settings(config, cells, threads=threads)
    return _plan_model(header, kept, [context], left, 0, "draft_gpu_layers")


def _too_large(
    header: GGUFHeader,
    config: ModelConfig,
    machine: Machine,
    draft: GGUFHeader | None,
    plan: LoadPlan,
    need: int,
) -> InvalidRequestError:
    """The error for caches and scratch that main memory does not hold, with what would fit."""

    def fits(other: ModelConfig) -> bool:
        try:
            return _plan(header, other, machine, draft).pinned_bytes <= machine.room
        except InvalidRequestError:
            return False

    would = smaller_config(config, plan.n_ctx, fits)
    return InvalidRequestError(
        "{param}: KV cache and scratch memory of {cells} tokens need {need} of main memory, {room} are free",
        "n_ctx",
        f"what would fit: {', or '.join(would)}"
        if would
        else "close other programs, or use a smaller model",
        cells=plan.cells,
        need=size_text(need),
        room=size_text(machine.room),
    )


def _check_context(config: ModelConfig, variant: Variant | None) -> None:
    """A 70B is of no use beyond its context, which the model card says is 16384 where it is 4096."""
    if variant is None or config.n_ctx is None or config.beyond_training or config.rope:
        return
    if variant.shape.size == "70b" and config.n_ctx > variant.n_ctx:
        raise InvalidRequestError(
            "{param} is {n_ctx} and {name} was trained for {trained}",
            "n_ctx",
            "set {beyond_training} to have it all the same",
            n_ctx=config.n_ctx,
            name=variant.name,
            trained=variant.n_ctx,
        )


def _context_warnings(n_ctx: int, trained: int) -> list[str]:
    if n_ctx <= trained:
        return []
    return [
        f"context: {n_ctx} tokens are more than the {trained} the model was trained for: "
        "what it writes beyond them may be of no use"
    ]


def _memory_warnings(
    header: GGUFHeader,
    model: ModelPlan,
    draft: ModelPlan | None,
    cache_bytes: int,
    machine: Machine,
) -> list[str]:
    uses = [model.host, *([draft.host] if draft else [])]
    host_bytes = sum(use.pinned + use.mapped for use in uses)
    if host_bytes > machine.room:
        room = machine.room - sum(use.pinned for use in uses)
        share = model.placements[-1].weights / max(1, model.weight_bytes)
        smaller = smaller_type(model.n_params, round(room / max(share, 1e-9)), model.weight_bytes)
        speed = f", {model.expected}" if model.expected else ""
        return [
            f"memory: {size_text(host_bytes)} do not fit the {size_text(machine.room)} that are free, "
            f"weights will come from the disk for every token{speed}: choose a smaller type"
            + (f", {smaller} fits" if smaller else "")
        ]
    if host_bytes + cache_bytes > machine.room:
        return [
            f"memory: beside {size_text(host_bytes)} of weights and KV cache the prompt cache may "
            f"outgrow the {size_text(machine.room)} that are free: give it a smaller bound"
        ]
    return []
