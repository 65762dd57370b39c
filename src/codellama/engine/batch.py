"""What travels between the scheduler and the native context: one step's work, and a token's probability.

It stands below both, so that the scheduler needs no llama.cpp and the context no scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from mmap import mmap

Scales = tuple[float, ...]
"""The scale of every loaded LoRA adapter, in order of their ids; 0 leaves one out."""


@dataclass(frozen=True)
class Trim:
    """Keep the first `n_keep` tokens of sequence `target` in the KV cache and drop the rest."""

    target: int
    n_keep: int


@dataclass(frozen=True)
class Fork:
    """Make sequence `target` hold the first `n_keep` tokens of `source`; cells are shared, not copied."""

    source: int
    target: int
    n_keep: int


@dataclass(frozen=True)
class Shift:
    """Drop `n_discard` tokens of sequence `target` behind the first `n_keep` and move the rest up.

    llama.cpp turns the keys of what has moved to their new positions; so no other sequence may share
    those cells.
    """

    target: int
    n_keep: int
    n_discard: int


@dataclass(eq=False)
class KVState:
    """The KV cache of `tokens`, decoded with `scales`, as llama.cpp writes it; `data` is None until it
    has been written. `chunks` are those of the slot that it was written from."""

    tokens: list[int]
    data: bytearray | mmap | None = None
    scales: Scales = ()
    chunks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Save:
    """Write what sequence `source` holds into `state`; if that fails, `state.data` stays None."""

    source: int
    state: KVState


@dataclass(frozen=True)
class Restore:
    """Make sequence `target` hold `state`."""

    target: int
    state: KVState


Edit = Trim | Fork | Shift | Save | Restore


@dataclass(slots=True)
class Batch:
    """One step: KV edits first, then rows of (token, position, sequence id).

    Without rows, only the edits are carried out. `output_rows` are the indices of the rows whose
    logits are wanted, ascending. All rows are decoded with `scales`.
    """

    edits: list[Edit] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    seq_ids: list[int] = field(default_factory=list)
    output_rows: list[int] = field(default_factory=list)
    scales: Scales = ()

    def add(self, tokens: list[int], position: int, seq_id: int) -> None:
        """Append rows for consecutive `tokens` of one sequence, the first at `position`."""
        n = len(tokens)
        self.tokens += tokens
        self.positions += range(position, position + n)
        self.seq_ids += [seq_id] * n

    @property
    def depth(self) -> float:
        """The mean position of the rows: what they attend to takes time."""
        return sum(self.positions) / max(1, len(self.positions))


@dataclass(frozen=True)
class TokenLogprob:
    """A token's natural-log probability before sampling, and the likeliest alternatives.

    NaN for the first token of a prompt, which nothing comes before.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
