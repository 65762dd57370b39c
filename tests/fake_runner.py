"""A `Runner` without llama.cpp: it keeps the KV cache as lists, checks every edit and row against them, and
"samples" a token that depends on all tokens before it, on where they stand, and on what was there when they
were decoded, so that a wrong cache shows in the answer."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from codellama.engine.batch import (
    Batch,
    Edit,
    Fork,
    Restore,
    Save,
    Scales,
    Shift,
    TokenLogprob,
    Trim,
)
from codellama.engine.detokenizer import Detokenizer
from codellama.engine.request import NO_LIMIT, ContextShift, Delta, Request, Reuse

VOCAB = 1000


class FakeSampler:
    """Counts how often it is closed."""

    def __init__(self) -> None:
        self.closed = 0

    def fitting(self, tokens: Sequence[int]) -> int:
        return len(tokens)

    def forced(self) -> list[int]:
        return []

    def close(self) -> None:
        self.closed += 1


@dataclass(frozen=True, eq=False)
class Cell:
    """A token in the cache, and what it became when it was decoded; sequences may share it."""

    token: int
    value: int


def decode(cells: list[Cell], token: int, scales: Scales = ()) -> Cell:
    """The cell of `token` behind `cells`."""
    state = 17 + sum(int(1000 * scale) * (7 + i) for i, scale in enumerate(scales))
    for position, cell in enumerate(cells, 1):
        state += position * cell.value
    return Cell(token, (state * 31 + token + 1) % 1_000_003)


def next_token(tokens: Iterable[int], scales: Scales = ()) -> int:
    """A deterministic function of the whole history."""
    cells: list[Cell] = []
    for token in tokens:
        cells.append(decode(cells, token, scales))
    return cells[-1].value % VOCAB


def written(cells: Iterable[Cell]) -> bytearray:
    """A state that holds them, of eight bytes each."""
    return bytearray(array("q", [(cell.token << 20) + cell.value for cell in cells]).tobytes())


class FakeRunner:
    """Raises AssertionError where llama.cpp would abort or answer nonsense."""

    def __init__(self, n_seq: int, cells: int) -> None:
        self.kv: list[list[Cell]] = [[] for _ in range(n_seq)]
        self.cells = cells
        self.rows: list[list[Cell]] = []
        self.batches: list[Batch] = []
        self.fail: Callable[[Batch], None] | None = None
        self.closed = False
        self.cleared = 0
        self.threads: list[int] = []

    def use_threads(self, n: int) -> None:
        self.threads.append(n)

    def run(self, batch: Batch) -> None:
        if self.fail is not None:
            self.fail(batch)
        self.batches.append(batch)
        for edit in batch.edits:
            self.edit(edit)
        self.rows = []
        for token, position, seq in zip(batch.tokens, batch.positions, batch.seq_ids, strict=True):
            cells = self.kv[seq]
            assert position == len(cells), "a gap in positions"
            cells.append(decode(cells, token, batch.scales))
            self.rows.append(list(cells))
        assert sum(map(len, self.kv)) <= self.cells, "the KV cache is full"

    def edit(self, edit: Edit) -> None:
        match edit:
            case Fork(source, target, n_keep):
                assert n_keep <= len(self.kv[source])
                self.kv[target] = self.kv[source][:n_keep]
            case Trim(target, n_keep):
                assert n_keep <= len(self.kv[target])
                del self.kv[target][n_keep:]
            case Shift(target, n_keep, n_discard):
                cells = self.kv[target]
                assert 0 < n_discard < len(cells) - n_keep + 1
                moved = set(cells[n_keep + n_discard :])
                others = (kv for seq, kv in enumerate(self.kv) if seq != target)
                assert all(moved.isdisjoint(kv) for kv in others), "another sequence's cell moves"
                del cells[n_keep : n_keep + n_discard]
            case Save(source, state):
                assert state.tokens == self.tokens(source)
                state.data = written(self.kv[source])
            case Restore(target, state):
                assert state.data is not None
                pairs = array("q", bytes(state.data)).tolist()
                self.kv[target] = [Cell(pair >> 20, pair % 2**20) for pair in pairs]
                assert self.tokens(target) == state.tokens
                assert sum(map(len, self.kv)) <= self.cells, "no room to restore"

    def tokens(self, sequence: int) -> list[int]:
        return [cell.token for cell in self.kv[sequence]]

    def sample(self, sampler: FakeSampler, row: int) -> int:
        assert row in self.batches[-1].output_rows
        assert not sampler.closed
        return self.rows[row][-1].value % VOCAB

    def best(self, row: int) -> tuple[int, float]:
        assert row in self.batches[-1].output_rows
        return self.rows[row][-1].value % VOCAB, 0.9

    def logprob(self, row: int, token: int, n_top: int, sampler: Any = None) -> TokenLogprob:
        assert row in self.batches[-1].output_rows
        value = -1.0 - decode(self.rows[row], token).value % VOCAB
        return TokenLogprob(token, value, tuple((i, value - i) for i in range(n_top)))

    def n_cached(self, sequence: int) -> int:
        return len(self.kv[sequence])

    def clear(self) -> None:
        self.cleared += 1
        self.kv = [[] for _ in self.kv]

    def close(self) -> None:
        self.closed = True


def expected(
    prompt: Iterable[int],
    n: int,
    scales: Scales = (),
    n_ctx: int = NO_LIMIT,
    shift: ContextShift | None = None,
) -> list[int]:
    """What a lone request would answer."""
    cells: list[Cell] = []
    for token in prompt:
        cells.append(decode(cells, token, scales))
    answer: list[int] = []
    while len(answer) < n:
        answer.append(cells[-1].value % VOCAB)
        if shift is not None and len(cells) + 1 >= n_ctx:
            n_keep, n_discard = shift.cut(n_ctx, len(cells))
            del cells[n_keep : n_keep + n_discard]
        cells.append(decode(cells, answer[-1], scales))
    return answer


def request(
    prompt: Iterable[int],
    max_tokens: int,
    sink: Callable[[Delta], None] = lambda delta: None,
    stop_tokens: Iterable[int] = (),
    stop: tuple[str, ...] = (),
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    scales: Scales = (),
    n_ctx: int = NO_LIMIT,
    shift: ContextShift | None = None,
    reuse: Reuse = Reuse.ALL,
    id_slot: int = -1,
) -> Request:
    """A request whose tokens read as "<17>"."""
    return Request(
        prompt=tuple(prompt),
        max_tokens=max_tokens,
        sampler=FakeSampler(),
        sink=sink,
        detokenizer=Detokenizer(lambda token: f"<{token}>".encode(), stop),
        stop_tokens=frozenset(stop_tokens),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        scales=scales,
        n_ctx=n_ctx,
        shift=shift,
        reuse=reuse,
        id_slot=id_slot,
    )
