"""A quantized on-device runtime for Meta's Code Llama models, CodeLlama-70b-Instruct first.

`LLM` loads a GGUF and answers; see its docstring for the first five lines to write. The command line is
`codellama`, the server `codellama serve`. ARCHITECTURE.md beside this file tells what lives where.
"""

from codellama.completion import Choice, Completion, Result
from codellama.engine.sequence import Delta, FinishReason, Timings, Usage
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
from codellama.llm import LLM
from codellama.params import Message, ModelConfig, Prompt, SamplingParams

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "ChatFormatError",
    "CheckpointError",
    "Choice",
    "CodeLlamaError",
    "Completion",
    "ContextLengthError",
    "ConversionError",
    "DecodeError",
    "Delta",
    "EngineDeadError",
    "FinishReason",
    "GrammarError",
    "InvalidRequestError",
    "Message",
    "ModelConfig",
    "ModelLoadError",
    "Prompt",
    "QueueFullError",
    "Result",
    "SamplingParams",
    "Timings",
    "UnsupportedError",
    "Usage",
    "__version__",
]
