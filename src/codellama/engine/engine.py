"""The engine's thread: inbox → step → sinks.

One thread owns the context: it takes requests from the inbox, lets the scheduler plan a batch, has the
runner decode it, draws a token per finished row and hands what is new to each request's sink. Everybody
else only submits and cancels. Every submitted request ends in exactly one final delta, whatever fails.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from codellama.engine.background import Background, Work, settle
from codellama.engine.batch import Batch, KVState, Scales, TokenLogprob
from codellama.engine.request import Delta, FinishReason, Request, State
from codellama.engine.runner import Runner
from codellama.engine.scheduler import Scheduler
from codellama.engine.slot import Sample, Scored, Step
from codellama.engine.speculator import Speculator
from codellama.engine.status import EngineStatus, SlotStatus, slot_status
from codellama.engine.threads import Threads
from codellama.errors import DecodeError, EngineDeadError, QueueFullError, as_decode_error

log = logging.getLogger("codellama.engine")
T = TypeVar("T")

MOST_FAILURES = 3  # in a row: then a context is taken to be beyond repair


class Engine:
    """A thread that serves up to `scheduler`'s slots at once and queues `max_queue` more."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        max_queue: int,
        speculator: Speculator | None = None,
        threads: Threads | None = None,
    ) -> None:
        self._runner = runner
        self._threads = threads or Threads.fixed()
        self._scheduler = scheduler
        self._cache = scheduler.cache
        self._speculator = speculator or Speculator()
        self._limit = len(scheduler.slots) + max_queue
        self._inbox: list[Request] = []
        self._jobs: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._background = Background(as_decode_error)
        self._changed = threading.Condition()
        self._pending = 0  # submitted and not ended; guarded by _changed
        self._draining = self._closing = False
        self._failures = 0
        self.after_step: Callable[[], None] = lambda: None  # all sinks have been told
        self._dead: BaseException | None = None
        self._totals = EngineStatus(len(scheduler.slots), started=time.monotonic())
        self._thread = threading.Thread(target=self._serve, name="codellama-engine", daemon=True)
        self._thread.start()

    # -- called by any thread -----------------------------------------------------------------

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests that belong together, all or none.

        Raises QueueFullError, or EngineDeadError once the engine is draining, closed or broken.
        """
        with self._changed:
            self._let_in(len(requests))
            self._inbox += requests
            self._changed.notify_all()

    def submit_work(self, work: Work[T]) -> Future[T]:
        """Queue work that is done a piece at a time between steps; it counts as one request.

        Raises as `submit` does, and the future EngineDeadError if the engine ends first.
        """
        with self._changed:
            self._let_in(1)
            future = self._background.add(work)
            self._changed.notify_all()
        return future

    def _let_in(self, n: int) -> None:
        """Count `n` more requests, or say why not; the caller holds `_changed`."""
        if self._dead is not None:
            raise EngineDeadError(f"the engine has stopped: {self._dead}") from self._dead
        if self._closing or self._draining:
            raise EngineDeadError("the engine is shutting down")
        if self._pending + n > self._limit:
            raise QueueFullError(
                f"{self._pending} requests are running or waiting and {self._limit} is the most"
            )
        self._pending += n

    def cancel(self, request: Request) -> None:
        """End a request at the next step; harmless if it has ended."""
        request.cancelled = True
        with self._changed:
            self._changed.notify_all()

    def save_state(self, tokens: Sequence[int], scales: Scales = ()) -> KVState | None:
        """The KV state that shares most with `tokens` decoded with `scales`; None if none is cached."""
        return self._call(lambda: self._save_state(list(tokens), scales))

    def add_state(self, state: KVState) -> None:
        """Hold a KV state for prompts that share it; its `data` must be this context's own format."""
        self._call(lambda: self._cache.prompt_cache.add(state))

    def slots(self) -> list[SlotStatus]:
        """What each slot holds and does."""
        return self._call(lambda: [slot_status(slot) for slot in self._scheduler.slots])

    def set_slot(self, index: int, state: KVState | None) -> bool:
        """Put `state` into a slot (None: empty it); False if there is no room, or a request uses it."""
        return self._call(lambda: self._cache.set(self._scheduler.slots[index], state))

    def check_integrity(self) -> None:
        """Assert that slots, cells, samplers and drafts are those of the live requests; for tests."""
        self._call(self._check_integrity)

    def _call(self, job: Callable[[], T]) -> T:
        """Run `job` on the engine's thread between two steps; EngineDeadError if it has ended."""
        future: Future[T] = Future()
        with self._changed:
            if self._dead is not None or self._closing:
                raise EngineDeadError("the engine has stopped")
            self._jobs.append((future, job))
            self._changed.notify_all()
        return future.result()

    @property
    def status(self) -> EngineStatus:
        """A snapshot."""
        return replace(
            self._totals,
            accepted_at=list(self._totals.accepted_at),
            n_running=self._scheduler.n_running,
            n_waiting=len(self._scheduler.waiting),
            dead=self._dead is not None,
            threads=self._threads.status,
        )

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
                if self._background:
                    ended, n_tokens = self._background.advance()
                    if n_tokens:
                        self._totals.decoded(n_tokens)
                    self._forget(ended)
                self.after_step()
        except BaseException as error:  # a bug of ours must not leave callers waiting for ever
            log.exception("the engine's thread failed")
            self._die(error)
        finally:
            self._die(self._dead or EngineDeadError("the engine has been closed"))
            self.after_step()
            self._speculator.close()
            self._runner.close()

    def _take_inbox(self) -> bool:
        """Wait for work and take it in; False when it is time to stop."""
        with self._changed:
            self._changed.wait_for(self._is_awake)
            jobs, self._jobs = self._jobs, []
            for request in self._inbox:
                self._scheduler.submit(request)
            self._inbox.clear()
        for future, job in jobs:
            settle(future, job)
        return not self._closing and self._dead is None

    def _is_awake(self) -> bool:
        todo = (self._scheduler.has_work, self._inbox, self._jobs, self._background)
        return self._closing or any(todo)

    def _step(self) -> None:
        started = time.perf_counter()
        self._sweep(started)
        self._scheduler.admit(started)
        for request in self._scheduler.shift():
            self._speculator.restart(request)
        if self._speculator.active:
            self._speculator.propose(self._scheduler.decoding(), self._scheduler.draft_room)
        step = self._scheduler.plan()
        if step is not None:
            began, rows = time.perf_counter(), len(step.batch.tokens)
            try:
                n = self._threads.choose(began, rows, step.n_prompt, step.repeats)
                self._runner.use_threads(n)
                self._runner.run(step.batch)
            except Exception as error:
                self._recover(error)
                return
            self._failures = 0
            self._scheduler.commit(step)
            self._totals.decoded(step.n_prompt, len(step.decoded))
            try:
                self._use(step)
            except DecodeError as error:  # spoiled, see _fail
                self._cache.prompt_cache.clear()
                self._recover(error)
                return
            self._threads.learn(rows, time.perf_counter() - began, step.batch.depth)
            if self._speculator.active and not step.n_prompt:
                self._speculator.learn_time(rows, time.perf_counter() - started)

    def _sweep(self, now: float) -> None:
        """End what was cancelled or has come to its deadline."""
        for request in self._scheduler.live():
            if request.cancelled:
                self._end(request, FinishReason.CANCELLED)
            elif request.deadline is not None and now >= request.deadline:
                self._end(request, FinishReason.LENGTH)

    def _use(self, step: Step) -> None:
        """Score and draw while the logits are there."""
        for request in step.telling():
            self._send(request, request.delta())
        for scored in step.scored:
            self._score(scored)
        self._scheduler.join(step, time.perf_counter())
        for sample in step.samples:
            self._advance(sample)

    def _save_state(self, tokens: list[int], scales: Scales) -> KVState | None:
        state, edits = self._cache.plan_save(tokens, scales)
        try:
            self._runner.run(Batch(edits))
        except Exception as error:
            self._recover(error)
            raise
        return state if state is not None and state.data is not None else None

    def _check_integrity(self) -> None:
        self._runner.run(Batch(self._cache.take_edits()))
        self._scheduler.check_integrity()
        for slot in self._scheduler.slots:
            assert self._runner.n_cached(slot.id) == len(slot.tokens)
        live = self._scheduler.live()
        self._speculator.check_integrity(live)
        with self._changed:
            assert self._pending == len(live) + len(self._inbox) + len(self._background)

    def _score(self, scored: Scored) -> None:
        """Compute a chunk's log probabilities while its logits are there."""
        try:
            logprobs = scored.take(self._runner.logprob)
            if logprobs:
                self._send(scored.request, Delta(logprobs=logprobs))
        except Exception as error:
            self._fail(scored.request, error)

    def _fail(self, request: Request, error: Exception) -> None:
        """End one request, unless its failure is one of all."""
        if isinstance(error, DecodeError) and error.spoiled:
            raise error
        log.warning("request %d failed: %s", request.id, error)
        self._end(request, FinishReason.ERROR, error=as_decode_error(error))

    def _advance(self, sample: Sample) -> None:
        """Draw the next tokens of one request; its failure is its own."""
        request = sample.request
        if request.state is State.FINISHED:  # its prompt could not be scored
            return
        try:
            if request.state is State.PREFILL:
                request.state = State.DECODE
                request.first_token_at = time.perf_counter()
                self._totals.cached_tokens += request.cached_tokens
                if not request.max_tokens:  # nothing was asked for
                    self._end(request, FinishReason.LENGTH)
                    return
            self._draw(sample)
        except Exception as error:
            self._fail(request, error)

    def _draw(self, sample: Sample) -> None:
        """Draw a token per row for as long as the row's history is what was drawn."""
        request, row, draft = sample
        request.draft_n += len(draft)
        self._totals.guessed(len(draft))
        hits = 0
        for guess in (*draft, None):
            token = self._runner.sample(request.sampler, row)
            logprobs: tuple[TokenLogprob, ...] = ()
            if request.logprobs is not None:
                logprobs = (self._runner.logprob(row, token, request.logprobs, request.sampler),)
            if token == guess:
                self._totals.accepted(hits)
                hits += 1
                request.draft_accepted += 1
            self._accept(request, token, logprobs)
            if token != guess or request.cancelled or request.state is State.FINISHED:
                break
            row += 1
        if draft:
            self._speculator.learn(request, hits, min(row - sample.row + 1, len(draft)))
            self._scheduler.settle(request)

    def _accept(self, request: Request, token: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        request.tokens.append(token)
        self._totals.tokens_decoded += 1
        if token in request.stop_tokens:
            # Who scores a prompt is told of the end too: evaluation harnesses ask for one token
            # more than they score and cut the last entry off, whatever it is.
            end = Delta(logprobs=() if request.prompt_logprobs is None else logprobs)
            self._end(request, FinishReason.STOP, stop=token, last=end)
            return
        text = request.detokenizer.push(token)
        delta = request.delta(text, (token,), logprobs)
        stopped = request.detokenizer.stopped
        if stopped is not None:
            self._end(request, FinishReason.STOP, stop=stopped, last=delta)
        elif request.generated >= request.max_tokens or request.out_of_limits(text):
            self._end(request, FinishReason.LENGTH, last=delta)
        else:
            self._send(request, delta)

    def _end(
        self,
        request: Request,
        reason: FinishReason,
        *,
        stop: str | int | None = None,
        last: Delta | None = None,
        error: BaseException | None = None,
    ) -> None:
        """The one place where a request ends: slot, sampler, final delta, count."""
        self._scheduler.release(request)
        self._speculator.forget(request)
        timings = request.timings()
        self._totals.ended(request, timings.prompt_s, timings.decode_s)
        final = request.final(last or Delta(), reason, stop, timings, error)
        request.sampler.close()
        self._send(request, final)
        self._forget(1)

    def _forget(self, n: int) -> None:
        """`n` requests have ended."""
        if n:
            with self._changed:
                self._pending -= n
                self._changed.notify_all()

    def _send(self, request: Request, delta: Delta) -> None:
        try:
            request.sink(delta)
        except Exception:
            log.exception("the sink of request %d failed; it is cancelled", request.id)
            request.cancelled = True

    def _recover(self, error: Exception) -> None:
        """A batch failed: its requests fail with it, the cache starts afresh."""
        log.error("a step failed: %s", error)
        self._failures += 1
        for _, request in list(self._scheduler.running()):
            self._end(request, FinishReason.ERROR, error=as_decode_error(error))
        self._scheduler.reset()
        try:
            self._speculator.reset()
            self._runner.clear()
        except Exception as second:
            self._die(second)
        if self._failures >= MOST_FAILURES:
            self._die(error)

    def _die(self, error: BaseException) -> None:
        """No request will be served any more: say so to all that wait."""
        with self._changed:
            self._dead = self._dead or error
            late, self._inbox, jobs, self._jobs = self._inbox, [], self._jobs, []
        reason = error if isinstance(error, EngineDeadError) else EngineDeadError(str(error))
        for future, _ in jobs:
            future.set_exception(reason)
        for request in self._scheduler.live() + late:
            self._end(request, FinishReason.ERROR, error=reason)
        self._forget(self._background.fail(reason))
