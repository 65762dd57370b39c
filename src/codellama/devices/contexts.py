"""A configuration and the cells that were chosen, as the settings of contexts. Pure.

A context for embeddings is an ordinary one with other sizes: it gives hidden states instead of samples.
"""

from __future__ import annotations

from dataclasses import replace

from codellama.native.settings import ContextSettings
from codellama.params import MAX_SEQUENCES, FlashAttention, ModelConfig


def context_settings(
    config: ModelConfig, cells: int, flash_attn: FlashAttention | None = None, threads: int = 1
) -> ContextSettings:
    """A context of `cells` tokens; `flash_attn` takes the place of the configuration's, if given, and
    `threads` that of "auto"."""
    n_threads = threads if config.n_threads == "auto" else config.n_threads
    n_threads_batch = n_threads if config.n_threads_batch is None else config.n_threads_batch
    return ContextSettings(
        cells=cells,
        n_batch=config.n_batch,
        n_ubatch=config.n_ubatch,
        n_seq_max=config.n_seq_max,
        max_outputs=config.max_outputs,
        threads=n_threads,
        threads_batch=threads if n_threads_batch == "auto" else n_threads_batch,
        type_k=config.type_k,
        type_v=config.type_v,
        flash_attn=flash_attn or config.flash_attn,
        offload_kqv=config.offload_kqv,
        rope=config.rope,
    )


def encoder_batch(config: ModelConfig) -> int:
    """Most rows of an encoder's batch, and sequences: `prefill_chunk`, or 256, llama.cpp's most."""
    return min(config.prefill_chunk, config.n_batch, MAX_SEQUENCES)


def encoder_cells(config: ModelConfig, n_ctx: int) -> int:
    """KV cells an encoder takes: a text of `n_ctx` tokens, and the next ones in its last chunk; 0
    without `embeddings`."""
    return n_ctx + encoder_batch(config) if config.embeddings else 0


def encoder_settings(config: ModelConfig, n_ctx: int, threads: int = 1) -> ContextSettings | None:
    """The context that gives hidden states; None without `embeddings`. `threads` as above."""
    if not config.embeddings:
        return None
    n_batch = encoder_batch(config)
    sizes = replace(
        config, n_batch=n_batch, n_ubatch=min(n_batch, config.n_ubatch), n_seq_max=n_batch
    )
    settings = context_settings(sizes, encoder_cells(config, n_ctx), threads=threads)
    return replace(settings, embeddings=True)
