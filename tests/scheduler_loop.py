"""The engine's step without its thread: plan, run, commit, sample."""

from __future__ import annotations

from collections.abc import Callable

from codellama.engine.prompt_cache import PromptCache
from codellama.engine.request import Request, State
from codellama.engine.scheduler import Scheduler
from codellama.engine.slot import Sample, Step
from tests.fake_runner import FakeRunner


class Loop:
    """A scheduler over a fake cache; the invariants are checked after every step."""

    def __init__(
        self,
        n_slots: int = 4,
        cells: int = 400,
        n_batch: int = 64,
        chunk: int = 16,
        max_outputs: int | None = None,
        cache_bytes: int = 0,
    ) -> None:
        cache = PromptCache(cache_bytes, 8)  # the fake states have eight bytes per token
        self.scheduler = Scheduler(n_slots, cells, n_batch, chunk, max_outputs, cache)
        self.runner = FakeRunner(n_slots, cells)
        self.clock = 0.0
        self.steps: list[Step] = []
        self.drawn: dict[Request, list[int]] = {}
        self.guess: Callable[[Request], list[int]] = lambda req: []

    def submit(self, *requests: Request) -> None:
        for item in requests:
            self.scheduler.submit(item)

    def step(self) -> bool:
        self.clock += 1
        self.scheduler.admit(self.clock)
        self.scheduler.shift()
        for req in self.scheduler.decoding():
            req.draft = self.guess(req)
        step = self.scheduler.plan()
        if step is None:
            return False
        self.runner.run(step.batch)
        self.scheduler.commit(step)
        self.steps.append(step)
        self.scheduler.join(step, self.clock)
        for sample in step.samples:
            self.draw(sample)
        self.scheduler.check_integrity()
        return True

    def draw(self, sample: Sample) -> None:
        req = sample.request
        req.state = State.DECODE
        for row, guess in enumerate([*sample.draft, None], sample.row):
            token = self.runner.sample(req.sampler, row)  # type: ignore[arg-type]
            req.tokens.append(token)
            self.drawn.setdefault(req, []).append(token)
            if req.generated >= req.max_tokens:
                self.scheduler.release(req)
                return
            if token != guess:
                break
        self.scheduler.settle(req)

    def run(self, limit: int = 10_000) -> None:
        for _ in range(limit):
            if not self.step():
                return
        raise AssertionError("the scheduler does not come to an end")


def answer(req: Request) -> list[int]:
    """What has been drawn for it."""
    return req.tokens[len(req.prompt) :]
