"""The values that callers set: `SamplingParams` per request, `ModelConfig` per loaded model.

Both are frozen, checked when they are made, and refuse names they do not know. `Prompt` and `Message`
are what travels between the chat formats and the engine, `Tools` what a dialog may call. Nothing here does
any work.
"""

from codellama.params.messages import Message, Progress, Prompt
from codellama.params.model import (
    CONTEXT_POLICIES,
    KV_TYPES,
    MAX_SEQUENCES,
    POOLING_TYPES,
    ContextPolicy,
    FlashAttention,
    KVType,
    Layers,
    ModelConfig,
    Pooling,
    SpecialTags,
    SplitMode,
)
from codellama.params.options import ModelOptions, SamplingOptions
from codellama.params.sampling import FORMS, RANDOM_SEED, SamplingParams, seed_of_choice
from codellama.params.tools import Tool, ToolCall, Tools

__all__ = [
    "CONTEXT_POLICIES",
    "FORMS",
    "KV_TYPES",
    "MAX_SEQUENCES",
    "POOLING_TYPES",
    "RANDOM_SEED",
    "ContextPolicy",
    "FlashAttention",
    "KVType",
    "Layers",
    "Message",
    "ModelConfig",
    "ModelOptions",
    "Pooling",
    "Progress",
    "Prompt",
    "SamplingOptions",
    "SamplingParams",
    "SpecialTags",
    "SplitMode",
    "Tool",
    "ToolCall",
    "Tools",
    "seed_of_choice",
]
