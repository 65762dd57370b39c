"""What a base thought of a text, in 64 bytes a token, so that both models need not be in memory at once.

Of each token's distribution the file keeps the 14 likeliest tokens, and as one number the probability of all
others. A divergence computed from it is that of the distributions in which these others are one token. Such a
divergence is never above the true one (the log-sum inequality); what is missing is the divergence among the
others, times their probability. That probability is kept, so that its mean can be told beside the result.
Rounding log probabilities to half precision changes a divergence by less than a thousandth of it.
What the token itself cost the base is kept in single precision.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codellama.quality.statistics import Table, log_softmax

KEPT = 14
MOST_TOKENS = 2**16
"""Vocabularies of more tokens have ids that the file has no room for."""

RECORD = np.dtype(
    [("target", "<f4"), ("rest", "<f4"), ("ids", "<u2", (KEPT,)), ("logs", "<f2", (KEPT,))]
)
"""A token: natural-log probability of the one that came, probability of those not kept, and the kept ones."""

Records = NDArray[np.void]
"""Records of tokens, in the text's order."""

_LEAST = 1e-12  # a probability for what has none left after rounding


def records(logits: NDArray[np.float32], targets: list[int]) -> Records:
    """What is kept of a base's logits, a record for each row; at least `KEPT` tokens in the vocabulary."""
    logs = log_softmax(logits)
    best = np.argpartition(logs, -KEPT, axis=1)[:, -KEPT:]
    order = np.argsort(-np.take_along_axis(logs, best, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    kept = np.take_along_axis(logs, best, axis=1)
    found = np.zeros(len(targets), RECORD)
    found["target"] = logs[np.arange(len(targets)), targets]
    found["rest"] = np.maximum(1.0 - np.exp(kept).sum(axis=1), 0.0)
    found["ids"], found["logs"] = best, kept
    return found


def compared_with(records: Records, logits: NDArray[np.float32], targets: list[int]) -> Table:
    """The table of `statistics.compared`, from records in place of the base's logits."""
    logs = log_softmax(logits)
    of_target = logs[np.arange(len(targets)), targets]
    ids = records["ids"].astype(np.int64)
    base = _closed(np.exp(records["logs"].astype(np.float64)), records["rest"].astype(np.float64))
    kept = np.exp(np.take_along_axis(logs, ids, axis=1))
    ours = _closed(kept, 1.0 - kept.sum(axis=1))
    divergence = (base * np.log(base / ours)).sum(axis=1)
    of_target_base = records["target"].astype(np.float64)
    return np.stack(
        [
            -of_target,
            -of_target_base,
            divergence,
            np.exp(of_target) - np.exp(of_target_base),
            logs.argmax(axis=1) == ids[:, 0],
        ],
        axis=1,
    )


def _closed(kept: Table, rest: Table) -> Table:
    """A distribution of `KEPT` + 1 outcomes, which sums to one."""
    whole = np.maximum(np.concatenate([kept, rest[:, None]], axis=1), _LEAST)
    closed: Table = whole / whole.sum(axis=1, keepdims=True)
    return closed
