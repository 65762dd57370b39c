"""pass@k: how likely one of k answers is right, from more answers than k. Pure.

The estimator without bias of Chen et al. 2021 (Evaluating Large Language Models Trained on Code, 2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def pass_at_k(n: int, n_right: int, k: int) -> float:
    """The share of sets of `k` out of `n` answers, `n_right` of them right, that have a right one in them."""
    return 1.0 - comb(n - n_right, k) / comb(n, k)


def mean_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """The mean over problems, each with its answers and the right ones of them; all have at least `k`."""
    return sum(pass_at_k(n, n_right, k) for n, n_right in counts) / len(counts)
