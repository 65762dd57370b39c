"""What the engine needs of the native side: a context that decodes batches and draws tokens.

`native.context.Context` is one; tests have one that is pure Python.
"""

from __future__ import annotations

from typing import Any, Protocol

from codellama.engine.batch import Batch, TokenLogprob


class Runner(Protocol):
    """The native side, as the engine sees it. Only the engine's thread calls it."""

    def use_threads(self, n: int) -> None:
        """Compute with `n` threads from the next batch on."""

    def run(self, batch: Batch) -> None:
        """Carry out the KV edits and decode the rows; raises if it cannot."""

    def sample(self, sampler: Any, row: int) -> int:
        """Draw the token after batch row `row`."""

    def logprob(self, row: int, token: int, n_top: int, sampler: Any = None) -> TokenLogprob:
        """The probability of `token` after batch row `row`, and the `n_top` likeliest; if the `sampler` that
        has just drawn it tells these, its own."""

    def n_cached(self, sequence: int) -> int:
        """Number of tokens of a sequence in the KV cache."""

    def clear(self) -> None:
        """Forget all sequences."""

    def close(self) -> None:
        """Free everything."""
