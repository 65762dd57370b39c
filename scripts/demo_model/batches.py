"""Turns token streams and samples into training batches; every batch is a function of its step.

A code row is a stretch of the library's sources after BOS. A sample row holds whole samples, one
after the other, and is padded with targets that do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo_model import corpus
from demo_model.vocabulary import BOS, EOS, Vocabulary

IGNORED = -100
"""Target of a position that does not count in the loss."""

TESTS_SHARE = 0.2
"""Share of the code rows that come from the library's tests."""

Ids = NDArray[np.int64]
Draw = Callable[[np.random.Generator], list[int]]


@dataclass(frozen=True)
class Stage:
    """What batches look like from a share of the run onwards."""

    start: float
    length: int
    sample_share: float


# Short rows are cheaper; long ones come last, together with what has to be remembered word by word.
STAGES = (Stage(0.0, 256, 0.0), Stage(0.35, 512, 0.5), Stage(0.85, 1024, 0.5))

# After the run proper: what is still library keeps the style, the rest is for knowing the answers.
POLISH = Stage(1.0, 512, 0.75)


def stage_at(progress: float) -> Stage:
    """The stage of a run of which the share `progress` (0 to 1) is done."""
    return [stage for stage in STAGES if stage.start <= progress][-1]


class CodeStream:
    """The sources as two long token streams, the library's and its tests'."""

    def __init__(self, vocabulary: Vocabulary, cache: Path) -> None:
        """Encode the sources, or read them from the folder `cache` where that has been done."""
        self.streams: list[NDArray[np.uint16]] = []
        for name, files in zip(("library", "tests"), corpus.training_files(), strict=True):
            path = cache / f"{name}.npy"
            if not path.exists():
                _write_tokens(path, vocabulary, files)
            self.streams.append(np.load(path))

    def rows(self, rng: np.random.Generator, rows: int, length: int) -> tuple[Ids, Ids]:
        """Inputs and targets (rows, length): stretches from random places, each after BOS."""
        targets = np.empty((rows, length), np.int64)
        for row in range(rows):
            stream = self.streams[int(rng.random() < TESTS_SHARE)]
            start = rng.integers(len(stream) - length)
            targets[row] = stream[start : start + length]
        first = np.full((rows, 1), BOS, np.int64)
        return np.concatenate([first, targets[:, :-1]], axis=1), targets


def sample_rows(draw: Draw, rng: np.random.Generator, rows: int, length: int) -> tuple[Ids, Ids]:
    """Inputs and targets (rows, length) filled with whole samples of `draw`."""
    inputs = np.zeros((rows, length), np.int64)
    targets = np.full((rows, length), IGNORED, np.int64)
    for row in range(rows):
        used = 0
        misses = 0
        while misses < 8:
            ids = draw(rng)[: length + 1]
            end = used + len(ids) - 1
            if end > length:
                misses += 1
                continue
            inputs[row, used:end], targets[row, used:end] = ids[:-1], ids[1:]
            used = end
    return inputs, targets


def _write_tokens(path: Path, vocabulary: Vocabulary, files: Sequence[Path]) -> None:
    ids: list[int] = []
    for file in files:
        ids += [BOS, *vocabulary.encode(corpus.read(file)), EOS]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(ids, np.uint16))
