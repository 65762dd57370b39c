"""How many threads a model is loaded with, and whether the engine may change that while it runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codellama.devices.placement import DeviceLayers
from codellama.devices.processors import ThreadChoice
from codellama.params import ModelConfig


@dataclass(frozen=True)
class ThreadPlan:
    """Threads for answers, `n`, and for prompts, `n_batch`, to begin with; `most` are worth a try.

    `adapts` and `adapts_batch` say which of the two the engine fits to what it measures; `reason` is in
    words.
    """

    n: int
    n_batch: int
    most: int
    adapts: bool
    adapts_batch: bool
    reason: str


def plan_threads(
    config: ModelConfig, choice: ThreadChoice, placements: Sequence[DeviceLayers]
) -> ThreadPlan:
    """What was asked for, or else what is right for the processors; it is left alone where no layer is on the
    CPU, the last of `placements`."""
    cpu_computes = placements[-1].layers > 0
    wish = config.n_threads
    wish_batch = wish if config.n_threads_batch is None else config.n_threads_batch
    n = choice.n if wish == "auto" else wish
    n_batch = choice.n if wish_batch == "auto" else wish_batch
    return ThreadPlan(
        n=n,
        n_batch=n_batch,
        most=choice.most,
        adapts=wish == "auto" and cpu_computes,
        adapts_batch=wish_batch == "auto" and cpu_computes,
        reason=choice.reason if wish == "auto" else "as asked for",
    )
