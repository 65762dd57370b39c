"""Continuous batching over token ids: `Engine` is a thread, `Scheduler` its policy, `Request` what travels.

Pure Python: no ctypes, no JSON, no text formats. The native side is met through the `Runner` protocol.
"""

from codellama.engine.batch import Batch, TokenLogprob
from codellama.engine.drafter import Drafter, NgramDrafter
from codellama.engine.engine import Engine, Runner
from codellama.engine.model_drafter import ModelDrafter
from codellama.engine.prompt_cache import PromptCache
from codellama.engine.request import Delta, FinishReason, Request, State, Timings, Usage
from codellama.engine.scheduler import Scheduler
from codellama.engine.slot import Slot
from codellama.engine.speculator import Speculator
from codellama.engine.status import EngineStatus

__all__ = [
    "Batch",
    "Delta",
    "Drafter",
    "Engine",
    "EngineStatus",
    "FinishReason",
    "ModelDrafter",
    "NgramDrafter",
    "PromptCache",
    "Request",
    "Runner",
    "Scheduler",
    "Slot",
    "Speculator",
    "State",
    "Timings",
    "TokenLogprob",
    "Usage",
]
