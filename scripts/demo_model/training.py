"""The training loop: steps, schedule, checkpoints, held-out bits per byte."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from demo_model import corpus
from demo_model.batches import (
    ECHO_LENGTH,
    IGNORED,
    POLISH,
    CodeStream,
    CopyStage,
    Draw,
    Part,
    Stage,
    copy_rows,
    copy_stage_at,
    sample_rows,
    stage_at,
)
from demo_model.copies import Copies, Sample
from demo_model.guidance import Guide
from demo_model.network import Llama, Shape
from demo_model.optimizer import fast_at_bfloat16, optimizers_of
from demo_model.vocabulary import BOS, Vocabulary

log = logging.getLogger("demo_model")

TOKENS_PER_STEP = 8192
WARM_UP_STEPS = 20
DECAY_FROM = 0.5
POLISH_RATE = 0.5
COPY_RATE = 0.5
SAVE_EVERY = 25
EVALUATE_EVERY = 100


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps, or seconds of training time when `steps` is None.

    `copies` more steps follow, in which copying is learnt, and then `polish` steps, in which the written
    answers are. Both need `steps`, which may be 0.
    """

    steps: int | None
    seconds: float = math.inf
    copies: int = 0
    polish: int = 0

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the budget that is used up, 0 to 1."""
        if self.steps is None:
            return min(1.0, elapsed / self.seconds)
        return _share(step, self.steps)

    def copied(self, step: int) -> float:
        """Share of the copying that is done, 0 to 1."""
        return 1.0 if self.steps is None else _share(step - self.steps, self.copies)

    def polished(self, step: int) -> float:
        """Share of the polishing that is done, 0 to 1."""
        return 1.0 if self.steps is None else _share(step - self.steps - self.copies, self.polish)


@dataclass
class State:
    """Where a run stands; all of it is in the checkpoint file."""

    model: Llama
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    step: int = 0
    elapsed: float = 0.0

    @classmethod
    def new(
        cls, seed: int, device: torch.device, weights: Mapping[str, Tensor] | None = None
    ) -> State:
        """A fresh run, from `weights` where they are given and from random ones otherwise."""
        model = Llama(Shape(), seed)
        if weights is not None:
            model.load_state_dict(dict(weights))
        model.to(device)
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
class Work:
    """A step: its batch, the share of the peak rate, and the weight of the guidance (see `Guide`)."""

    parts: list[Part]
    rate: float
    guidance: float = 0.0


@dataclass(frozen=True)
class Trainer:
    """What a run needs beside its state."""

    vocabulary: Vocabulary
    code: CodeStream
    samples: Draw
    questions: Draw
    copies: Copies
    budget: Budget
    checkpoint: Path
    seed: int
    micro_tokens: int

    def run(self, state: State) -> None:
        """Train until the budget is used up; save on the way and at the end."""
        guide = Guide(state.model)
        while (work := self._work(state)) is not None:
            begin = time.monotonic()
            loss = self._step(state, work, guide)
            state.step += 1
            state.elapsed += time.monotonic() - begin
            rate = sum(part.inputs.size for part in work.parts) / (time.monotonic() - begin)
            log.info("step %d  loss %.3f  %.0f tokens/s", state.step, loss, rate)
            if state.step % SAVE_EVERY == 0:
                state.save(self.checkpoint)
            if state.step % EVALUATE_EVERY == 0:
                bits = held_out_bits_per_byte(state.model, self.vocabulary)
                log.info("step %d  held-out bits per byte %.4f", state.step, bits)
        guide.close()
        state.save(self.checkpoint)

    def _work(self, state: State) -> Work | None:
        """What the next step is to do; None when the budget is used up."""
        progress = self.budget.progress(state.step, state.elapsed)
        copied, polished = self.budget.copied(state.step), self.budget.polished(state.step)
        rng = np.random.default_rng([self.seed, state.step])
        if progress < 1.0:
            stage = stage_at(progress)
            return Work(self._rows(rng, stage, self.samples), learning_rate(state.step, progress))
        if copied < 1.0:
            copying = copy_stage_at(copied)
            return Work(self._copies(rng, copying), copy_rate(copied), copying.guidance)
        if polished < 1.0:
            parts = self._rows(rng, POLISH, self.questions)
            return Work(parts, POLISH_RATE * (1.0 - polished))
        return None

    def _rows(self, rng: np.random.Generator, stage: Stage, draw: Draw) -> list[Part]:
        rows = TOKENS_PER_STEP // stage.length
        from_samples = round(rows * stage.sample_share)
        copied = round(rows * stage.copy_share)
        code = self.code.rows(rng, rows - from_samples - copied, stage.length)
        samples = sample_rows(draw, rng, from_samples, stage.length)
        edits = copy_rows(self.copies.edit, rng, copied, stage.length)
        return [Part(*code), Part(*samples), edits]

    def _copies(self, rng: np.random.Generator, stage: CopyStage) -> list[Part]:
        def edit(rng: np.random.Generator) -> Sample:
            return self.copies.edit(rng, stage.functions)

        def echo(rng: np.random.Generator) -> Sample:
            return self.copies.echo(rng, ECHO_LENGTH)

        length = stage.length
        return [
            copy_rows(echo, rng, stage.echoes // ECHO_LENGTH, ECHO_LENGTH),
            copy_rows(edit, rng, stage.edits // length, length),
            Part(*self.code.rows(rng, stage.code // length, length)),
            Part(*sample_rows(self.questions, rng, stage.questions // length, length)),
        ]

    def _step(self, state: State, work: Work, guide: Guide) -> float:
        counted = sum(int((part.targets != IGNORED).sum()) for part in work.parts)
        guided = sum(part.inputs.size for part in work.parts if part.sources is not None)
        device = next(state.model.parameters()).device
        total = 0.0
        for part in _micro_parts(work.parts, self.micro_tokens):
            x, y = (torch.from_numpy(ids).to(device) for ids in (part.inputs, part.targets))
            loss = loss_sum(state.model, x, y) / counted
            total += loss.item()
            if part.sources is not None and work.guidance:
                weight = work.guidance * part.inputs.size / guided
                loss = loss + weight * guide.loss(torch.from_numpy(part.sources).to(device))
            torch.autograd.backward(loss)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * work.rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return total


def learning_rate(step: int, progress: float) -> float:
    """Share of the peak rate: a short warm-up, a plateau, then straight down to zero."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * min(1.0, (1.0 - progress) / (1.0 - DECAY_FROM))


def copy_rate(copied: float) -> float:
    """Share of the peak rate when the share `copied` of the copying is done."""
    return COPY_RATE * min(1.0, (copied + 0.01) / 0.03) * (1.0 - 0.4 * copied)


def loss_sum(model: Llama, inputs: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy in nats of the targets that count; bfloat16 where the device is fast at it."""
    counted = targets != IGNORED
    with torch.autocast(
        inputs.device.type, torch.bfloat16, enabled=fast_at_bfloat16(inputs.device)
    ):
        logits = model.lm_head(model.model(inputs)[counted])
    return functional.cross_entropy(logits.float(), targets[counted], reduction="sum")


def _micro_parts(parts: Sequence[Part], tokens: int) -> Iterator[Part]:
    """The parts in pieces of at most `tokens` tokens, but whole rows."""
    for part in parts:
        rows = max(1, tokens // part.inputs.shape[1])
        for first in range(0, len(part.inputs), rows):
            cut = slice(first, first + rows)
            sources = None if part.sources is None else part.sources[cut]
            yield Part(part.inputs[cut], part.targets[cut], sources)


def _share(done: int, of: int) -> float:
    return min(1.0, max(0.0, done / of)) if of else 1.0


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
