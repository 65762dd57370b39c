"""Drafts in the engine: whatever is guessed, an answer ends as it would token by token."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from codellama.engine import Engine, FinishReason, Request, Scheduler, Speculator
from codellama.engine.drafter import Outlook, Wish
from tests.fake_runner import FakeRunner, FakeSampler, expected, request
from tests.stepped_engine import Eager
from tests.unit.test_engine import Inbox, ask, closed_once

Guess = Callable[[list[int], int], list[int]]
Start = Callable[..., tuple[Engine, FakeRunner]]


class Scripted:
    """A drafter that guesses what `guess` returns for the tokens so far."""

    steady = False
    seconds_per_token = 0.0

    def __init__(self, guess: Guess) -> None:
        self.guess = guess
        self.asked: list[int] = []
        self.forgotten = 0
        self.resets = 0
        self.closed = 0

    def outlook(self, req: Request) -> Outlook | None:
        return Outlook("scripted", 0.9)

    def draft(self, wishes: Sequence[Wish]) -> list[list[int]]:
        self.asked += [wish.length for wish in wishes]
        return [self.guess(wish.request.tokens, wish.length) for wish in wishes]

    def forget(self, req: Request) -> None:
        self.forgotten += 1

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        self.closed += 1


class Measured(Speculator):
    """A step takes the time of ten rows, and of those it has."""

    def learn_time(self, rows: int, seconds: float) -> None:
        super().learn_time(rows, 10.0 + rows)


@pytest.fixture
def start() -> Iterator[Start]:
    engines: list[Engine] = []

    def make(drafter: Scripted, kind: type[Speculator] = Eager) -> tuple[Engine, FakeRunner]:
        runner = FakeRunner(4, 400)
        engine = Engine(runner, Scheduler(4, 400, 64, 16), 1000, kind([drafter], 8))
        engines.append(engine)
        return engine, runner

    yield make
    for engine in engines:
        engine.close()


def right(tokens: list[int], length: int) -> list[int]:
    return expected(tokens, length)


def test_right_guesses_are_counted_and_save_steps(start: Start) -> None:
    engine, runner = start(Scripted(right))
    inbox, new = ask(engine, [1, 2, 3], 28)
    final = inbox.final()
    assert inbox.tokens() == expected([1, 2, 3], 28)
    assert len(runner.batches) == 1 + 3, "28 tokens: one, then nine per step"
    assert final.timings is not None
    assert final.timings.draft_n == final.timings.draft_accepted == 24
    assert (engine.status.draft_tokens, engine.status.draft_accepted) == (24, 24)
    assert engine.status.accepted_at == [3] * 8
    assert engine.status.tokens_decoded == 28
    assert engine.status.prompt_tokens == 3
    assert closed_once(new)


def test_wrong_guesses_change_nothing(start: Start) -> None:
    engine, _ = start(Scripted(lambda tokens, n: [-5] * n))
    inbox, _ = ask(engine, [1, 2, 3], 20)
    final = inbox.final()
    assert inbox.tokens() == expected([1, 2, 3], 20)
    assert final.timings is not None
    assert final.timings.draft_accepted == 0
    assert final.timings.draft_n > 0
    assert engine.status.accepted_at == [0] * 8


def test_a_draft_ends_where_it_no_longer_fits_the_answers_form(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSampler, "fitting", lambda self, tokens: min(2, len(tokens)))
    engine, runner = start(Scripted(right))
    inbox, _ = ask(engine, [1, 2, 3], 28)
    timings = inbox.final().timings
    assert inbox.tokens() == expected([1, 2, 3], 28)
    assert len(runner.batches) == 1 + 9, "28 tokens: one, then three per step"
    assert timings is not None
    assert timings.draft_n == timings.draft_accepted == 18


@pytest.mark.parametrize("n", [1, 2, 5, 9, 10, 11])
def test_the_limit_ends_an_accepted_run(start: Start, n: int) -> None:
    engine, _ = start(Scripted(lambda tokens, length: expected(tokens, 20)))
    inbox, _ = ask(engine, [7], n)
    assert inbox.final().finish_reason is FinishReason.LENGTH
    assert inbox.tokens() == expected([7], n)


@pytest.mark.parametrize("place", range(8))
def test_a_stop_token_ends_an_accepted_run(start: Start, place: int) -> None:
    engine, runner = start(Scripted(right))
    answer = expected([5], 8)
    inbox, new = ask(engine, [5], 30, stop_tokens=[answer[place]])
    assert inbox.final().stop == answer[place]
    assert inbox.tokens() == answer[: answer.index(answer[place])]
    assert closed_once(new)
    follower, _ = ask(engine, [5, *answer[:place], 3], 4)
    assert follower.tokens() == expected([5, *answer[:place], 3], 4), "the cache holds what it says"


@pytest.mark.parametrize("place", range(1, 8))
def test_a_stop_string_ends_an_accepted_run(start: Start, place: int) -> None:
    engine, _ = start(Scripted(right))
    answer = expected([5], 8)
    text = "".join(f"<{t}>" for t in answer)
    stop = f"{answer[place]}>"
    inbox, _ = ask(engine, [5], 30, stop=(stop,))
    assert inbox.final().stop == stop
    assert inbox.text() == text[: text.index(stop)]


def test_logprobs_go_with_their_tokens(start: Start) -> None:
    engine, _ = start(Scripted(right))
    inbox, _ = ask(engine, [5], 20, logprobs=1)
    inbox.final()
    assert [p.token for d in inbox.deltas for p in d.logprobs] == expected([5], 20)


def test_a_cancel_inside_an_accepted_run_ends_it(start: Start) -> None:
    engine, _ = start(Scripted(right))
    inbox = Inbox()

    def sink(delta: object) -> None:
        inbox(delta)  # type: ignore[arg-type]
        if len(inbox.deltas) == 4:
            engine.cancel(new)

    new = request([5], 100, sink=sink)
    engine.submit([new])
    assert inbox.final().finish_reason is FinishReason.CANCELLED
    assert inbox.tokens() == expected([5], 4)


def test_a_sink_that_throws_gets_no_more_of_the_run(start: Start) -> None:
    engine, _ = start(Scripted(right))
    calls: list[object] = []

    def sink(delta: object) -> None:
        calls.append(delta)
        raise RuntimeError("nobody listens")

    engine.submit([request([5], 100, sink=sink)])
    assert engine.drain(10)
    assert len(calls) == 2, "the first token, then the end"


def test_a_drafter_that_fails_is_dropped_and_requests_go_on(start: Start) -> None:
    def fail(tokens: list[int], length: int) -> list[int]:
        raise RuntimeError("the draft model is gone")

    drafter = Scripted(fail)
    engine, _ = start(drafter)
    inbox, _ = ask(engine, [5], 20)
    assert inbox.tokens() == expected([5], 20)
    assert drafter.closed == 1
    assert len(drafter.asked) == 1


def test_a_failed_step_resets_the_drafter(start: Start) -> None:
    drafter = Scripted(right)
    engine, runner = start(drafter)

    def fail(_: object) -> None:
        runner.fail = None
        raise MemoryError

    runner.fail = fail
    assert ask(engine, [5], 20)[0].final().finish_reason is FinishReason.ERROR
    assert drafter.resets == 1
    assert ask(engine, [5], 20)[0].tokens() == expected([5], 20)
    assert drafter.forgotten == 2


def test_closing_closes_the_drafter(start: Start) -> None:
    drafter = Scripted(right)
    engine, _ = start(drafter)
    engine.close()
    assert drafter.closed == 1


def test_failing_drafts_become_rare(start: Start) -> None:
    drafter = Scripted(lambda tokens, n: [-5] * n)
    engine, _ = start(drafter, Measured)
    inbox, _ = ask(engine, [1], 380)
    assert inbox.tokens() == expected([1], 380)
    assert sum(drafter.asked) < 60, "a few to find out, then a probe now and then"


def test_the_next_request_is_not_tried_as_often_as_the_first(start: Start) -> None:
    drafter = Scripted(lambda tokens, n: [-5] * n)
    engine, _ = start(drafter, Measured)
    asked = []
    for prompt in ([1], [2]):
        before = len(drafter.asked)
        inbox, _ = ask(engine, prompt, 380)
        assert inbox.tokens() == expected(prompt, 380)
        asked.append(len(drafter.asked) - before)
    assert 0 < asked[1] < asked[0]


def test_good_drafts_stay(start: Start) -> None:
    drafter = Scripted(right)
    engine, runner = start(drafter, Measured)
    inbox, _ = ask(engine, [1], 300)
    assert inbox.tokens() == expected([1], 300)
    assert len(runner.batches) < 60


def test_random_guesses_never_show(start: Start) -> None:
    rng = random.Random(11)

    def guess(tokens: list[int], length: int) -> list[int]:
        return (expected(tokens, rng.randint(0, 6)) + [rng.randrange(1000)] * 5)[:length]

    engine, runner = start(Scripted(guess))
    asked = []
    for i in range(150):
        prompt = [rng.randrange(5) for _ in range(rng.randint(1, 40))]
        inbox, new = ask(engine, prompt, rng.randint(1, 30))
        asked.append((inbox, new, prompt))
        if i % 4 == 0:
            engine.cancel(rng.choice(asked)[1])
    for inbox, new, prompt in asked:
        inbox.final()
        got = inbox.tokens()
        assert got == expected(prompt, len(got))
        assert closed_once(new)
        if not new.cancelled:
            assert len(got) == new.max_tokens
    assert not runner.closed


def test_what_is_to_repeat_has_only_steady_guesses_at_full_length() -> None:
    changing, steady = Scripted(right), Scripted(right)
    steady.steady = True
    speculator = Speculator([changing, steady], 8)
    usual, again, shorter = (request([i], 60) for i in (1, 2, 3))
    again.steady = shorter.steady = True
    shorter.n_draft_max = 3
    for _ in range(20):  # as steps with more rows become dear
        for req in (usual, again, shorter):
            req.draft = []
        speculator.propose([usual, again, shorter], 40)
        assert (len(again.draft), len(shorter.draft)) == (8, 3)
        for rows in (1, 9, 17):
            speculator.learn_time(rows, float(rows))
    assert not usual.draft
    assert steady.asked == [8, 3] * 20
    speculator.propose([again], 5)
    assert len(again.draft) == 5
    again.draft = []
    speculator.propose([again], 0)
    assert not again.draft
