"""A `Runner` without llama.cpp: it keeps the KV cache as lists, checks every edit and row against them, and
"samples" a token that depends on all tokens before it, so that a wrong cache shows in the answer."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

from codellama.batch import Batch, Edit, Fork, Restore, Save, TokenLogprob, Trim
from codellama.engine.detokenizer import Detokenizer
from codellama.engine.sequence import Delta, Sequence

VOCAB = 1000


class FakeSampler:
    """Counts how often it is closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def next_token(tokens: Iterable[int]) -> int:
    """A deterministic function of the whole history."""
    state = 17
    for token in tokens:
        state = (state * 31 + token + 1) % 1_000_003
    return state % VOCAB


class FakeRunner:
    """Raises AssertionError where llama.cpp would abort or answer nonsense."""

    def __init__(self, n_seq: int, cells: int) -> None:
        self.kv: list[list[int]] = [[] for _ in range(n_seq)]
        self.cells = cells
        self.rows: list[list[int]] = []
        self.batches: list[Batch] = []
        self.fail: Callable[[Batch], None] | None = None
        self.closed = False
        self.cleared = 0

    def run(self, batch: Batch) -> None:
        if self.fail is not None:
            self.fail(batch)
        self.batches.append(batch)
        for edit in batch.edits:
            self.edit(edit)
        self.rows = []
        for token, position, seq in zip(batch.tokens, batch.positions, batch.seq_ids, strict=True):
            assert position == len(self.kv[seq]), "a gap in positions"
            self.kv[seq].append(token)
            self.rows.append(list(self.kv[seq]))
        assert sum(map(len, self.kv)) <= self.cells, "the KV cache is full"

    def edit(self, edit: Edit) -> None:
        match edit:
            case Fork(source, target, n_keep):
                assert n_keep <= len(self.kv[source])
                self.kv[target] = self.kv[source][:n_keep]
            case Trim(target, n_keep):
                assert n_keep <= len(self.kv[target])
                del self.kv[target][n_keep:]
            case Save(source, state):
                assert state.tokens == self.kv[source]
                state.data = bytearray(array("q", self.kv[source]).tobytes())
            case Restore(target, state):
                assert state.data is not None
                self.kv[target] = array("q", bytes(state.data)).tolist()
                assert self.kv[target] == state.tokens
                assert sum(map(len, self.kv)) <= self.cells, "no room to restore"

    def sample(self, sampler: FakeSampler, row: int) -> int:
        assert row in self.batches[-1].output_rows
        assert not sampler.closed
        return next_token(self.rows[row])

    def best(self, row: int) -> tuple[int, float]:
        assert row in self.batches[-1].output_rows
        return next_token(self.rows[row]), 0.9

    def logprob(self, row: int, token: int, n_top: int) -> TokenLogprob:
        assert row in self.batches[-1].output_rows
        value = -1.0 - next_token([*self.rows[row], token])
        return TokenLogprob(token, value, tuple((i, value - i) for i in range(n_top)))

    def n_cached(self, sequence: int) -> int:
        return len(self.kv[sequence])

    def clear(self) -> None:
        self.cleared += 1
        self.kv = [[] for _ in self.kv]

    def close(self) -> None:
        self.closed = True


def expected(prompt: Iterable[int], n: int) -> list[int]:
    """What a lone request would answer."""
    tokens = list(prompt)
    start = len(tokens)
    for _ in range(n):
        tokens.append(next_token(tokens))
    return tokens[start:]


def request(
    prompt: Iterable[int],
    max_tokens: int,
    sink: Callable[[Delta], None] = lambda delta: None,
    stop_tokens: Iterable[int] = (),
    stop: tuple[str, ...] = (),
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
) -> Sequence:
    """A request whose tokens read as "<17>"."""
    return Sequence(
        prompt=tuple(prompt),
        max_tokens=max_tokens,
        sampler=FakeSampler(),
        sink=sink,
        detokenizer=Detokenizer(lambda token: f"<{token}>".encode(), stop),
        stop_tokens=frozenset(stop_tokens),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )
