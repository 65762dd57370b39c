"""Makes the plan of a load from headers, a `ModelConfig` and a `Machine`. Pure.

Everything that is chosen before weights are read is chosen here, each choice with its reason in words.
"""

from __future__ import annotations

from codellama.devices import fit, sizes
from codellama.devices.contexts import context_settings, encoder_cells, encoder_settings
from codellama.devices.draft_vocabulary import foreign_tokens
from codellama.devices.layers import DeviceLayers, gpu_layers, place, without
from codellama.devices.machine import Machine
from codellama.devices.plan import LoadPlan, ModelPlan
from codellama.devices.shift import shift_problem
from codellama.devices.sizes import size_text
from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.files.gguf_header import GGUFHeader
from codellama.files.lost_scores import MENDED, scores_are_lost
from codellama.native.settings import ContextSettings, WeightSettings
from codellama.params import FlashAttention, ModelConfig
from codellama.prompts.prompts import corrections
from codellama.variants import Variant, recognise


def plan_load(
    header: GGUFHeader, config: ModelConfig, machine: Machine, draft: GGUFHeader | None = None
) -> LoadPlan:
    """Plan to load the model of `header` on `machine`, with `draft` to guess ahead.

    Raises InvalidRequestError if the draft model has another vocabulary or a 70B was not trained for the
    context, UnsupportedError if GPU layers
    are asked of a machine without a GPU, or a context shift of a cache that cannot.
    """
    foreign = foreign_tokens(header.metadata, draft.metadata) if draft else frozenset[int]()
    variant = recognise(header.metadata)
    trained = sizes.trained_ctx(header, variant)
    _check_context(config, variant)
    n_ctx, cells, size_reasons = _choose_sizes(header, config, machine, trained)
    flash_attn, attention_reason = _choose_attention(header, config, machine, cells)
    context = context_settings(config, cells, flash_attn)
    kv_cells = cells + encoder_cells(config, n_ctx)
    model, layer_reason = _plan_model(header, config, context, kv_cells, machine)
    reasons = [*size_reasons, f"layers: {layer_reason}", f"attention: {attention_reason}"]
    drafting = None
    if draft is not None:
        drafting, draft_reason = _plan_draft(draft, config, cells, machine, model)
        reasons.append(f"draft layers: {draft_reason}")
    cache_bytes, cache_reason = _choose_prompt_cache(config, machine)
    problem = shift_problem(header, config, machine)
    if problem is not None and config.context_shift:
        raise UnsupportedError(f": {problem}", setting="context_shift")
    host_bytes = model.host_bytes + (drafting.host_bytes if drafting else 0)
    warnings = (
        *((f"vocabulary: {MENDED}",) if model.mends_vocabulary else ()),
        *_context_warnings(n_ctx, trained),
        *_memory_warnings(host_bytes, cache_bytes, machine.memory_bytes),
    )
    return LoadPlan(
        model=model,
        n_ctx=n_ctx,
        n_ctx_train=trained,
        encoder=encoder_settings(config, n_ctx),
        draft=drafting,
        foreign_tokens=foreign,
        prompt_cache_bytes=cache_bytes,
        shift_problem=problem,
        memory_bytes=machine.memory_bytes,
        reasons=(
            *reasons,
            f"prompt cache: {cache_reason}",
            f"threads: {'as asked for' if config.n_threads else 'one per physical core'}",
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
    context: ContextSettings,
    kv_cells: int,
    machine: Machine,
) -> tuple[ModelPlan, str]:
    kv_bytes = sizes.kv_bytes_per_cell(header, config) * kv_cells
    placements, reason = place(header, config, kv_bytes, machine.gpus)
    return _model_plan(header, config, context, kv_bytes, placements), reason


def _plan_draft(
    header: GGUFHeader, config: ModelConfig, cells: int, machine: Machine, model: ModelPlan
) -> tuple[ModelPlan, str]:
    """The draft model, on what the GPUs have left beside the model."""
    kv_bytes = sizes.kv_bytes_per_cell(header, config) * cells
    gpus = without(machine.gpus, model.placements)
    placements, reason = place(header, config, kv_bytes, gpus, "draft_gpu_layers")
    context = context_settings(config, cells)
    return _model_plan(header, config, context, kv_bytes, placements), reason


def _model_plan(
    header: GGUFHeader,
    config: ModelConfig,
    context: ContextSettings,
    kv_bytes: int,
    placements: tuple[DeviceLayers, ...],
) -> ModelPlan:
    weights = WeightSettings(
        n_gpu_layers=gpu_layers(placements),
        main_gpu=config.main_gpu,
        split_mode=config.split_mode,
        tensor_split=config.tensor_split,
        use_mmap=config.use_mmap,
        use_mlock=config.use_mlock,
        overrides=corrections(header.metadata, recognise(header.metadata)),
    )
    return ModelPlan(
        path=header.path,
        weights=weights,
        context=context,
        placements=placements,
        n_params=sizes.n_params(header),
        weight_bytes=sizes.weight_bytes(header),
        kv_bytes=kv_bytes,
        kv_bytes_per_cell=sizes.kv_bytes_per_cell(header, config),
        mends_vocabulary=scores_are_lost(header.metadata),
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


def _memory_warnings(host_bytes: int, cache_bytes: int, memory_bytes: int) -> list[str]:
    if host_bytes > memory_bytes:
        return [
            f"memory: {size_text(host_bytes)} of weights and KV cache do not fit the machine's "
            f"{size_text(memory_bytes)}: choose a smaller type of the model or a smaller context"
        ]
    if host_bytes + cache_bytes > memory_bytes:
        return [
            f"memory: beside {size_text(host_bytes)} of weights and KV cache the prompt cache may "
            f"outgrow the machine's {size_text(memory_bytes)}: give it a smaller bound"
        ]
    return []
