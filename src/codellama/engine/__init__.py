"""Continuous batching over token ids: `Engine` is a thread, `Scheduler` its policy, `Sequence` a request.

Pure Python: no ctypes, no JSON, no text formats. The native side is met through the `Runner` protocol.
"""

from codellama.batch import Batch, TokenLogprob
from codellama.engine.engine import Engine, EngineStatus, Runner
from codellama.engine.scheduler import Scheduler, Slot
from codellama.engine.sequence import Delta, FinishReason, Sequence, State, Timings, Usage

__all__ = [
    "Batch",
    "Delta",
    "Engine",
    "EngineStatus",
    "FinishReason",
    "Runner",
    "Scheduler",
    "Sequence",
    "Slot",
    "State",
    "Timings",
    "TokenLogprob",
    "Usage",
]
