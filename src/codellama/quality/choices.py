"""How likely a model thinks each answer to a question, for many questions with as little decoding as can be.

Questions that begin alike, as those with the same examples do, share that beginning: it stays in sequence 0,
the trunk. What is each question's own is decoded behind a fork of the trunk, once, and each answer behind a
fork of its question. Several questions go into one batch. `waves` says which, and is pure; `ChoiceScorer`
carries it out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codellama.devices.plan import ModelPlan
from codellama.engine.batch import Batch, Edit, Fork, Trim
from codellama.errors import DecodeError
from codellama.native.context import Context
from codellama.params import Progress
from codellama.quality.statistics import log_softmax
from codellama.running.opening import open_context, open_model

SEQUENCES = 64
ROWS = 512
TRUNK = 0
_AT_ONCE = 64  # rows of log probabilities

Logs = NDArray[np.float64]
"""Log probabilities of all tokens at one place."""

Likelihood = tuple[float, bool]
"""The sum of an answer's natural-log probabilities, and whether each of its tokens is the likeliest."""


@dataclass(frozen=True)
class Question:
    """Token ids: what is given, and what may follow. None is empty.

    All answers but the longest have at most `ROWS` tokens together.
    """

    context: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Wave:
    """Questions that are decoded together, by their places in the list; they share `n_shared` tokens."""

    places: tuple[int, ...]
    n_shared: int


def waves(questions: Sequence[Question]) -> list[Wave]:
    """All questions, so many in a wave as sequences and rows allow; those that begin alike are neighbours."""
    order = sorted(range(len(questions)), key=lambda place: questions[place].context)
    found: list[Wave] = []
    for place in order:
        if found:
            together = _wave(questions, (*found[-1].places, place))
            if _fits(questions, together):
                found[-1] = together
                continue
        found.append(_wave(questions, (place,)))
    return found


def _wave(questions: Sequence[Question], places: tuple[int, ...]) -> Wave:
    """A wave; the last token of a context is never shared: its logits are wanted."""
    contexts = [questions[place].context for place in places]
    # The first and the last of sorted sequences differ where any two of them do.
    shared = os.path.commonprefix([contexts[0], contexts[-1]])
    return Wave(places, min(len(shared), min(map(len, contexts)) - 1))


def _fits(questions: Sequence[Question], wave: Wave) -> bool:
    members = [questions[place] for place in wave.places]
    rows = sum(
        len(q.context) - wave.n_shared + sum(len(answer) - 1 for answer in q.answers)
        for q in members
    )
    return rows <= ROWS and sum(1 + len(q.answers) for q in members) < SEQUENCES


@dataclass
class _Rows:
    """Tokens to be decoded for one sequence, the first at `position`; the last `n_wanted` have an output."""

    sequence: int
    position: int
    tokens: Sequence[int]
    edit: Edit | None = None
    n_wanted: int = 0


class _Sum:
    """An answer's likelihood, as far as its tokens have been scored."""

    def __init__(self, answer: Sequence[int]) -> None:
        self._answer = answer
        self._done = 0
        self.value, self.greedy = 0.0, True

    def add(self, logs: Logs) -> None:
        """Take in the next token, of which these are the log probabilities."""
        token = self._answer[self._done]
        self._done += 1
        self.value += float(logs[token])
        self.greedy = self.greedy and int(logs.argmax()) == token


class ChoiceScorer:
    """A model that scores answers; `undo` frees it. Raises ModelLoadError if llama.cpp cannot load it."""

    def __init__(self, plan: ModelPlan, n_ctx: int, undo: ExitStack) -> None:
        self._model = open_model(plan, undo)
        settings = replace(
            plan.context,
            cells=n_ctx + ROWS,
            n_batch=ROWS,
            n_ubatch=ROWS,
            n_seq_max=SEQUENCES,
            max_outputs=ROWS,
        )
        self._context: Context = open_context(self._model, settings, undo)
        self._trunk: tuple[int, ...] = ()
        self.tokenizer = self._model.tokenizer

    def score(
        self, questions: Sequence[Question], progress: Progress | None = None
    ) -> list[list[Likelihood]]:
        """The likelihood of every answer, in the questions' order. Raises DecodeError.

        A question with its longest answer must not be longer than the `n_ctx` it was made with.
        """
        found: list[list[Likelihood]] = [[] for _ in questions]
        done = 0
        for wave in waves(questions):
            members = [questions[place] for place in wave.places]
            for place, scored in zip(wave.places, self._wave(members, wave.n_shared), strict=True):
                found[place] = scored
            done += len(members)
            if progress:
                progress(done, len(questions))
        return found

    def _wave(self, members: Sequence[Question], n_shared: int) -> list[list[Likelihood]]:
        self._grow_trunk(members[0].context[:n_shared])
        ends = dict(
            self._decode(
                [
                    _Rows(
                        sequence=i,
                        position=n_shared,
                        tokens=question.context[n_shared:],
                        edit=Fork(TRUNK, i, n_shared),
                        n_wanted=1,
                    )
                    for i, question in enumerate(members, 1)
                ]
            )
        )
        asked = [(i, answer) for i, question in enumerate(members) for answer in question.answers]
        sums = [_Sum(answer) for _, answer in asked]
        for (i, _), total in zip(asked, sums, strict=True):
            total.add(ends[i])
        work = [
            _Rows(
                sequence=number,
                position=len(members[i].context),
                tokens=answer[:-1],
                edit=Fork(i + 1, number, len(members[i].context)) if len(answer) > 1 else None,
                n_wanted=len(answer) - 1,
            )
            for number, (i, answer) in enumerate(asked, len(members) + 1)
        ]
        for owner, logs in self._decode(work):
            sums[owner].add(logs)
        used = range(1, len(members) + len(asked) + 1)
        self._context.run(Batch(edits=[Trim(sequence, 0) for sequence in used]))
        found: list[list[Likelihood]] = [[] for _ in members]
        for (i, _), total in zip(asked, sums, strict=True):
            found[i].append((total.value, total.greedy))
        return found

    def _grow_trunk(self, tokens: tuple[int, ...]) -> None:
        """Make sequence 0 hold `tokens`, of which it keeps what it has already."""
        kept = len(os.path.commonprefix([self._trunk, tokens]))
        self._context.run(Batch(edits=[Trim(TRUNK, kept)]))
        self._trunk = tokens[:kept]
        for _ in self._decode([_Rows(TRUNK, kept, tokens[kept:])]):
            pass  # nothing is wanted of it
        self._trunk = tokens

    def _decode(self, work: Sequence[_Rows]) -> Iterator[tuple[int, Logs]]:
        """Decode in full batches; gives each piece's number and log probabilities, a row at a time."""
        for batch, owners in _batches(work):
            self._context.run(batch)
            for first in range(0, len(owners), _AT_ONCE):
                rows = batch.output_rows[first : first + _AT_ONCE]
                logs = log_softmax(np.stack([self._context.logits(row) for row in rows]))
                if not np.isfinite(logs[:, 0]).all():
                    raise DecodeError("the model's output is not a number: the file is damaged")
                yield from zip(owners[first : first + _AT_ONCE], logs, strict=True)


def _batches(work: Sequence[_Rows]) -> Iterator[tuple[Batch, list[int]]]:
    """Batches of at most `ROWS` rows, and the piece of work that each output belongs to."""
    batch, owners = Batch(), list[int]()
    for owner, piece in enumerate(work):
        if piece.edit is not None:
            batch.edits.append(piece.edit)
        for start in range(0, len(piece.tokens), ROWS):
            tokens = list(piece.tokens[start : start + ROWS])
            if len(batch.tokens) + len(tokens) > ROWS:
                yield batch, owners
                batch, owners = Batch(), []
            unwanted = min(len(tokens), max(0, len(piece.tokens) - piece.n_wanted - start))
            outputs = range(len(batch.tokens) + unwanted, len(batch.tokens) + len(tokens))
            batch.output_rows += outputs
            owners += [owner] * len(outputs)
            batch.add(tokens, piece.position + start, piece.sequence)
    if batch.tokens or batch.edits:
        yield batch, owners
