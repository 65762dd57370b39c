"""What an `IsolatedCore` has been asked and what has come of it, so that it can be asked again or ended."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from codellama.engine.request import Delta, FinishReason, Timings, Usage
from codellama.running.completion import Deliver
from codellama.running.core import Ask
from codellama.running.records import Record

MOST_TRIES = 2  # of a request: one that ends every process that it comes to must not go on for ever


@dataclass(eq=False)
class Asked:
    """A request and what has come of it. `accepted` has the engine's numbers of its answers."""

    ask: Ask
    deliver: Deliver
    accepted: Future[tuple[int, ...]] = field(default_factory=Future)
    tries: int = 1
    written: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    told: set[int] = field(default_factory=set)
    cancelled: bool = False

    @property
    def may_go_again(self) -> bool:
        """Whether nobody could tell that it was asked twice."""
        return not (self.written or self.ended) and self.tries < MOST_TRIES

    @property
    def is_over(self) -> bool:
        """Whether all answers have ended, and whoever asked knows that they were taken in."""
        return len(self.ended) == self.ask.n and self.accepted.done()

    def take(self, index: int, delta: Delta) -> None:
        """Note a delta and hand it on, but for the beginning of an answer that was told before."""
        if delta.tokens or delta.logprobs:
            self.written[index] = self.written.get(index, 0) + len(delta.tokens)
        elif delta.text and delta.finish_reason is None:  # an echo
            if index in self.told:
                return
            self.told.add(index)
        if delta.finish_reason is not None:
            self.ended.add(index)
        self.deliver(index, delta)

    def fail(self, error: BaseException) -> None:
        """End it with an error, where whoever asked hears of it."""
        if len(self.ended) == self.ask.n:
            settle(self.accepted, (), None)
        elif self.accepted.done():
            self.end(FinishReason.ERROR, error)
        else:
            settle(self.accepted, None, error)

    def end(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """Give every answer that is open its last delta."""
        n_prompt = len(self.ask.prompt.tokens)
        for index in sorted(set(range(self.ask.n)) - self.ended):
            usage = Usage(n_prompt, self.written.get(index, 0))
            self.take(
                index, Delta(finish_reason=reason, usage=usage, timings=Timings(), error=error)
            )


@dataclass(eq=False)
class Called:
    """Something else that was asked for; `again` says that it may be asked for twice."""

    record: Record
    future: Future[Any] = field(default_factory=Future)
    again: bool = False


def settle(future: Future[Any], value: Any, error: BaseException | None) -> None:
    """Give the future its end, unless somebody cancelled it."""
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
