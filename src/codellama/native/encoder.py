"""The context that gives hidden states instead of samples: an ordinary `Context` with other sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from codellama.native.context import Context
from codellama.native.model import LoraAdapter, Model
from codellama.params import MAX_SEQUENCES, ModelConfig


def encoder_batch(config: ModelConfig) -> int:
    """Most rows of a batch, and sequences: `prefill_chunk`, or 256, llama.cpp's most."""
    return min(config.prefill_chunk, config.n_batch, MAX_SEQUENCES)


def encoder_cells(config: ModelConfig, n_ctx: int) -> int:
    """KV cells it takes: a text of `n_ctx` tokens, and the next ones in its last chunk; 0 without
    `embeddings`."""
    return n_ctx + encoder_batch(config) if config.embeddings else 0


def open_encoder(
    model: Model, config: ModelConfig, n_ctx: int, adapters: Sequence[LoraAdapter]
) -> Context:
    """The context, with all of the model's adapters. Raises ModelLoadError if llama.cpp cannot make it."""
    n_batch = encoder_batch(config)
    sizes = replace(
        config, n_batch=n_batch, n_ubatch=min(n_batch, config.n_ubatch), n_seq_max=n_batch
    )
    context = Context(model, sizes, encoder_cells(config, n_ctx), embeddings=True)
    context.use_adapters(adapters)
    return context
