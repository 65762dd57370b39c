"""The real engine without its thread: whoever tests takes the steps, and no failure is made good in silence.

What it does depends on nothing but what is asked of it, so that a test that failed once fails again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from codellama.engine import Drafter, Engine, Request, Scheduler, Speculator
from codellama.errors import DecodeError
from tests.fake_runner import FakeRunner

T = TypeVar("T")


class Eager(Speculator):
    """Drafts as much as it may, whatever it measured."""

    def propose(self, requests: Sequence[Request], room: int) -> None:
        for req in requests:
            length = min(room, self._n_max, req.draft_limit)
            idea = self._idea(req) if length > 0 else None
            if idea is not None:
                self._draft([(idea, length)])
                room -= len(req.draft)


class Strict(Eager):
    """A drafter that fails is a failure of the test."""

    def _drop(self, drafter: Drafter, error: Exception) -> None:
        raise error


class SteppedEngine(Engine):
    """Its invariants are checked after every step. Only a DecodeError may fail a step: the fake runner
    speaks of mistakes by other errors, and those are raised here."""

    def __init__(
        self, runner: FakeRunner, scheduler: Scheduler, speculator: Speculator | None = None
    ) -> None:
        super().__init__(runner, scheduler, 1000, speculator)
        self._thread.join()

    def _serve(self) -> None:
        """The thread has nothing to do."""

    def _call(self, job: Callable[[], T]) -> T:
        return job()

    def _recover(self, error: Exception) -> None:
        if not isinstance(error, DecodeError):
            raise error
        super()._recover(error)

    def _fail(self, request: Request, error: Exception) -> None:
        raise error

    def step(self) -> bool:
        """One step; False if there is nothing to do."""
        if not (self._inbox or self._scheduler.has_work):
            return False
        self._take_inbox()
        self._step()
        self._scheduler.check_integrity()
        return True

    def run(self, limit: int = 10_000) -> None:
        """Step until all requests have ended."""
        for _ in range(limit):
            if not self.step():
                return
        raise AssertionError("the engine does not come to an end")

    def close(self) -> None:
        super().close()
        super()._serve()  # which ends at once
