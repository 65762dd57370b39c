"""Texts as vectors: the model's hidden states, pooled.

A context that generates keeps logits of a few rows only, so embeddings have a context of their own on the
same model, made when the first ones are asked for. It gives the hidden state of every token behind the
last norm, and pooling is done here. llama.cpp could pool too, but only over a text that fits one batch,
and with one way of pooling per context; the model being causal, this way any text that fits the context
is decoded in chunks, several short ones share a chunk, and the vectors are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codellama.engine.background import Work
from codellama.engine.batch import Batch, Edit, Scales, Trim
from codellama.errors import DecodeError, InvalidRequestError
from codellama.params import POOLING_TYPES, Pooling

Vectors = NDArray[np.float32]

EUCLIDEAN = 2
MOST_NORM = 64  # larger powers leave the range of a double
_NO_NORM, _MAX_NORM = -1, 0
_INT16 = 32760.0  # llama.cpp's scale for vectors that become 16-bit integers


@dataclass(frozen=True)
class Embeddings:
    """One array per input, shape (width,), or (tokens, width) with pooling "none"; and the inputs'
    lengths in tokens."""

    vectors: tuple[Vectors, ...]
    n_tokens: tuple[int, ...]


class Encoder(Protocol):
    """The native side: a context that gives hidden states."""

    def run(self, batch: Batch) -> None:
        """Carry out the KV edits and decode the rows; raises if it cannot."""

    def hidden(self, n_rows: int) -> Vectors:
        """The hidden states of the batch's first rows, shape (n_rows, width): a view."""

    def clear(self) -> None:
        """Forget all sequences."""

    def close(self) -> None:
        """Free everything."""


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `stop` of input `index`."""

    index: int
    start: int
    stop: int


def chunks(lengths: Sequence[int], budget: int) -> Iterator[list[Span]]:
    """All inputs in order, cut so that every chunk but the last has exactly `budget` tokens."""
    chunk: list[Span] = []
    room = budget
    for index, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(length, start + room)
            chunk.append(Span(index, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield chunk
                chunk, room = [], budget
    if chunk:
        yield chunk


class Embedder:
    """Computes embeddings on the engine's thread, `chunk` tokens at a time. Close it at the end."""

    def __init__(self, make: Callable[[], Encoder], chunk: int) -> None:
        """`make` opens a context of `chunk` sequences, so that every input in a chunk has its own; it
        is called once, on the first use."""
        self._make = make
        self._chunk = chunk
        self._encoder: Encoder | None = None

    def work(
        self,
        inputs: Sequence[Sequence[int]],
        pooling: Pooling,
        norm: int,
        scales: Scales = (),
    ) -> Work[Embeddings]:
        """The embeddings of token lists; gives the thread back after every chunk.

        `scales` are those of the model's LoRA adapters. `norm` is llama.cpp's number: -1 none,
        0 largest absolute value, 1 taxicab, 2 Euclidean,
        above that the p-norm. Raises ModelLoadError, DecodeError.
        """
        if self._encoder is None:
            self._encoder = self._make()
        encoder = self._encoder
        pools = [_Pool(pooling) for _ in inputs]
        ended: list[int] = []
        try:
            for chunk in chunks([len(tokens) for tokens in inputs], self._chunk):
                edits: list[Edit] = [Trim(index % self._chunk, 0) for index in ended]
                batch = Batch(edits=edits, scales=scales)
                for piece in chunk:
                    tokens = list(inputs[piece.index][piece.start : piece.stop])
                    batch.add(tokens, piece.start, piece.index % self._chunk)
                batch.output_rows += range(len(batch.tokens))
                encoder.run(batch)
                rows, first = encoder.hidden(len(batch.tokens)), 0
                for piece in chunk:
                    last = first + piece.stop - piece.start
                    pools[piece.index].add(rows[first:last])
                    first = last
                ended = [p.index for p in chunk if p.stop == len(inputs[p.index])]
                yield len(batch.tokens)
        finally:
            encoder.clear()
        vectors = tuple(normalized(pool.vector(), norm) for pool in pools)
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise DecodeError("the model's output is not a number: the file is damaged")
        return Embeddings(vectors, tuple(len(tokens) for tokens in inputs))

    def close(self) -> None:
        """Free the context, if there is one; the engine must have ended."""
        if self._encoder is not None:
            self._encoder.close()


class _Pool:
    """Hidden states of one input as they come; copies what it keeps."""

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._rows: list[Vectors] = []
        self._sum: Any = 0.0
        self._n = 0

    def add(self, rows: Vectors) -> None:
        self._n += len(rows)
        match self._pooling:
            case "none":
                self._rows.append(rows.copy())
            case "mean":
                self._sum = self._sum + rows.sum(axis=0, dtype=np.float64)
            case "cls":
                self._rows = self._rows or [rows[0].copy()]
            case "last":
                self._rows = [rows[-1].copy()]

    def vector(self) -> Vectors:
        match self._pooling:
            case "none":
                return np.concatenate(self._rows)
            case "mean":
                return np.asarray(self._sum / self._n, np.float32)
        return self._rows[0]


def normalized(vectors: Vectors, norm: int) -> Vectors:
    """`vectors` (the last axis is a vector's) as llama.cpp's `common_embd_normalize` scales them."""
    if norm == _NO_NORM:
        return vectors
    sizes = np.abs(vectors.astype(np.float64))
    if norm == _MAX_NORM:
        length = sizes.max(axis=-1, keepdims=True) / _INT16
    else:
        length = (sizes**norm).sum(axis=-1, keepdims=True) ** (1.0 / norm)
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    return np.asarray(vectors * scale, np.float32)


def norm_number(normalize: bool | int) -> int:
    """llama.cpp's number for `normalize`: True is Euclidean, False none; a number is taken as it is.

    Raises InvalidRequestError for anything else.
    """
    if isinstance(normalize, bool):
        return EUCLIDEAN if normalize else _NO_NORM
    if not isinstance(normalize, int) or not _NO_NORM <= normalize <= MOST_NORM:
        raise InvalidRequestError(
            "{param} must be true, false or a number from {least} to {most} "
            "(-1 none, 0 largest absolute value, 1 taxicab, 2 Euclidean, more p-norm); "
            "got {value!r}",
            "normalize",
            least=_NO_NORM,
            most=MOST_NORM,
            value=normalize,
        )
    return normalize


def checked_pooling(pooling: str) -> Pooling:
    """`pooling` if there is such a one; InvalidRequestError if not."""
    for known in POOLING_TYPES:
        if pooling == known:
            return known
    raise InvalidRequestError(
        "{param} must be one of {types}; got {pooling!r}",
        "pooling",
        types=", ".join(POOLING_TYPES),
        pooling=pooling,
    )
