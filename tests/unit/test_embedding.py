"""Embeddings without a model: chunks, pooling, norms, and what goes to the context."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from codellama.devices.contexts import encoder_batch, encoder_cells
from codellama.engine.batch import Batch, Trim
from codellama.errors import DecodeError, InvalidRequestError
from codellama.params import ModelConfig, Pooling
from codellama.running.embedding import (
    Embedder,
    Embeddings,
    Span,
    checked_pooling,
    chunks,
    norm_number,
    normalized,
)

POOLS: dict[Pooling, Callable[[Any], Any]] = {
    "none": lambda rows: rows,
    "mean": lambda rows: rows.mean(axis=0),
    "cls": lambda rows: rows[0],
    "last": lambda rows: rows[-1],
}


class FakeEncoder:
    """The hidden state of a row is (sum of its sequence so far, its token, its position)."""

    def __init__(self, n_seq: int) -> None:
        self.n_seq = n_seq
        self.kv: dict[int, list[int]] = {}
        self.rows: list[tuple[int, int, int]] = []
        self.sizes: list[int] = []
        self.held: list[int] = []
        self.cleared = 0
        self.closed = False
        self.broken = False

    def run(self, batch: Batch) -> None:
        if self.broken:
            raise DecodeError("broken")
        for edit in batch.edits:
            assert isinstance(edit, Trim)
            assert edit.n_keep == 0
            del self.kv[edit.target]
        self.rows = []
        for token, position, seq in zip(batch.tokens, batch.positions, batch.seq_ids, strict=True):
            assert 0 <= seq < self.n_seq
            held = self.kv.setdefault(seq, [])
            assert position == len(held), "a gap, or another text's tokens"
            held.append(token)
            self.rows.append((sum(held), token, position))
        assert batch.output_rows == list(range(len(batch.tokens)))
        self.sizes.append(len(batch.tokens))
        self.held.append(sum(map(len, self.kv.values())))

    def hidden(self, n_rows: int) -> Any:
        return np.array(self.rows[:n_rows], dtype=np.float32)

    def clear(self) -> None:
        self.kv = {}
        self.cleared += 1

    def close(self) -> None:
        self.closed = True


def run(embedder: Embedder, inputs: Sequence[Sequence[int]], pooling: Pooling) -> Embeddings:
    work = embedder.work(inputs, pooling, -1)
    while True:
        try:
            next(work)
        except StopIteration as end:
            result = end.value
            assert isinstance(result, Embeddings)
            return result


def reference(tokens: Sequence[int]) -> Any:
    states = [(sum(tokens[: i + 1]), t, i) for i, t in enumerate(tokens)]
    return np.array(states, dtype=np.float32)


@pytest.mark.parametrize("budget", [1, 3, 8, 50])
def test_chunks_cover_everything_in_order(budget: int) -> None:
    rng = random.Random(budget)
    for _ in range(100):
        lengths = [rng.randint(1, 20) for _ in range(rng.randint(1, 12))]
        found = list(chunks(lengths, budget))
        sizes = [sum(p.stop - p.start for p in chunk) for chunk in found]
        assert all(size == budget for size in sizes[:-1])
        assert 0 < sizes[-1] <= budget
        tokens = [(p.index, i) for chunk in found for p in chunk for i in range(p.start, p.stop)]
        assert tokens == [(i, j) for i, n in enumerate(lengths) for j in range(n)]


def test_chunks_of_nothing() -> None:
    assert list(chunks([], 4)) == []
    assert list(chunks([2], 4)) == [[Span(0, 0, 2)]]


@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_pooling_is_the_same_however_the_texts_are_cut(chunk: int) -> None:
    rng = random.Random(chunk)
    encoder = FakeEncoder(chunk)
    embedder = Embedder(lambda: encoder, chunk)
    inputs = [[rng.randint(0, 99) for _ in range(rng.randint(1, 30))] for _ in range(40)]
    want = [reference(tokens) for tokens in inputs]
    for pooling, pool in POOLS.items():
        found = run(embedder, inputs, pooling)
        assert found.n_tokens == tuple(map(len, inputs))
        for vector, rows in zip(found.vectors, want, strict=True):
            assert vector.dtype == np.float32
            np.testing.assert_allclose(vector, pool(rows), rtol=1e-6)
    assert max(encoder.sizes) == chunk
    assert max(encoder.held) <= max(map(len, inputs)) + chunk
    assert encoder.cleared == 4


def test_the_context_is_opened_when_it_is_needed_and_closed_once() -> None:
    made: list[FakeEncoder] = []

    def make() -> FakeEncoder:
        made.append(FakeEncoder(4))
        return made[-1]

    embedder = Embedder(make, 4)
    embedder.close()
    assert not made
    for _ in range(2):
        run(embedder, [[1, 2]], "last")
    assert len(made) == 1
    embedder.close()
    assert made[0].closed


def test_the_cache_is_empty_after_a_failure_and_after_a_cancel() -> None:
    encoder = FakeEncoder(2)
    embedder = Embedder(lambda: encoder, 2)
    encoder.broken = True
    with pytest.raises(DecodeError):
        run(embedder, [[1, 2, 3]], "mean")
    encoder.broken = False
    work = embedder.work([[1, 2, 3, 4, 5]], "mean", -1)
    next(work)
    assert encoder.kv
    work.close()
    assert not encoder.kv
    assert run(embedder, [[7]], "last").vectors[0].tolist() == [7, 7, 0]


def test_norms() -> None:
    vector = np.array([3.0, -4.0], dtype=np.float32)
    assert normalized(vector, -1) is vector
    np.testing.assert_allclose(normalized(vector, 2), [0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(normalized(vector, 1), [3 / 7, -4 / 7], rtol=1e-6)
    np.testing.assert_allclose(normalized(vector, 0), [24570.0, -32760.0], rtol=1e-6)
    length = (27.0 + 64.0) ** (1 / 3)
    np.testing.assert_allclose(normalized(vector, 3), [3 / length, -4 / length], rtol=1e-6)
    rows = np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(normalized(rows, 2), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_what_normalize_may_be() -> None:
    assert [norm_number(x) for x in (True, False, -1, 0, 1, 2, 3)] == [2, -1, -1, 0, 1, 2, 3]
    for bad in (-2, 65, 2.0, "2", None):
        with pytest.raises(InvalidRequestError, match="normalize must be") as info:
            norm_number(bad)  # type: ignore[arg-type]
        assert info.value.param == "normalize"


def test_an_unknown_pooling_is_an_error() -> None:
    with pytest.raises(InvalidRequestError, match="none, mean, cls, last; got 'rank'"):
        checked_pooling("rank")


def test_the_cells_of_the_context_are_counted_only_where_there_is_one() -> None:
    assert encoder_cells(ModelConfig(), 1000) == 0
    assert encoder_cells(ModelConfig(embeddings=True), 1000) == 1256
    assert encoder_cells(ModelConfig(embeddings=True, prefill_chunk=64), 1000) == 1064
    assert encoder_batch(ModelConfig(prefill_chunk=4096, n_batch=4096)) == 256
    assert encoder_batch(ModelConfig(n_batch=100, n_ubatch=50)) == 100
