"""Background work shares the engine's thread: piece by piece, in order, and every request ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import pytest

from codellama.engine import Engine, Scheduler
from codellama.engine.background import Background, Work
from codellama.engine.batch import Batch
from codellama.errors import DecodeError, EngineDeadError, QueueFullError
from tests.fake_runner import FakeRunner, request

WAIT_S = 10.0


def pieces(n: int, log: list[str], name: str = "piece") -> Work[str]:
    try:
        for i in range(n):
            if i:
                yield 0
            log.append(f"{name} {i}")
        return name
    finally:
        log.append(f"{name} closed")


def background() -> Background:
    return Background(lambda error: DecodeError(str(error)))


def test_one_piece_at_a_time_and_one_request_after_the_other() -> None:
    work, log = background(), list[str]()
    first, second = work.add(pieces(2, log, "a")), work.add(pieces(1, log, "b"))
    assert len(work) == 2
    assert work.advance() == (0, 0)
    assert log == ["a 0"]
    assert work.advance() == (1, 0)
    assert first.result(0) == "a"
    assert not second.done()
    assert work.advance() == (1, 0)
    assert second.result(0) == "b"
    assert work.advance() == (0, 0)
    assert log == ["a 0", "a 1", "a closed", "b 0", "b closed"]


def test_what_is_cancelled_does_no_further_piece() -> None:
    work, log = background(), list[str]()
    running, waiting, last = (work.add(pieces(3, log, name)) for name in "abc")
    work.advance()
    assert running.cancel()
    assert waiting.cancel()
    assert work.advance() == (2, 0)
    assert not last.done()
    assert log == ["a 0", "a closed", "c 0"], "b was never begun"


def test_a_failure_is_its_own_request_s() -> None:
    def broken() -> Work[None]:
        yield 0
        raise ValueError("no")

    work, log = background(), list[str]()
    bad, good = work.add(broken()), work.add(pieces(1, log))
    assert [work.advance(), work.advance(), work.advance()] == [(0, 0), (1, 0), (1, 0)]
    with pytest.raises(DecodeError, match="no"):
        bad.result(0)
    assert good.result(0) == "piece"


def test_fail_ends_all() -> None:
    work, log = background(), list[str]()
    futures = [work.add(pieces(2, log, name)) for name in "ab"]
    work.advance()
    assert work.fail(EngineDeadError("over")) == 2
    for future in futures:
        with pytest.raises(EngineDeadError):
            future.result(0)
    assert log == ["a 0", "a closed"]


@pytest.fixture
def engine() -> Iterator[Callable[..., tuple[Engine, FakeRunner]]]:
    made: list[Engine] = []

    def make(max_queue: int = 10) -> tuple[Engine, FakeRunner]:
        runner = FakeRunner(2, 4000)
        made.append(Engine(runner, Scheduler(2, 4000, 64, 16), max_queue))
        return made[-1], runner

    yield make
    for one in made:
        one.close()


def test_at_most_one_piece_between_two_steps_of_a_stream(
    engine: Callable[..., tuple[Engine, FakeRunner]],
) -> None:
    serving, runner = engine()
    log: list[str] = []
    begun, added = threading.Event(), threading.Event()

    def step(batch: Batch) -> None:
        if batch.tokens:
            log.append("step")
        begun.set()
        assert added.wait(WAIT_S), "the work comes while the stream is young"

    runner.fail = step
    serving.submit([request([1, 2, 3], 400)])
    assert begun.wait(WAIT_S)
    work = serving.submit_work(pieces(30, log))
    added.set()
    assert work.result(WAIT_S) == "piece"
    assert serving.drain(WAIT_S)
    first, last = log.index("piece 0"), log.index("piece 29")
    assert [line == "step" for line in log[first : last + 1]] == [False, True] * 29 + [False]
    assert log.count("step") == 400


def test_an_idle_engine_works_and_drains_it(
    engine: Callable[..., tuple[Engine, FakeRunner]],
) -> None:
    serving, _ = engine()
    log: list[str] = []
    future = serving.submit_work(pieces(50, log))
    assert serving.drain(WAIT_S)
    assert future.done()
    serving.check_integrity()
    with pytest.raises(EngineDeadError):
        serving.submit_work(pieces(1, log))


def test_it_counts_as_a_request(engine: Callable[..., tuple[Engine, FakeRunner]]) -> None:
    serving, _ = engine(max_queue=0)
    gate = threading.Event()

    def waiting() -> Work[None]:
        gate.wait(WAIT_S)
        yield 0

    first, second = (serving.submit_work(waiting()) for _ in range(2))
    with pytest.raises(QueueFullError):
        serving.submit_work(waiting())
    with pytest.raises(QueueFullError):
        serving.submit([request([1], 1)])
    assert second.cancel()
    gate.set()
    first.result(WAIT_S)
    with pytest.raises(CancelledError):
        second.result(WAIT_S)
    assert serving.submit_work(waiting()).result(WAIT_S) is None
    serving.check_integrity()


def test_closing_ends_it(engine: Callable[..., tuple[Engine, FakeRunner]]) -> None:
    serving, _ = engine()
    begun = threading.Event()

    def endless() -> Work[None]:
        while True:
            begun.set()
            yield 0

    future, later = serving.submit_work(endless()), serving.submit_work(endless())
    assert begun.wait(WAIT_S)
    serving.close()
    for one in (future, later):
        with pytest.raises(EngineDeadError):
            one.result(WAIT_S)
