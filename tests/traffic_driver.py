"""Plays traffic to the engine over a fake cache, and compares every answer, score and saved state with those
of a lone request, computed naively."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from codellama.engine import Drafter, FinishReason, ModelDrafter, Request, Scheduler
from codellama.engine.batch import Batch, Scales, TokenLogprob
from codellama.engine.drafter import Outlook, Wish
from codellama.engine.prompt_cache import PromptCache
from codellama.engine.request import Delta, State
from codellama.errors import DecodeError
from tests.fake_runner import (
    VOCAB,
    Cell,
    FakeRunner,
    FakeSampler,
    decode,
    expected,
    request,
    written,
)
from tests.stepped_engine import SteppedEngine, Strict
from tests.traffic import Ask, Cancel, Fail, Operation, Save, Steps, Submit, Traffic, World

BYTES_PER_TOKEN = 8  # of a fake state


def lone_cells(tokens: Sequence[int], scales: Scales) -> list[Cell]:
    """The cache of a lone request with these tokens."""
    cells: list[Cell] = []
    for token in tokens:
        cells.append(decode(cells, token, scales))
    return cells


def lone_scores(prompt: Sequence[int], scales: Scales) -> list[float]:
    """The log probabilities of a lone prompt, from its second token on."""
    cells = lone_cells(prompt, scales)
    return [-1.0 - decode(cells[:i], prompt[i]).value % VOCAB for i in range(1, len(prompt))]


def pairs(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Cells by what they hold."""
    return [(cell.token, cell.value) for cell in cells]


@dataclass
class Asked:
    """A request, what it was told, and what a lone one would answer."""

    request: Request
    answer: list[int]
    deltas: list[Delta] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.tokens]

    @property
    def final(self) -> Delta:
        return self.deltas[-1]

    def check(self) -> None:
        """It ended once, and it was told what a lone one would be told."""
        req, got = self.request, self.tokens
        ends = [delta for delta in self.deltas if delta.finish_reason is not None]
        assert ends == [self.final], "exactly one delta is final, the last"
        assert req.state is State.FINISHED
        assert isinstance(req.sampler, FakeSampler)
        assert req.sampler.closed == 1
        assert got == self.answer[: len(got)]
        if self.final.finish_reason is FinishReason.LENGTH:
            assert got == self.answer
            assert self.final.truncated == (len(req.prompt) + len(got) >= req.n_ctx)
        else:
            assert req.cancelled or isinstance(self.final.error, DecodeError)
        usage = self.final.usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (len(req.prompt), len(got))
        self._check_scores([entry for delta in self.deltas for entry in delta.logprobs])

    def _check_scores(self, entries: list[TokenLogprob]) -> None:
        req = self.request
        if req.prompt_logprobs is None or not entries:
            assert not entries, "nobody asked for them"
            ended_early = self.final.finish_reason is not FinishReason.LENGTH
            assert req.prompt_logprobs is None or ended_early
            return
        assert [entry.token for entry in entries] == list(req.prompt)
        assert math.isnan(entries[0].logprob)
        assert [entry.logprob for entry in entries[1:]] == lone_scores(req.prompt, req.scales)
        assert all(len(entry.top) == req.prompt_logprobs for entry in entries[1:])


# -- the engine and its drafters ------------------------------------------------------------------


class Knowing:
    """A drafter that knows the answers: its drafts are right at first and then wrong, often too long."""

    steady = False
    seconds_per_token = 0.0

    def __init__(
        self, guesses: Sequence[tuple[int, int]], answers: dict[Request, list[int]]
    ) -> None:
        self._guesses = itertools.cycle(guesses)
        self._answers = answers

    def outlook(self, req: Request) -> Outlook | None:
        return Outlook("knowing", 0.95)

    def draft(self, wishes: Sequence[Wish]) -> list[list[int]]:
        return [self._guess(wish.request) for wish in wishes]

    def _guess(self, req: Request) -> list[int]:
        n_right, n_wrong = next(self._guesses)
        return [*self._answers[req][req.generated :][:n_right], *[VOCAB] * n_wrong]

    def forget(self, req: Request) -> None:
        """Nothing is kept."""

    def reset(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held."""


class LyingRunner(FakeRunner):
    """A draft model whose every `lies`-th guess is wrong."""

    def __init__(self, n_seq: int, cells: int, lies: int) -> None:
        super().__init__(n_seq, cells)
        self._calls = itertools.count(1)
        self._lies = lies

    def best(self, row: int) -> tuple[int, float]:
        return (VOCAB, 0.9) if next(self._calls) % self._lies == 0 else super().best(row)


class Driver:
    """Plays traffic to an engine over a fake cache. `events` counts what came to pass."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: list[Asked] = []
        self.events: Counter[str] = Counter()
        self.runner = self.make_runner(world)
        self.draft_runner = LyingRunner(world.n_slots, world.cells, world.lies)
        cache = PromptCache(world.cache_bytes, BYTES_PER_TOKEN)
        self.scheduler = Scheduler(
            world.n_slots, world.cells, world.n_batch, world.chunk, world.max_outputs, cache
        )
        self._answers: dict[Request, list[int]] = {}
        self.engine = SteppedEngine(self.runner, self.scheduler, Strict(self._drafters(), 8))

    def make_runner(self, world: World) -> FakeRunner:
        """The cache that the engine works with."""
        return FakeRunner(world.n_slots, world.cells)

    def _drafters(self) -> list[Drafter]:
        world, drafters = self.world, list[Drafter]()
        if world.guesses:
            drafters.append(Knowing(world.guesses, self._answers))
        if world.lies:
            chunk = max(world.chunk, 2 * world.n_slots)
            drafters.append(
                ModelDrafter(self.draft_runner, world.n_slots, world.cells, chunk, p_min=0.5)
            )
        return drafters

    def play(self, operations: Sequence[Operation]) -> None:
        """All of them, then steps until all have ended; then everything is checked."""
        try:
            for operation in operations:
                self._do(operation)
            self.engine.run()
            self.engine.check_integrity()
            assert not self.scheduler.has_work
            for asked in self.asked:
                asked.check()
            for slot in self.scheduler.slots:
                left = pairs(self.runner.kv[slot.id])
                assert left == pairs(lone_cells(slot.tokens, slot.scales)), "what is left is exact"
            self._count()
        finally:
            self.engine.close()
        assert self.runner.closed

    def _do(self, operation: Operation) -> None:
        match operation:
            case Submit():
                self._submit(operation)
            case Steps(n):
                for _ in range(n):
                    self.engine.step()
            case Cancel(which):
                live = [a.request for a in self.asked if a.request.state is not State.FINISHED]
                if live:
                    self.engine.cancel(live[which % len(live)])
            case Save(which, load):
                if self.asked:
                    self._save(self.asked[which % len(self.asked)], load)
            case Fail():
                self._fail_a_step()

    def _submit(self, new: Submit) -> None:
        n_ctx = self.world.n_ctx
        counted = (new.stride * i % 9 for i in range(new.length))
        prompt = (*counted, *new.tail)[: n_ctx - 1]
        group = [self._ask(prompt, ask) for ask in new.asks]
        self.engine.submit([asked.request for asked in group])
        self.asked += group

    def _ask(self, prompt: tuple[int, ...], ask: Ask) -> Asked:
        n_ctx = self.world.n_ctx
        most = ask.max_tokens if ask.shift else min(ask.max_tokens, n_ctx - len(prompt))
        req = request(
            prompt,
            most,
            prompt_logprobs=ask.n_top,
            scales=ask.scales,
            n_ctx=n_ctx,
            shift=ask.shift,
            reuse=ask.reuse,
            id_slot=ask.id_slot,
        )
        asked = Asked(req, expected(prompt, most, ask.scales, n_ctx, ask.shift))
        req.sink = asked.deltas.append
        self._answers[req] = asked.answer
        return asked

    def _save(self, asked: Asked, load: bool) -> None:
        """What is saved for a conversation is what a lone one would have left."""
        tokens, scales = [*asked.request.prompt, *asked.tokens], asked.request.scales
        state = self.engine.save_state(tokens, scales)
        if state is None:
            return
        assert state.tokens[0] == tokens[0], "something of it is shared"
        assert (state.scales, state.data) == (scales, written(lone_cells(state.tokens, scales)))
        self.events["saved"] += 1
        if load:
            self.engine.add_state(state)

    def _fail_a_step(self) -> None:
        """After one that does not fail: an engine gives up when several in a row do."""

        def fail(batch: Batch) -> None:
            raise DecodeError("llama.cpp has no room")

        self.engine.step()
        self.runner.fail = fail
        self.engine.step()
        self.runner.fail = None

    def _count(self) -> None:
        status = self.engine.status
        assert not status.dead
        self.events["cached"] += status.cached_tokens
        self.events["accepted"] += status.draft_accepted
        self.events["rejected"] += status.draft_tokens - status.draft_accepted
        for batch in self.runner.batches:
            self.events.update(type(edit).__name__ for edit in batch.edits)
        for asked in self.asked:
            self.events[str(asked.final.finish_reason)] += 1
            self.events["scored"] += any(delta.logprobs for delta in asked.deltas)
            self.events[f"adapters {asked.request.scales}"] += 1


def play(traffic: Traffic) -> Counter[str]:
    """Play it, check everything, and say how often what came to pass."""
    driver = Driver(traffic.world)
    driver.play(traffic.operations)
    return driver.events
