"""The training loop: steps, schedule, checkpoints, held-out bits per byte."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from demo_model import corpus
from demo_model.batches import (
    IGNORED,
    POLISH,
    CodeStream,
    Draw,
    Ids,
    Stage,
    sample_rows,
    stage_at,
)
from demo_model.network import Llama, Shape
from demo_model.optimizer import optimizers_of
from demo_model.vocabulary import BOS, Vocabulary

log = logging.getLogger("demo_model")

TOKENS_PER_STEP = 8192
WARM_UP_STEPS = 20
DECAY_FROM = 0.5
POLISH_RATE = 0.6
SAVE_EVERY = 25
EVALUATE_EVERY = 100


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps, or seconds of training time when `steps` is None.

    `polish` more steps follow, in which the written samples are most of what is seen.
    """

    steps: int | None
    seconds: float = math.inf
    polish: int = 0

    def polished(self, step: int) -> float:
        """Share of the polishing that is done; below 0 before it begins."""
        if not self.polish or self.steps is None:
            return -1.0
        return (step - self.steps) / self.polish

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the budget that is used up, 0 to 1."""
        done = elapsed / self.seconds if self.steps is None else step / self.steps
        return min(1.0, done)


@dataclass
class State:
    """Where a run stands; all of it is in the checkpoint file."""

    model: Llama
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    step: int = 0
    elapsed: float = 0.0

    @classmethod
    def new(cls, seed: int, device: torch.device) -> State:
        """A fresh run."""
        model = Llama(Shape(), seed).to(device)
        return cls(model, optimizers_of(model))

    def load(self, path: Path) -> None:
        """Continue from the checkpoint file `path`."""
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(stored["model"])
        for optimizer, values in zip(self.optimizers, stored["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.step, self.elapsed = stored["step"], stored["elapsed"]

    def save(self, path: Path) -> None:
        """Write the checkpoint file; a reader finds the old one or the new one, never half."""
        stored = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "elapsed": self.elapsed,
        }
        partial = path.with_suffix(".partial")
        torch.save(stored, partial)
        partial.replace(path)


@dataclass(frozen=True)
class Trainer:
    """What a run needs beside its state."""

    vocabulary: Vocabulary
    code: CodeStream
    samples: Draw
    questions: Draw
    budget: Budget
    checkpoint: Path
    seed: int
    micro_tokens: int

    def run(self, state: State) -> None:
        """Train until the budget is used up; save on the way and at the end."""
        while True:
            begin = time.monotonic()
            progress = self.budget.progress(state.step, state.elapsed)
            polished = self.budget.polished(state.step)
            if progress < 1.0:
                loss = self._step(state, stage_at(progress), learning_rate(state.step, progress))
            elif 0.0 <= polished < 1.0:
                loss = self._step(state, POLISH, POLISH_RATE * (1.0 - polished))
            else:
                break
            state.step += 1
            state.elapsed += time.monotonic() - begin
            rate = TOKENS_PER_STEP / (time.monotonic() - begin)
            log.info(
                "step %d  %.1f%%  loss %.3f  %.0f tokens/s", state.step, 100 * progress, loss, rate
            )
            if state.step % SAVE_EVERY == 0:
                state.save(self.checkpoint)
            if state.step % EVALUATE_EVERY == 0:
                bits = held_out_bits_per_byte(state.model, self.vocabulary)
                log.info("step %d  held-out bits per byte %.4f", state.step, bits)
        state.save(self.checkpoint)

    def _step(self, state: State, stage: Stage, rate: float) -> float:
        inputs, targets = self._batch(state, stage)
        counted = int((targets != IGNORED).sum())
        device = next(state.model.parameters()).device
        rows = max(1, self.micro_tokens // stage.length)
        total = 0.0
        for first in range(0, len(inputs), rows):
            x = torch.from_numpy(inputs[first : first + rows]).to(device)
            y = torch.from_numpy(targets[first : first + rows]).to(device)
            loss = loss_sum(state.model, x, y) / counted
            torch.autograd.backward(loss)
            total += loss.item()
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return total

    def _batch(self, state: State, stage: Stage) -> tuple[Ids, Ids]:
        rows = TOKENS_PER_STEP // stage.length
        from_samples = round(rows * stage.sample_share)
        rng = np.random.default_rng([self.seed, state.step])
        code = self.code.rows(rng, rows - from_samples, stage.length)
        draw = self.questions if stage is POLISH else self.samples
        samples = sample_rows(draw, rng, from_samples, stage.length)
        return np.concatenate([code[0], samples[0]]), np.concatenate([code[1], samples[1]])


def learning_rate(step: int, progress: float) -> float:
    """Share of the peak rate: a short warm-up, a plateau, then straight down to zero."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * min(1.0, (1.0 - progress) / (1.0 - DECAY_FROM))


def loss_sum(model: Llama, inputs: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy in nats; bfloat16 where the device is a GPU."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.device.type == "cuda"):
        logits = model(inputs)
    return functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


@torch.no_grad()
def held_out_bits_per_byte(model: Llama, vocabulary: Vocabulary, length: int = 1024) -> float:
    """Bits per byte on the held-out modules, in windows of `length` that each begin with BOS."""
    device = next(model.parameters()).device
    nats, size = 0.0, 0
    for path in corpus.held_out_files():
        text = corpus.read(path)
        size += len(text.encode())
        for window in _windows(vocabulary.encode(text), length):
            ids = torch.tensor([[BOS, *window]], device=device)
            nats += loss_sum(model, ids[:, :-1], ids[:, 1:]).item()
    return nats / math.log(2) / size


def _windows(ids: list[int], length: int) -> Iterator[list[int]]:
    for first in range(0, len(ids), length):
        yield ids[first : first + length]
