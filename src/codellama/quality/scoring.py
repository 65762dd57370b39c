"""The logits of a text's chunks, from one model or from two, as tables of `statistics`.

Each chunk is decoded from an empty context, as llama-perplexity does it: the same tokens, and attention and
cache as llama.cpp chooses them by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from codellama.devices.plan import ModelPlan
from codellama.engine.batch import Batch
from codellama.errors import DecodeError
from codellama.native.context import Context
from codellama.params import Progress
from codellama.quality.base_file import Records, compared_with, records
from codellama.quality.statistics import Table, alone, compared
from codellama.running.opening import open_context, open_model

_ROWS = 64  # at a time: a vocabulary of 32,016 in double precision is 16 MB then
_MOST_UBATCH = 512  # llama.cpp's own

Block = tuple[slice, NDArray[np.float32], list[int]]
"""Rows of a chunk, their logits, and the tokens that came behind them."""


class Scorer:
    """A model with a context of one chunk of `chunk_tokens`; `undo` frees it.

    Raises ModelLoadError if llama.cpp cannot load it.
    """

    def __init__(
        self, plan: ModelPlan, chunk_tokens: int, undo: ExitStack, progress: Progress | None = None
    ) -> None:
        self._model = open_model(plan, undo, progress)
        settings = replace(
            plan.context,
            cells=chunk_tokens,
            n_batch=chunk_tokens,
            n_ubatch=min(chunk_tokens, _MOST_UBATCH),
            n_seq_max=1,
            max_outputs=chunk_tokens,
            flash_attn="auto",
        )
        self._context: Context = open_context(self._model, settings, undo)
        self.tokenizer = self._model.tokenizer

    def blocks(self, chunk: Sequence[int]) -> Iterator[Block]:
        """Decode a chunk and give its logits, a few rows at a time."""
        self._run(chunk, range(len(chunk) - 1))
        for start in range(0, len(chunk) - 1, _ROWS):
            rows = slice(start, min(start + _ROWS, len(chunk) - 1))
            logits = np.stack([self._context.logits(i) for i in range(rows.start, rows.stop)])
            yield rows, logits, list(chunk[rows.start + 1 : rows.stop + 1])

    def _run(self, tokens: Sequence[int], output_rows: Sequence[int]) -> None:
        self._context.clear()
        batch = Batch(output_rows=list(output_rows))
        batch.add(list(tokens), 0, 0)
        self._context.run(batch)


Score = Callable[[int, Sequence[int]], Table]
"""The table of a chunk, from its number and its tokens."""


def score_alone(model: Scorer) -> Score:
    """Tables with the columns of `statistics.ALONE`."""

    def score(index: int, chunk: Sequence[int]) -> Table:
        return _checked(alone(logits, targets) for _, logits, targets in model.blocks(chunk))

    return score


def score_beside(model: Scorer, base: Scorer) -> Score:
    """Tables with the columns of `statistics.COMPARED`; both models decode each chunk."""

    def score(index: int, chunk: Sequence[int]) -> Table:
        pairs = zip(model.blocks(chunk), base.blocks(chunk), strict=True)
        return _checked(
            compared(logits, base_logits, targets)
            for (_, logits, targets), (_, base_logits, _) in pairs
        )

    return score


def score_with(model: Scorer, kept: Sequence[Records]) -> Score:
    """The same columns, from what a base's file keeps of each chunk."""

    def score(index: int, chunk: Sequence[int]) -> Table:
        return _checked(
            compared_with(kept[index][rows], logits, targets)
            for rows, logits, targets in model.blocks(chunk)
        )

    return score


def base_records(base: Scorer, index: int, chunk: Sequence[int]) -> Records:
    """What a base's file keeps of a chunk; its number is the seed of what is drawn."""
    rng = np.random.default_rng(index)
    found = np.concatenate(
        [records(logits, targets, rng) for _, logits, targets in base.blocks(chunk)]
    )
    _finite(found["target"])
    return found


def _checked(tables: Iterator[Table]) -> Table:
    table = np.concatenate(list(tables))
    _finite(table)
    return table


def _finite(values: NDArray[np.float64]) -> None:
    if not np.isfinite(values).all():
        raise DecodeError("the model's output is not a number: the file is damaged")
