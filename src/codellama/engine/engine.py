"""The engine's thread: inbox → step → sinks.

One thread owns the context: it takes requests from the inbox, lets the scheduler plan a batch, has the
runner decode it, draws a token per finished row and hands what is new to each request's sink. Everybody
else only submits and cancels. Every submitted request ends in exactly one final delta, whatever fails.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any, Protocol

from codellama.batch import Batch, TokenLogprob
from codellama.engine.scheduler import Scheduler, Step
from codellama.engine.sequence import Delta, FinishReason, Sequence, State
from codellama.errors import CodeLlamaError, DecodeError, EngineDeadError, QueueFullError

log = logging.getLogger("codellama.engine")

# A context that fails this often in a row is taken to be beyond repair.
MOST_FAILURES = 3


class Runner(Protocol):
    """The native side, as the engine sees it. Only the engine's thread calls it."""

    def run(self, batch: Batch) -> None:
        """Carry out the KV edits and decode the rows; raises if it cannot."""

    def sample(self, sampler: Any, row: int) -> int:
        """Draw the token after batch row `row`."""

    def logprob(self, row: int, token: int, n_top: int) -> TokenLogprob:
        """The probability of `token` after batch row `row`, and the `n_top` likeliest."""

    def clear(self) -> None:
        """Forget all sequences."""

    def close(self) -> None:
        """Free everything."""


@dataclass(frozen=True)
class EngineStatus:
    """A snapshot after the latest step: requests, token totals since the start, and whether it lives."""

    n_slots: int
    n_running: int = 0
    n_waiting: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens_decoded: int = 0
    dead: bool = False


class Engine:
    """A thread that serves up to `scheduler`'s slots at once and queues `max_queue` more."""

    def __init__(self, runner: Runner, scheduler: Scheduler, max_queue: int) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._limit = len(scheduler.slots) + max_queue
        self._inbox: list[Sequence] = []
        self._changed = threading.Condition()
        self._pending = 0  # submitted and not ended; guarded by _changed
        self._draining = False
        self._closing = False
        self._failures = 0
        self._dead: BaseException | None = None
        self._status = EngineStatus(n_slots=len(scheduler.slots))
        self._thread = threading.Thread(target=self._serve, name="codellama-engine", daemon=True)
        self._thread.start()

    # -- called by any thread -----------------------------------------------------------------

    def submit(self, sequences: Many[Sequence]) -> None:
        """Queue requests that belong together, all or none.

        Raises QueueFullError, or EngineDeadError once the engine is draining, closed or broken.
        """
        with self._changed:
            if self._dead is not None:
                raise EngineDeadError(f"the engine has stopped: {self._dead}") from self._dead
            if self._closing or self._draining:
                raise EngineDeadError("the engine is shutting down")
            if self._pending + len(sequences) > self._limit:
                raise QueueFullError(
                    f"{self._pending} requests are running or waiting and {self._limit} is the most"
                )
            self._pending += len(sequences)
            self._inbox += sequences
            self._changed.notify_all()

    def cancel(self, sequence: Sequence) -> None:
        """End a request at the next step; harmless if it has ended."""
        sequence.cancelled = True
        with self._changed:
            self._changed.notify_all()

    @property
    def status(self) -> EngineStatus:
        """The latest snapshot."""
        return self._status

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests and wait for those there are; False if `timeout` seconds pass first."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._pending == 0, timeout)

    def close(self) -> None:
        """End all requests with EngineDeadError, stop the thread and free the runner."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # -- the engine's thread ------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while self._take_inbox():
                self._step()
        except BaseException as error:  # a bug of ours must not leave callers waiting for ever
            log.exception("the engine's thread failed")
            self._die(error)
        finally:
            self._die(self._dead or EngineDeadError("the engine has been closed"))
            self._runner.close()

    def _take_inbox(self) -> bool:
        """Wait for work and take it in; False when it is time to stop."""
        with self._changed:
            while not (self._inbox or self._scheduler.has_work or self._closing):
                self._changed.wait()
            for sequence in self._inbox:
                self._scheduler.submit(sequence)
            self._inbox.clear()
            return not self._closing and self._dead is None

    def _step(self) -> None:
        for sequence in self._scheduler.live():
            if sequence.cancelled:
                self._end(sequence, FinishReason.CANCELLED)
        self._scheduler.admit(time.perf_counter())
        step = self._scheduler.plan()
        if step is not None:
            try:
                self._runner.run(step.batch)
            except Exception as error:
                self._recover(error)
                return
            self._failures = 0
            self._scheduler.commit(step)
            self._publish(step)
            for sequence, row in step.samples:
                self._advance(sequence, row)
        self._publish(None)

    def _advance(self, sequence: Sequence, row: int) -> None:
        """Draw the next token of one request; its failure is its own."""
        try:
            if sequence.state is State.PREFILL:
                sequence.state = State.DECODE
                sequence.first_token_at = time.perf_counter()
            if sequence.generated >= sequence.max_tokens:  # nothing was asked for
                self._end(sequence, FinishReason.LENGTH)
                return
            token = self._runner.sample(sequence.sampler, row)
            logprobs: tuple[TokenLogprob, ...] = ()
            if sequence.logprobs is not None:
                logprobs = (self._runner.logprob(row, token, sequence.logprobs),)
            self._accept(sequence, token, logprobs)
        except Exception as error:
            log.warning("request %d failed: %s", sequence.id, error)
            self._end(sequence, FinishReason.ERROR, error=_as_ours(error))

    def _accept(self, sequence: Sequence, token: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        sequence.tokens.append(token)
        if token in sequence.stop_tokens:
            self._end(sequence, FinishReason.STOP, stop=token)
            return
        text = sequence.detokenizer.push(token)
        delta = Delta(text=text, tokens=(token,), logprobs=logprobs)
        stopped = sequence.detokenizer.stopped
        if stopped is not None:
            self._end(sequence, FinishReason.STOP, stop=stopped, last=delta)
        elif sequence.generated >= sequence.max_tokens:
            self._end(sequence, FinishReason.LENGTH, last=delta)
        else:
            self._send(sequence, delta)

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        *,
        stop: str | int | None = None,
        last: Delta | None = None,
        error: BaseException | None = None,
    ) -> None:
        """The one place where a request ends: slot, sampler, final delta, count."""
        self._scheduler.release(sequence)
        last = last or Delta()
        final = replace(
            last,
            text=last.text + sequence.detokenizer.flush(),
            finish_reason=reason,
            stop=stop,
            usage=sequence.usage(),
            timings=sequence.timings(),
            error=error,
        )
        sequence.sampler.close()
        self._send(sequence, final)
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()

    def _send(self, sequence: Sequence, delta: Delta) -> None:
        try:
            sequence.sink(delta)
        except Exception:
            log.exception("the sink of request %d failed; it is cancelled", sequence.id)
            sequence.cancelled = True

    def _recover(self, error: Exception) -> None:
        """A batch failed: its requests fail with it, the cache starts afresh."""
        log.error("a step failed: %s", error)
        self._failures += 1
        for _, sequence in list(self._scheduler.running()):
            self._end(sequence, FinishReason.ERROR, error=_as_ours(error))
        self._scheduler.reset()
        try:
            self._runner.clear()
        except Exception as second:
            self._die(second)
        if self._failures >= MOST_FAILURES:
            self._die(error)
        self._publish(None)

    def _die(self, error: BaseException) -> None:
        """No request will be served any more: say so to all that wait."""
        with self._changed:
            self._dead = self._dead or error
            late, self._inbox = self._inbox, []
        reason = error if isinstance(error, EngineDeadError) else EngineDeadError(str(error))
        for sequence in self._scheduler.live() + late:
            self._end(sequence, FinishReason.ERROR, error=reason)
        self._status = replace(self._status, n_running=0, n_waiting=0, dead=True)

    def _publish(self, step: Step | None) -> None:
        """Refresh the snapshot; with a step, count its tokens."""
        now = self._status
        running = sum(1 for _ in self._scheduler.running())
        new = replace(now, n_running=running, n_waiting=len(self._scheduler.waiting))
        if step is not None:
            decoding = sum(s.state is State.DECODE for s, _ in step.samples)
            new = replace(
                new,
                tokens_decoded=now.tokens_decoded + len(step.samples),
                prompt_tokens=now.prompt_tokens + len(step.batch.tokens) - decoding,
            )
        self._status = new


def _as_ours(error: BaseException) -> BaseException:
    return (
        error if isinstance(error, CodeLlamaError) else DecodeError(f"the step failed: {error!r}")
    )
