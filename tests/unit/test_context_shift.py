"""Context shift: an answer goes on beyond the context, within its reservation, and never touches others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from codellama.engine import Engine, FinishReason, NgramDrafter, Request, Scheduler, Speculator
from codellama.engine.batch import Fork, Restore, Save, Shift
from codellama.engine.prompt_cache import WORTH_KEEPING
from codellama.engine.request import ContextShift
from tests.fake_runner import FakeRunner, expected, request
from tests.scheduler_loop import Loop
from tests.stepped_engine import Eager
from tests.unit.test_engine import Inbox
from tests.unit.test_speculation import Scripted

HALF = ContextShift()


def shifting(prompt: list[int], n: int, n_ctx: int, shift: ContextShift = HALF) -> Request:
    return request(prompt, n, n_ctx=n_ctx, shift=shift)


def check(loop: Loop, req: Request) -> None:
    """Whatever it wrote is what it would have written alone."""
    got = loop.drawn.get(req, [])
    want = expected(req.prompt, len(got), req.scales, req.n_ctx, req.shift)
    assert got == want


@pytest.mark.parametrize(
    ("n_keep", "n_discard", "cut"),
    [
        (0, 0, (0, 49)),
        (20, 0, (20, 39)),
        (20, 5, (20, 5)),
        (500, 0, (96, 1)),
        (96, 50, (96, 2)),
        (0, 5000, (0, 98)),
    ],
)
def test_what_goes(n_keep: int, n_discard: int, cut: tuple[int, int]) -> None:
    """llama-server's rule, of 99 tokens in a context of 100."""
    assert ContextShift(n_keep, n_discard).cut(100, 99) == cut


@pytest.mark.parametrize("n_ctx", range(2, 12))
@pytest.mark.parametrize("n_keep", [0, 1, 3, 100])
def test_tiny_contexts(n_ctx: int, n_keep: int) -> None:
    loop = Loop(n_slots=1, cells=n_ctx)
    new = shifting([5], 30, n_ctx, ContextShift(n_keep))
    loop.submit(new)
    loop.run()
    assert len(loop.drawn[new]) == 30
    check(loop, new)


def test_the_answer_goes_on_within_its_cells() -> None:
    loop = Loop(n_slots=1, cells=40)  # the fake cache would complain
    new = shifting(list(range(10)), 200, 40, ContextShift(5))
    loop.submit(new)
    loop.run()
    check(loop, new)
    assert len(loop.drawn[new]) == 200
    assert loop.drawn[new][:30] == expected(range(10), 30), "until the first shift nothing changes"
    assert loop.drawn[new] != expected(range(10), 200)
    shifts = [e for step in loop.steps for e in step.batch.edits]
    assert shifts[0] == Shift(0, 5, 17), "of 39 tokens, half of those behind the first five"
    assert new.generated == 200
    assert new.truncated


def test_without_it_nothing_shifts() -> None:
    loop = Loop(n_slots=1, cells=40)
    new = request(range(10), 30, n_ctx=40)
    loop.submit(new)
    loop.run()
    assert loop.drawn[new] == expected(range(10), 30)
    assert not any(step.batch.edits for step in loop.steps)
    assert new.truncated, "as in llama-server: the context is full"
    assert not request(range(10), 29, n_ctx=40).truncated


def test_only_the_kept_beginning_serves_others() -> None:
    loop = Loop(n_slots=3, cells=1000)
    prompt = list(range(20))
    first = shifting(prompt, 60, 40, ContextShift(8))
    loop.submit(first)
    while not first.n_dropped:
        loop.step()
    held = list(first.tokens)
    follower = request([*held, 7], 5)
    same = request(prompt, 5)
    loop.submit(follower, same)
    loop.run()
    assert follower.cached_tokens == same.cached_tokens == 8
    for req in (first, follower, same):
        check(loop, req)


def test_an_ended_answer_leaves_only_its_exact_beginning() -> None:
    loop = Loop(n_slots=1, cells=100, cache_bytes=100_000)
    first = shifting(list(range(20)), 60, 40, ContextShift(8))
    loop.submit(first)
    loop.run()
    assert loop.scheduler.slots[0].tokens == list(range(8))
    again = request([*first.tokens, 3], 4)
    loop.submit(again)
    loop.run()
    assert again.cached_tokens == 8
    check(loop, again)


def test_a_shifted_cache_is_neither_stored_nor_saved() -> None:
    loop = Loop(n_slots=1, cells=1000, cache_bytes=100_000)
    n_ctx = 3 * WORTH_KEEPING
    first = shifting(list(range(20)), 400, n_ctx)
    loop.submit(first)
    while not first.n_dropped:
        loop.step()
    assert loop.scheduler.cache.plan_save(list(first.tokens), ()) == (None, [])
    loop.run()
    loop.submit(request([900], 2))
    loop.run()
    assert len(loop.scheduler.cache.prompt_cache) == 0


def test_cells_that_others_hold_are_not_moved() -> None:
    """Two answers to one prompt share its cells; the one that shifts gets cells of its own first."""
    loop = Loop(n_slots=3, cells=1000)
    prompt = list(range(36))
    one, two = shifting(prompt, 80, 40), request(prompt, 80)
    loop.submit(one, two)
    loop.run()
    edits = [e for step in loop.steps for e in step.batch.edits]
    kinds = [type(e) for e in edits]
    assert kinds[:4] == [Fork, Save, Restore, Shift]
    check(loop, one)
    check(loop, two)


def test_an_idle_cache_is_not_moved_either() -> None:
    loop = Loop(n_slots=2, cells=1000)
    prompt = list(range(80))
    loop.submit(request(prompt, 3))
    loop.run()
    one = shifting([*prompt[:30], 900], 80, 40)
    loop.submit(one)
    loop.run()
    again = request([*prompt, 5], 4)
    loop.submit(again)
    loop.run()
    assert (one.cached_tokens, again.cached_tokens) == (30, 80)
    for req in (one, again):
        check(loop, req)


def test_a_beginning_that_stays_is_shared_on() -> None:
    loop = Loop(n_slots=2, cells=1000)
    prompt = list(range(30))
    one, two = shifting([*prompt, 900], 80, 60, ContextShift(30)), request([*prompt, 901], 80)
    loop.submit(one)
    loop.step()
    loop.submit(two)
    loop.run()
    edits = [e for step in loop.steps for e in step.batch.edits]
    assert Fork(0, 1, 30) in edits
    assert not any(isinstance(e, Save) for e in edits), "nothing shared has to move"
    check(loop, one)
    check(loop, two)


def test_drafts_end_before_a_shift() -> None:
    plain, drafting = Loop(n_slots=1, cells=40), Loop(n_slots=1, cells=40)
    drafting.guess = lambda s: [drafting_answer[len(drafting.drawn[s]) + i] for i in range(12)]
    drafting_answer = expected(range(10), 250, (), 40, HALF)
    for loop in (plain, drafting):
        new = shifting(list(range(10)), 200, 40)
        loop.submit(new)
        loop.run()
        check(loop, new)
    assert len(drafting.steps) < len(plain.steps) / 3


# -- in the engine --------------------------------------------------------------------------------

Start = Callable[..., tuple[Engine, FakeRunner]]


@pytest.fixture
def start() -> Iterator[Start]:
    engines: list[Engine] = []

    def make(speculator: Speculator | None = None) -> tuple[Engine, FakeRunner]:
        runner = FakeRunner(2, 200)
        engine = Engine(runner, Scheduler(2, 200, 64, 16), 100, speculator)
        engines.append(engine)
        return engine, runner

    yield make
    for engine in engines:
        engine.close()


def ask(engine: Engine, new: Request) -> Inbox:
    inbox = Inbox()
    new.sink = inbox
    engine.submit([new])
    return inbox


def test_the_end_says_that_it_was_truncated(start: Start) -> None:
    engine, _ = start()
    new = shifting([1, 2, 3], 100, 40)
    inbox = ask(engine, new)
    final = inbox.final()
    assert inbox.tokens() == expected([1, 2, 3], 100, (), 40, HALF)
    assert (final.finish_reason, final.truncated) == (FinishReason.LENGTH, True)
    assert final.usage is not None
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (3, 100)
    assert final.timings is not None
    assert final.timings.decode_n == 99
    short = ask(engine, shifting([1, 2, 3], 10, 40)).final()
    assert not short.truncated
    engine.check_integrity()


def test_stops_logprobs_and_cancels_work_beyond_a_shift(start: Start) -> None:
    engine, _ = start()
    tokens = expected([1, 2, 3], 100, (), 40, HALF)
    place = next(i for i in range(70, 90) if tokens.index(tokens[i]) == i)
    stopped = request([1, 2, 3], 100, stop_tokens=[tokens[place]], n_ctx=40, shift=HALF, logprobs=1)
    inbox = ask(engine, stopped)
    assert inbox.final().stop == tokens[place]
    assert [p.token for d in inbox.deltas for p in d.logprobs] == tokens[:place]
    worded = request([1, 2, 3], 100, stop=(f"<{tokens[place]}>",), n_ctx=40, shift=HALF)
    inbox = ask(engine, worded)
    assert inbox.final().stop == f"<{tokens[place]}>"
    assert inbox.text() == "".join(f"<{t}>" for t in tokens[:place])
    endless = shifting([1, 2, 3], 2**31 - 1, 40)
    inbox = Inbox()

    def sink(delta: object) -> None:
        inbox(delta)  # type: ignore[arg-type]
        if len(inbox.deltas) == 300:
            engine.cancel(endless)

    endless.sink = sink
    engine.submit([endless])
    assert inbox.final().finish_reason is FinishReason.CANCELLED
    assert inbox.tokens() == expected([1, 2, 3], 300, (), 40, HALF)
    engine.check_integrity()


def test_scores_of_a_prompt_do_not_survive_a_shift(start: Start) -> None:
    engine, _ = start()
    prompt = list(range(20))
    new = request(prompt, 60, prompt_logprobs=0, n_ctx=40, shift=ContextShift(30))
    inbox = ask(engine, new)
    assert inbox.tokens() == expected(prompt, 60, (), 40, ContextShift(30))
    engine.check_integrity()
    scores = [ask(engine, request(prompt, 0, prompt_logprobs=0)).final() for _ in range(2)]
    assert [s.usage.cached_tokens for s in scores if s.usage] == [0, 18]


def test_drafters_start_afresh_after_a_shift(start: Start) -> None:
    drafter = Scripted(lambda tokens, n: [-5] * n)
    engine, _ = start(Eager([drafter], 8))
    new = shifting([1, 2, 3], 100, 40)
    assert ask(engine, new).tokens() == expected([1, 2, 3], 100, (), 40, HALF)
    shifts = drafter.forgotten - 1  # and once at the end
    assert shifts == sum(1 for _ in range(0, 100 - 37, 20)), "from 40 tokens to 21 each time"


def test_the_ngram_index_is_that_of_what_is_left(start: Start) -> None:
    """Answers that repeat themselves: the guesses come from the text that is still there."""
    drafter = NgramDrafter()
    engine, runner = start(Eager([drafter], 8))
    runner.sample = lambda sampler, row: (runner.rows[row][-1].token + 1) % 7  # type: ignore[method-assign]
    inbox = ask(engine, shifting([0, 1, 2, 3], 300, 40))
    final = inbox.final()
    assert inbox.tokens() == [(4 + i) % 7 for i in range(300)]
    assert final.timings is not None
    assert final.timings.draft_accepted > 200
