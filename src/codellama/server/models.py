"""What `/v1/models` tells about the model: llama-server's `meta`, read from the file's header."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.compat.replies import Json
from codellama.files.split import read_model_header

if TYPE_CHECKING:
    from codellama.llm import LLM

VOCAB_TYPES = {"llama": 1, "gpt2": 2}  # enum llama_vocab_type: SPM, BPE


def model_meta(llm: LLM) -> Json:
    """Vocabulary, context and size: tokens, tokens, weights and bytes."""
    n_params, size = _weights(llm.path)
    return {
        "vocab_type": VOCAB_TYPES.get(str(llm.metadata.get("tokenizer.ggml.model")), 0),
        "n_vocab": llm.tokenizer.n_vocab,
        "n_ctx": llm.n_ctx,
        "n_ctx_train": llm.metadata.get("llama.context_length"),
        "n_embd": llm.metadata.get("llama.embedding_length"),
        "n_params": n_params,
        "size": size,
    }


@functools.lru_cache(maxsize=1)
def _weights(path: Path) -> tuple[int, int]:
    tensors = read_model_header(path).tensors
    return sum(math.prod(t.shape) for t in tensors), sum(t.nbytes for t in tensors)
