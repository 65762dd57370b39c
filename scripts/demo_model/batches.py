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
from demo_model.copies import Sample
from demo_model.vocabulary import BOS, EOS, Vocabulary

IGNORED = -100
"""Target of a position that does not count in the loss."""

TESTS_SHARE = 0.2
"""Share of the code rows that come from the library's tests."""

Ids = NDArray[np.int64]
Draw = Callable[[np.random.Generator], list[int]]
DrawCopy = Callable[[np.random.Generator], Sample]


@dataclass(frozen=True)
class Part:
    """Rows of one length: inputs and targets (rows, length), and where targets can be copied from.

    `sources` are positions in the row, `IGNORED` where there is none; None: these rows say nothing on it.
    """

    inputs: Ids
    targets: Ids
    sources: Ids | None = None


@dataclass(frozen=True)
class Stage:
    """What batches look like from a share of the run onwards."""

    start: float
    length: int
    sample_share: float
    copy_share: float = 0.0


# Short rows are cheaper; long ones come last, together with what has to be remembered word by word.
STAGES = (Stage(0.0, 256, 0.0), Stage(0.35, 512, 0.5), Stage(0.85, 1024, 0.5))

# After the run proper: what is still library keeps the style, copies keep copying, and half is for knowing
# the answers.
POLISH = Stage(1.0, 512, 0.5, copy_share=0.25)


@dataclass(frozen=True)
class CopyStage:
    """What batches look like from a share of the copying on; sizes are tokens of a step.

    `guidance` is the weight of the loss on where heads look (see `demo_model.guidance`). `functions` is the
    share of the library's functions that are copied, the shortest first.
    """

    start: float
    guidance: float
    functions: float
    length: int
    edits: int
    echoes: int
    code: int
    questions: int


ECHO_LENGTH = 128

LONGEST_MATCH = 16

# First only how to copy, of short functions and with the heads led strictly; what was known before is called
# to mind when copying begins to work.
COPY_STAGES = (
    CopyStage(0.0, 0.5, 0.3, 256, edits=3072, echoes=1024, code=0, questions=0),
    CopyStage(0.175, 0.2, 0.3, 256, edits=3072, echoes=768, code=1024, questions=0),
    CopyStage(0.34, 0.1, 1.0, 512, edits=4096, echoes=512, code=1024, questions=1024),
)


def stage_at(progress: float) -> Stage:
    """The stage of a run of which the share `progress` (0 to 1) is done."""
    return [stage for stage in STAGES if stage.start <= progress][-1]


def copy_stage_at(progress: float) -> CopyStage:
    """The stage of the copying of which the share `progress` (0 to 1) is done."""
    return [stage for stage in COPY_STAGES if stage.start <= progress][-1]


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


def copy_rows(draw: DrawCopy, rng: np.random.Generator, rows: int, length: int) -> Part:
    """Rows filled with whole samples of `draw`, of which only what is to be copied counts."""
    inputs = np.zeros((rows, length), np.int64)
    targets = np.full((rows, length), IGNORED, np.int64)
    sources = np.full((rows, length), IGNORED, np.int64)
    for row in range(rows):
        used = 0
        misses = 0
        while misses < 4:
            sample = draw(rng)
            ids, first = sample.ids, sample.counted_from
            end = used + len(ids) - 1
            if end > length:
                misses += 1
                continue
            inputs[row, used:end] = ids[:-1]
            targets[row, used + first - 1 : end] = ids[first:]
            places = np.array(sources_of(ids, first))
            sources[row, used:end] = np.where(places == IGNORED, IGNORED, places + used)
            used = end
    return Part(inputs, targets, sources)


def sources_of(ids: Sequence[int], counted_from: int) -> list[int]:
    """For every token that predicts another, the position that the next token can be copied from.

    It is the place of an equal token with the longest equal run before it, the latest of such places, and
    `IGNORED` where there is none, where nothing before it is equal, or where the next token is before
    `counted_from`. The list is one shorter than `ids`.
    """
    where: dict[int, list[int]] = {}
    sources = []
    for now in range(len(ids) - 1):
        where.setdefault(ids[now], []).append(now)
        places = where.get(ids[now + 1], []) if now + 1 >= counted_from else []
        runs = [(_run(ids, place - 1, now), place) for place in places]
        run, place = max(runs, default=(0, IGNORED))
        sources.append(place if run else IGNORED)
    return sources


def _run(ids: Sequence[int], first: int, second: int) -> int:
    """How many tokens are equal when going back from both positions."""
    length = 0
    while length < min(LONGEST_MATCH, first + 1) and ids[first - length] == ids[second - length]:
        length += 1
    return length


def _write_tokens(path: Path, vocabulary: Vocabulary, files: Sequence[Path]) -> None:
    ids: list[int] = []
    for file in files:
        ids += [BOS, *vocabulary.encode(corpus.read(file)), EOS]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(ids, np.uint16))
