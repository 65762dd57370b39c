"""What logits say of a text, and of a base's logits over the same text. Pure arithmetic, in double precision.

A chunk's numbers are a table, a row for each token that was predicted. `summarize` makes the totals, as
llama-perplexity counts them: only the second half of each chunk counts, so that every token has some context.
Its formulas are in `kl_divergence` of llama.cpp's tools/perplexity/perplexity.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALONE = ("nll",)
"""The column of a table without a base: what the token cost, in nats."""

COMPARED = ("nll", "base_nll", "divergence", "delta_p", "same_top")
"""The columns with a base: beside it what the token cost the base, the KL divergence from the base in nats,
how much more probable the token is than for the base, and whether both think the same token likeliest."""

Table = NDArray[np.float64]
"""Numbers of tokens: shape (tokens, columns)."""


def log_softmax(logits: NDArray[Any]) -> Table:
    """Natural-log probabilities of each row; shape (tokens, vocabulary)."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def alone(logits: NDArray[Any], targets: Sequence[int]) -> Table:
    """A table with the column of `ALONE` for the tokens that came behind each row of logits."""
    logs = log_softmax(logits)
    return -logs[np.arange(len(targets)), list(targets)][:, None]


def compared(logits: NDArray[Any], base: NDArray[Any], targets: Sequence[int]) -> Table:
    """A table with the columns of `COMPARED`; `base` are the base's logits, of the same shape."""
    logs, base_logs = log_softmax(logits), log_softmax(base)
    rows = np.arange(len(targets))
    of_target, of_target_base = logs[rows, list(targets)], base_logs[rows, list(targets)]
    divergence = np.einsum("ij,ij->i", np.exp(base_logs), base_logs - logs)
    return np.stack(
        [
            -of_target,
            -of_target_base,
            divergence,
            np.exp(of_target) - np.exp(of_target_base),
            logs.argmax(axis=1) == base_logs.argmax(axis=1),
        ],
        axis=1,
    )


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Divergence:
    """How far a file is from its base over the tokens that count.

    Divergences are in nats, `quantiles` by their share of all tokens. `log_ratio` is that of the
    perplexities, whose error is small because both models find the same tokens hard. `rms_delta_p` and
    `same_top` are shares.
    """

    base_perplexity: Estimate
    log_ratio: Estimate
    mean: Estimate
    median: float
    quantiles: dict[str, float]
    maximum: float
    rms_delta_p: Estimate
    same_top: Estimate


@dataclass(frozen=True)
class Summary:
    """The totals of a text: `n_tokens` counted, and the divergence where there was a base."""

    n_tokens: int
    perplexity: Estimate
    divergence: Divergence | None

    def to_json(self) -> dict[str, Any]:
        """As nested dictionaries."""
        return asdict(self)


def counted(table: Table, chunk_tokens: int) -> Table:
    """The rows of one chunk's table that count: those of the tokens behind its first half."""
    return table[chunk_tokens // 2 :]


def summarize(chunks: Sequence[Table], chunk_tokens: int) -> Summary:
    """The totals over chunks of `chunk_tokens` tokens, each with one row fewer; at least one."""
    table = np.concatenate([counted(chunk, chunk_tokens) for chunk in chunks])
    perplexity = _perplexity(table[:, 0])
    return Summary(
        n_tokens=len(table),
        perplexity=perplexity,
        divergence=_divergence(table) if table.shape[1] == len(COMPARED) else None,
    )


def by_position(chunks: Sequence[Table], column: str, parts: int) -> list[tuple[int, float]]:
    """The mean of a column of `COMPARED` by place in the chunk: the first position of each part, and the
    mean in it. All positions are shown, also those that `summarize` leaves out."""
    values = np.mean([chunk[:, COMPARED.index(column)] for chunk in chunks], axis=0)
    split = np.array_split(values, min(parts, len(values)))
    starts = np.cumsum([0, *map(len, split)])
    return [(int(start), float(part.mean())) for start, part in zip(starts, split, strict=False)]


def mean(values: Table) -> Estimate:
    """The mean and its standard error; the error is 0 for a single value."""
    error = math.sqrt(values.var() / (len(values) - 1)) if len(values) > 1 else 0.0
    return Estimate(float(values.mean()), error)


def _perplexity(nll: Table) -> Estimate:
    cost = mean(nll)
    perplexity = math.exp(cost.value)
    return Estimate(perplexity, perplexity * cost.error)


def _divergence(table: Table) -> Divergence:
    nll, base_nll, divergence, delta_p, same_top = table.T
    squares = mean(delta_p**2)
    rms = math.sqrt(squares.value)
    share = float(same_top.mean())
    return Divergence(
        base_perplexity=_perplexity(base_nll),
        log_ratio=mean(nll - base_nll),  # the error of a difference of paired values
        mean=mean(divergence),
        median=float(np.median(divergence)),
        quantiles={str(q): float(np.quantile(divergence, q)) for q in (0.99, 0.999)},
        maximum=float(divergence.max()),
        rms_delta_p=Estimate(rms, 0.5 * squares.error / rms if rms else 0.0),
        same_top=Estimate(share, math.sqrt(share * (1 - share) / max(len(table) - 1, 1))),
    )
