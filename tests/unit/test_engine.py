"""The engine's thread over a fake runner: every request ends in exactly one final delta, whatever fails."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from codellama.engine import Delta, Engine, FinishReason, Request, Scheduler
from codellama.engine.batch import Batch
from codellama.engine.detokenizer import Detokenizer
from codellama.errors import DecodeError, EngineDeadError, QueueFullError
from tests.fake_runner import FakeRunner, FakeSampler, expected, request

Start = Callable[..., tuple[Engine, FakeRunner]]


@dataclass
class Inbox:
    """A sink that collects deltas and can be waited on."""

    deltas: list[Delta] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __call__(self, delta: Delta) -> None:
        assert not self.ended.is_set(), "a delta after the final one"
        self.deltas.append(delta)
        if delta.finish_reason is not None:
            self.ended.set()

    def final(self) -> Delta:
        assert self.ended.wait(10), "the request never ended"
        return self.deltas[-1]

    def tokens(self) -> list[int]:
        self.final()
        return [token for delta in self.deltas for token in delta.tokens]

    def text(self) -> str:
        self.final()
        return "".join(delta.text for delta in self.deltas)


@pytest.fixture
def start() -> Iterator[Start]:
    engines: list[Engine] = []

    def make(n_slots: int = 4, cells: int = 400, max_queue: int = 100) -> tuple[Engine, FakeRunner]:
        runner = FakeRunner(n_slots, cells)
        engine = Engine(runner, Scheduler(n_slots, cells, 64, 16), max_queue)
        engines.append(engine)
        return engine, runner

    yield make
    for engine in engines:
        engine.close()


def ask(engine: Engine, prompt: list[int], n: int, **options: object) -> tuple[Inbox, Request]:
    inbox = Inbox()
    new = request(prompt, n, sink=inbox, **options)  # type: ignore[arg-type]
    engine.submit([new])
    return inbox, new


def closed_once(req: Request) -> bool:
    assert isinstance(req.sampler, FakeSampler)
    return req.sampler.closed == 1


def test_an_answer(start: Start) -> None:
    engine, _ = start()
    inbox, new = ask(engine, [1, 2, 3], 4)
    final = inbox.final()
    assert inbox.tokens() == expected([1, 2, 3], 4)
    assert inbox.text() == "".join(f"<{t}>" for t in expected([1, 2, 3], 4))
    assert final.finish_reason is FinishReason.LENGTH
    assert final.usage is not None
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (3, 4)
    assert final.timings is not None
    assert final.timings.decode_n == 3
    assert closed_once(new)


def test_stop_token_is_not_part_of_the_answer(start: Start) -> None:
    engine, _ = start()
    third = expected([5], 3)[2]
    inbox, _ = ask(engine, [5], 10, stop_tokens=[third])
    assert inbox.final().finish_reason is FinishReason.STOP
    assert inbox.final().stop == third
    assert inbox.tokens() == expected([5], 2)


def test_stop_string_cuts_the_text(start: Start) -> None:
    engine, _ = start()
    third = expected([5], 3)[2]
    inbox, _ = ask(engine, [5], 10, stop=(f"{third}>",))
    assert inbox.final().stop == f"{third}>"
    assert inbox.text() == "".join(f"<{t}>" for t in expected([5], 2)) + "<"


def test_nothing_asked_for(start: Start) -> None:
    engine, _ = start()
    inbox, _ = ask(engine, [5], 0)
    assert inbox.final().finish_reason is FinishReason.LENGTH
    assert inbox.tokens() == []


def test_logprobs_align_with_tokens(start: Start) -> None:
    engine, _ = start()
    inbox, _ = ask(engine, [5], 5, logprobs=2)
    inbox.final()
    for delta in inbox.deltas:
        assert [p.token for p in delta.logprobs] == list(delta.tokens)
        assert all(len(p.top) == 2 for p in delta.logprobs)


def test_many_at_once_answer_as_if_alone(start: Start) -> None:
    engine, _ = start(n_slots=3)
    asked = [ask(engine, [i, i + 1], 7) for i in range(20)]
    for i, (inbox, new) in enumerate(asked):
        assert inbox.tokens() == expected([i, i + 1], 7)
        assert closed_once(new)
    assert engine.status.n_running == 0
    assert engine.status.tokens_decoded == 20 * 7
    assert engine.status.prompt_tokens > 0


def test_queue_full_takes_all_or_none(start: Start) -> None:
    engine, runner = start(n_slots=1, max_queue=1)
    gate = threading.Event()
    runner.fail = lambda _: None if gate.wait(10) else None
    first, _ = ask(engine, [1], 2)
    with pytest.raises(QueueFullError, match="2 is the most"):
        engine.submit([request([2], 1), request([3], 1)])
    second, _ = ask(engine, [2], 2)
    with pytest.raises(QueueFullError):
        engine.submit([request([3], 1)])
    gate.set()
    assert first.tokens() == expected([1], 2)
    assert second.tokens() == expected([2], 2)


@pytest.mark.parametrize("condition", ["queued", "prefill", "decoding"])
def test_cancel_is_seen_within_one_step(start: Start, condition: str) -> None:
    engine, runner = start(n_slots=1)
    go, entered = threading.Semaphore(0), threading.Semaphore(0)
    steps_at_end: list[int] = []

    def hold(_: Batch) -> None:
        entered.release()
        assert go.acquire(timeout=10)

    def note(delta: Delta) -> None:
        if delta.finish_reason is not None:
            steps_at_end.append(len(runner.batches))
            inbox(delta)

    runner.fail = hold
    inbox = Inbox()
    prompt = list(range(300)) if condition == "prefill" else [1, 2]
    new = request(prompt, 50, sink=note)
    steps = 1
    if condition == "queued":
        blocker, _ = ask(engine, [7], 3)
        assert entered.acquire(timeout=10)
        engine.submit([new])
    else:
        engine.submit([new])
        assert entered.acquire(timeout=10)
        if condition == "decoding":
            go.release()
            assert entered.acquire(timeout=10)
            steps = 2
    engine.cancel(new)
    runner.fail = None
    go.release()
    assert inbox.final().finish_reason is FinishReason.CANCELLED
    assert steps_at_end == [steps], "no batch was run between the cancel and the end"
    assert closed_once(new)
    if condition == "queued":
        assert blocker.tokens() == expected([7], 3)


def test_a_failing_step_fails_its_requests_and_no_others(start: Start) -> None:
    engine, runner = start(n_slots=2)
    failures = [DecodeError("llama.cpp failed")]

    def fail_once(_: Batch) -> None:
        if failures:
            raise failures.pop()

    runner.fail = fail_once
    inbox, new = ask(engine, [1, 2], 3)
    final = inbox.final()
    assert final.finish_reason is FinishReason.ERROR
    assert isinstance(final.error, DecodeError)
    assert runner.cleared == 1
    assert closed_once(new)
    assert ask(engine, [1, 2], 3)[0].tokens() == expected([1, 2], 3)


def test_a_foreign_exception_becomes_ours(start: Start) -> None:
    engine, runner = start()

    def fail(_: Batch) -> None:
        runner.fail = None
        raise MemoryError("no memory")

    runner.fail = fail
    assert isinstance(ask(engine, [1], 1)[0].final().error, DecodeError)


def test_failing_for_good_kills_the_engine_and_says_so(start: Start) -> None:
    engine, runner = start(n_slots=1)

    def fail(_: Batch) -> None:
        raise DecodeError("broken")

    runner.fail = fail
    asked = [ask(engine, [i], 2) for i in range(6)]
    for inbox, new in asked:
        assert inbox.final().finish_reason is FinishReason.ERROR
        assert closed_once(new)
    assert isinstance(asked[-1][0].final().error, EngineDeadError)
    with pytest.raises(EngineDeadError, match="broken"):
        engine.submit([request([1], 1)])
    assert engine.status.dead


def test_a_throwing_sink_ends_only_its_own_request(start: Start) -> None:
    engine, _ = start()
    calls = []

    def bad(delta: Delta) -> None:
        calls.append(delta)
        raise RuntimeError("nobody listens")

    new = request([1], 50, sink=bad)
    engine.submit([new])
    assert ask(engine, [2], 5)[0].tokens() == expected([2], 5)
    assert engine.drain(10)
    assert closed_once(new)
    assert len(calls) < 10, "it was cancelled, not run to its end"


def test_a_failing_sampler_ends_only_its_own_request(start: Start) -> None:
    engine, runner = start()
    sample = runner.sample
    bad = request([1], 5)

    def sample_or_fail(sampler: FakeSampler, row: int) -> int:
        if sampler is bad.sampler:
            raise ValueError("bad sampler")
        return sample(sampler, row)

    runner.sample = sample_or_fail  # type: ignore[method-assign]
    inbox = Inbox()
    bad.sink = inbox
    engine.submit([bad])
    assert ask(engine, [2], 5)[0].tokens() == expected([2], 5)
    assert inbox.final().finish_reason is FinishReason.ERROR


def test_an_output_that_spoils_the_cache_fails_all_that_run(start: Start) -> None:
    engine, runner = start(n_slots=2)
    sample, gate = runner.sample, threading.Event()
    runner.fail = lambda _: None if gate.wait(10) else None

    def spoil(sampler: FakeSampler, row: int) -> int:
        runner.sample = sample  # type: ignore[method-assign]
        raise DecodeError("not a number", spoiled=True)

    asked = [ask(engine, [i], 5) for i in range(3)]
    runner.sample = spoil  # type: ignore[method-assign]
    gate.set()
    for inbox, new in asked[:2]:
        assert isinstance(inbox.final().error, DecodeError)
        assert closed_once(new)
    assert asked[2][0].tokens() == expected([2], 5), "it was waiting"
    assert runner.cleared == 1
    engine.check_integrity()


def test_drain_refuses_new_and_ends_old(start: Start) -> None:
    engine, _ = start()
    inbox, _ = ask(engine, [1], 20)
    assert engine.drain(10)
    assert inbox.tokens() == expected([1], 20)
    with pytest.raises(EngineDeadError, match="shutting down"):
        engine.submit([request([1], 1)])


def test_drain_gives_up_after_its_timeout(start: Start) -> None:
    engine, runner = start()
    gate = threading.Event()
    runner.fail = lambda _: None if gate.wait(10) else None
    inbox, _ = ask(engine, [1], 3)
    assert not engine.drain(0.05)
    gate.set()
    assert inbox.tokens() == expected([1], 3)


def test_close_ends_everything(start: Start) -> None:
    engine, runner = start(n_slots=1)
    runner.fail = lambda _: time.sleep(0.01)
    asked = [ask(engine, [i], 300) for i in range(3)]
    engine.close()
    for inbox, new in asked:
        assert isinstance(inbox.final().error, EngineDeadError)
        assert closed_once(new)
    assert runner.closed
    engine.close()


def test_random_cancels_leave_nothing_behind(start: Start) -> None:
    engine, runner = start(n_slots=4)
    rng = random.Random(3)
    asked = []
    for i in range(300):
        prompt = [rng.randrange(5) for _ in range(rng.randint(1, 60))]
        while True:
            try:
                inbox, new = ask(engine, prompt, rng.randint(1, 20))
                break
            except QueueFullError:
                time.sleep(0.001)
        asked.append((inbox, new, prompt))
        if i % 2:
            engine.cancel(rng.choice(asked)[1])
    for inbox, new, prompt in asked:
        reason = inbox.final().finish_reason
        assert reason in (FinishReason.LENGTH, FinishReason.CANCELLED)
        got = inbox.tokens()
        assert got == expected(prompt, len(got))
        assert closed_once(new)
    assert engine.drain(10)
    engine.check_integrity()
    assert not runner.closed


def test_a_state_is_written_between_steps_and_comes_back(start: Start) -> None:
    engine, runner = start(n_slots=1)
    prompt = list(range(100))
    ask(engine, prompt, 3)[0].final()
    state = engine.save_state(prompt)
    assert state is not None
    assert state.tokens[:100] == prompt
    other, _ = start(n_slots=1)
    other.add_state(state)
    inbox, new = ask(other, [*prompt, 7], 3)
    assert inbox.tokens() == expected([*prompt, 7], 3)
    assert new.cached_tokens == 100
    assert other.save_state([900]) is None


def test_a_state_that_cannot_be_written(start: Start) -> None:
    engine, runner = start(n_slots=1)
    ask(engine, list(range(100)), 3)[0].final()

    def fail(_: Batch) -> None:
        runner.fail = None
        raise DecodeError("no")

    runner.fail = fail
    with pytest.raises(DecodeError):
        engine.save_state(list(range(100)))
    assert ask(engine, [1], 3)[0].tokens() == expected([1], 3)
    engine.close()
    with pytest.raises(EngineDeadError):
        engine.save_state([1])


@pytest.mark.parametrize("where", ["queued", "decoding"])
def test_a_deadline_ends_a_request_wherever_it_is(start: Start, where: str) -> None:
    engine, runner = start(n_slots=1)
    runner.fail = lambda _: time.sleep(0.002)
    blocker = ask(engine, [9], 60)[0] if where == "queued" else None
    inbox = Inbox()
    new = request([1], 300, sink=inbox)
    new.deadline = time.perf_counter() + 0.03
    engine.submit([new])
    final = inbox.final()
    assert final.finish_reason is FinishReason.LENGTH
    assert inbox.tokens() == expected([1], len(inbox.tokens()))
    if blocker is not None:
        assert inbox.tokens() == []
        assert blocker.tokens() == expected([9], 60)
    assert closed_once(new)


def test_the_writing_time_ends_an_answer_at_a_line_end(start: Start) -> None:
    engine, runner = start(n_slots=1)
    runner.fail = lambda _: time.sleep(0.001)
    tokens = expected([1], 200)
    inbox = Inbox()
    new = request([1], 200, sink=inbox)
    new.detokenizer = Detokenizer(lambda t: b"\n" if tokens.index(t) % 20 == 19 else b"x")
    new.max_decode_s = 0.03
    engine.submit([new])
    assert inbox.final().finish_reason is FinishReason.LENGTH
    assert inbox.text().endswith("\n")
    assert len(inbox.text()) < 200


def test_a_line_that_leaves_the_block_ends_the_answer(start: Start) -> None:
    engine, _ = start(n_slots=1)
    tokens = expected([1], 20)
    text = "if x:\n    a\nend of it"
    inbox = Inbox()
    new = request([1], 20, sink=inbox)
    new.detokenizer = Detokenizer(lambda t: text[tokens.index(t)].encode(), min_indent=4)
    engine.submit([new])
    assert inbox.final().finish_reason is FinishReason.LENGTH
    assert inbox.text() == "if x:\n    a\n"
