"""The settings as keyword arguments, so that an editor completes them: `Unpack[SamplingOptions]`.

Python has no way to make these from the dataclasses, so `scripts/settings_tables.py` writes them. Where a
field is a tuple, any sequence will do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from codellama.params.model import (
    ContextPolicy,
    FlashAttention,
    Guesser,
    KVType,
    Layers,
    Pooling,
    RopeScaling,
    SpecialTags,
    SplitMode,
    Switch,
    Threads,
)
from codellama.variants import ChatFormatName


class SamplingOptions(TypedDict, total=False):
    """The fields of `SamplingParams`, which says what they mean."""

    # sampling: made by scripts/settings_tables.py
    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: Sequence[str]
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    repeat_penalty: float
    repeat_last_n: int
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    grammar: str | None
    json_schema: str | Mapping[str, Any] | None
    regex: str | None
    lark: str | None
    stop: Sequence[str]
    stop_tokens: Sequence[int]
    logprobs: int | None
    post_sampling_probs: bool
    ignore_eos: bool
    samplers: Sequence[str]
    timeout_s: float | None
    t_max_predict_ms: int
    n_indent: int
    lora: Mapping[int | str, float] | None
    context_shift: bool | None
    n_keep: int | None
    n_discard: int
    cache_prompt: bool
    spec_draft_n_max: int | None
    repeatable: bool | None
    id_slot: int
    # end of sampling


class ModelOptions(TypedDict, total=False):
    """The fields of `ModelConfig`, which says what they mean."""

    # model: made by scripts/settings_tables.py
    n_ctx: int | None
    beyond_training: bool
    n_seq_max: int
    kv_cells: int | None
    cache_ram: int | None
    max_queue: int
    n_batch: int
    n_ubatch: int
    prefill_chunk: int
    n_threads: Threads
    n_threads_batch: Threads | None
    n_gpu_layers: Layers
    main_gpu: int
    split_mode: SplitMode
    tensor_split: Sequence[float]
    rpc: Sequence[str]
    isolate: bool | None
    offload_kqv: bool
    flash_attn: FlashAttention
    type_k: KVType
    type_v: KVType
    use_mmap: bool
    use_mlock: bool
    repack: Switch
    chat_format: ChatFormatName | None
    special_tags: SpecialTags
    experimental_infill: bool
    spec_type: Guesser
    spec_draft_n_max: int
    spec_draft_p_min: float
    draft_model: str | os.PathLike[str] | None
    draft_gpu_layers: Layers
    lora: Sequence[str | os.PathLike[str] | tuple[str | os.PathLike[str], float]]
    context_policy: ContextPolicy
    embeddings: bool
    pooling: Pooling
    lora_init_without_apply: bool
    context_shift: bool
    n_keep: int
    rope_scaling: RopeScaling | None
    rope_freq_base: float | None
    rope_freq_scale: float | None
    yarn_orig_ctx: int | None
    yarn_ext_factor: float | None
    yarn_attn_factor: float | None
    yarn_beta_fast: float | None
    yarn_beta_slow: float | None
    # end of model
