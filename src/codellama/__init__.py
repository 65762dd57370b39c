"""A quantized on-device runtime for Meta's Code Llama models, CodeLlama-70b-Instruct first.

`LLM` loads a GGUF and answers; see its docstring for the first five lines to write. The command line is
`codellama`, the server `codellama serve`. ARCHITECTURE.md beside this file tells what lives where.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codellama.devices.plan import LoadPlan
    from codellama.engine.request import Delta, FinishReason, Timings, Usage
    from codellama.errors import (
        ChatFormatError,
        CheckpointError,
        CodeLlamaError,
        ContextLengthError,
        ConversionError,
        DecodeError,
        EngineDeadError,
        GrammarError,
        InvalidRequestError,
        ModelLoadError,
        QueueFullError,
        UnsupportedError,
    )
    from codellama.llama import Llama
    from codellama.llm import LLM
    from codellama.params import (
        Message,
        ModelConfig,
        Prompt,
        SamplingParams,
        Tool,
        ToolCall,
        Tools,
    )
    from codellama.running.adapters import Adapter
    from codellama.running.completion import Choice, Completion, Result
    from codellama.running.embedding import Embeddings
    from codellama.session import Session

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "Adapter",
    "ChatFormatError",
    "CheckpointError",
    "Choice",
    "CodeLlamaError",
    "Completion",
    "ContextLengthError",
    "ConversionError",
    "DecodeError",
    "Delta",
    "Embeddings",
    "EngineDeadError",
    "FinishReason",
    "GrammarError",
    "InvalidRequestError",
    "Llama",
    "LoadPlan",
    "Message",
    "ModelConfig",
    "ModelLoadError",
    "Prompt",
    "QueueFullError",
    "Result",
    "SamplingParams",
    "Session",
    "Timings",
    "Tool",
    "ToolCall",
    "Tools",
    "UnsupportedError",
    "Usage",
    "__version__",
]

_HOMES = {
    "codellama.devices.plan": ("LoadPlan",),
    "codellama.running.adapters": ("Adapter",),
    "codellama.running.completion": ("Choice", "Completion", "Result"),
    "codellama.running.embedding": ("Embeddings",),
    "codellama.engine.request": ("Delta", "FinishReason", "Timings", "Usage"),
    "codellama.llama": ("Llama",),
    "codellama.llm": ("LLM",),
    "codellama.session": ("Session",),
    "codellama.params": (
        *("Message", "ModelConfig", "Prompt", "SamplingParams", "Tool", "ToolCall", "Tools"),
    ),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `codellama --help` need not load llama.cpp."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((m for m, names in _HOMES.items() if name in names), "codellama.errors")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    """The public names, which are imported when they are first used."""
    return list(__all__)
