"""What a base thought of a text, in 64 bytes a token, so that both models need not be in memory at once.

Of each token's distribution p the file keeps the 9 likeliest tokens, and 5 that were drawn from all others in
proportion to their probability. The divergence from p to q is the sum of p (r - 1 - log r) over all tokens,
with r = q / p, because p and q have the same sum. No term is negative. The likeliest tokens' terms are
computed; those of the others are estimated by the mean over the drawn ones times the others' probability.
This estimate has no bias, so the mean over a text is right within its own standard error, which has the
drawing in it. A single token's divergence, and with it median and maximum, is less exact, the more so the
more probability is among the others; how much that is on average can be told beside the result. Log
probabilities are rounded to half precision, what the token itself cost the base to single precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codellama.quality.statistics import Table, log_softmax

LIKELIEST, DRAWN = 9, 5
KEPT = LIKELIEST + DRAWN
MOST_TOKENS = 2**16
"""Vocabularies of more tokens have ids that the file has no room for."""

RECORD = np.dtype(
    [("target", "<f4"), ("rest", "<f4"), ("ids", "<u2", (KEPT,)), ("logs", "<f2", (KEPT,))]
)
"""A token: log probability of the one that came, probability of all but the likeliest, the kept tokens and
their log probabilities, the likeliest first and the drawn ones behind them."""

Records = NDArray[np.void]
"""Records of tokens, in the text's order."""


def records(
    logits: NDArray[np.float32], targets: Sequence[int], rng: np.random.Generator
) -> Records:
    """What is kept of a base's logits, a record for each row, of at least `KEPT` tokens."""
    logs = log_softmax(logits)
    best = np.argpartition(logs, -LIKELIEST, axis=1)[:, -LIKELIEST:]
    order = np.argsort(-np.take_along_axis(logs, best, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    others = np.exp(logs)
    np.put_along_axis(others, best, 0.0, axis=1)
    sums = np.cumsum(others, axis=1)
    found = np.zeros(len(targets), RECORD)
    found["target"] = logs[np.arange(len(targets)), list(targets)]
    found["rest"] = sums[:, -1]
    ids = np.concatenate([best, _drawn(sums, rng)], axis=1)
    found["ids"], found["logs"] = ids, np.take_along_axis(logs, ids, axis=1)
    return found


def compared_with(records: Records, logits: NDArray[np.float32], targets: Sequence[int]) -> Table:
    """The table of `statistics.compared`, from records in place of the base's logits."""
    logs = log_softmax(logits)
    of_target = logs[np.arange(len(targets)), list(targets)]
    of_target_base = records["target"].astype(np.float64)
    ids = records["ids"].astype(np.int64)
    base_logs = records["logs"].astype(np.float64)
    ratio = np.take_along_axis(logs, ids, axis=1) - base_logs
    terms = np.exp(ratio) - 1.0 - ratio
    likeliest = (np.exp(base_logs) * terms)[:, :LIKELIEST].sum(axis=1)
    others = records["rest"].astype(np.float64) * terms[:, LIKELIEST:].mean(axis=1)
    return np.stack(
        [
            -of_target,
            -of_target_base,
            likeliest + others,
            np.exp(of_target) - np.exp(of_target_base),
            logs.argmax(axis=1) == ids[:, 0],
        ],
        axis=1,
    )


def _drawn(sums: Table, rng: np.random.Generator) -> NDArray[np.int64]:
    """`DRAWN` tokens for each row of running sums of weights, one from each of as many equal parts."""
    parts = (np.arange(DRAWN) + rng.random((len(sums), 1))) / DRAWN
    places = [
        np.searchsorted(row, part * row[-1], side="right")
        for row, part in zip(sums, parts, strict=True)
    ]
    return np.asarray(np.minimum(places, sums.shape[1] - 1), np.int64)
