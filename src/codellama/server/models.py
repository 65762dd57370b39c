"""What `/v1/models` tells about the model: llama-server's `meta`, and how the model was loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codellama.compat.replies import Json

if TYPE_CHECKING:
    from codellama.running.language_model import LanguageModel

VOCAB_TYPES = {"llama": 1, "gpt2": 2}  # enum llama_vocab_type: SPM, BPE


def model_meta(llm: LanguageModel) -> Json:
    """Vocabulary, context and size (tokens, tokens, weights and bytes), and the plan of the load."""
    return {
        "vocab_type": VOCAB_TYPES.get(str(llm.metadata.get("tokenizer.ggml.model")), 0),
        "n_vocab": llm.tokenizer.n_vocab,
        "n_ctx": llm.n_ctx,
        "n_ctx_train": llm.metadata.get("llama.context_length"),
        "n_embd": llm.metadata.get("llama.embedding_length"),
        "n_params": llm.plan.model.n_params,
        "size": llm.plan.model.weight_bytes,
        "plan": llm.plan.to_json(),
    }
