"""Which requests run, where, and what goes into the next batch. Pure policy: no llama.cpp, no threads.

A request enters when its prompt and its whole answer fit beside what the running ones may still write, so
no running answer ever meets a full cache. It takes over what the cache shares with its prompt (`KVCache`).
A request whose beginning another one is just decoding waits for it instead of computing it again.

llama.cpp applies LoRA adapters to a whole batch: a step is for requests with equal ones, and those with
others take turns. Caches are shared between equal adapters only.
"""

from __future__ import annotations

from collections import deque

from codellama.engine.batch import Batch, Scales
from codellama.engine.chunks import Chunks
from codellama.engine.kv_cache import KVCache
from codellama.engine.prefix import common_prefix
from codellama.engine.prompt_cache import PromptCache
from codellama.engine.request import Request, Reuse, State
from codellama.engine.slot import Sample, Scored, Slot, Step, longest_waiting, usable_share

# Waiting for another prompt pays only for more than a few tokens; below, decoding them is quicker.
WORTH_WAITING = 32
# Other adapters make llama.cpp plan its memory anew, which takes about as long as half a step: so requests
# with equal ones have a few steps in a row before it is the turn of others.
STEPS_PER_TURN = 4


class Scheduler:
    """Slots, the waiting queue and the KV budget.

    `n_slots` requests run at once over `cells` KV cells. A step decodes at most `n_batch` tokens;
    while answers are being written, prompts get at most `prefill_chunk` of them. At most
    `max_outputs` of its rows (None: all) have logits, enough for one per slot. `cache` is what the slots
    hold; caches that must leave their slot go to `prompt_cache`.
    """

    def __init__(
        self,
        n_slots: int,
        cells: int,
        n_batch: int,
        prefill_chunk: int,
        max_outputs: int | None = None,
        prompt_cache: PromptCache | None = None,
    ) -> None:
        self._chunks = Chunks(n_batch)
        self.cache = KVCache(
            n_slots, cells, PromptCache() if prompt_cache is None else prompt_cache, self._chunks
        )
        self.slots = self.cache.slots
        self.cells = cells
        self.n_batch = n_batch
        self.prefill_chunk = prefill_chunk
        self.max_outputs = n_batch if max_outputs is None else max_outputs
        self.waiting: deque[Request] = deque()
        self._running: dict[Request, Slot] = {}  # in order of admission
        self._clock = 0
        self._adapters: Scales = ()  # of the latest step
        self._steps_in_a_row = 0  # with them

    # -- what there is ------------------------------------------------------------------------

    def running(self) -> list[tuple[Slot, Request]]:
        """Busy slots and their requests, in order of admission."""
        return [(slot, request) for request, slot in self._running.items()]

    @property
    def n_running(self) -> int:
        """Number of requests that have a slot."""
        return len(self._running)

    @property
    def reserved(self) -> int:
        """Cells that the running requests hold or may still write (shared cells count for each)."""
        return sum(request.reserve for request in self._running)

    @property
    def has_work(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.waiting) or bool(self._running)

    # -- coming in ----------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request; its `reserve` must fit the cache by itself."""
        assert request.reserve <= self.cells, "checked by the caller"
        self.waiting.append(request)

    def admit(self, now: float) -> None:
        """Move waiting requests to slots, in order of arrival, as far as slots and cells go."""
        skipped: list[Request] = []
        while self.waiting:
            request = self.waiting.popleft()
            if not self._has_room(request):
                skipped.append(request)
                break
            if request.reuse is not Reuse.ALL and self._comes_alone(request):
                self._start(request, self.cache.place_alone(request), now)
                continue
            donor, shared = self.cache.donor(request)
            if self._beginning_is_coming(request, shared):
                skipped.append(request)  # those behind it may go ahead: it is waiting by choice
                continue
            self._place(request, donor, shared, now, [*skipped, *self.waiting])
        self.waiting.extendleft(reversed(skipped))

    def _has_room(self, request: Request) -> bool:
        full = len(self._running) == len(self.slots)
        return not full and self.reserved + request.reserve <= self.cells

    def _comes_alone(self, request: Request) -> bool:
        """Whether nothing runs, and nothing waits but other choices of the same prompt."""
        return not self._running and all(w.prompt is request.prompt for w in self.waiting)

    def _place(
        self, request: Request, donor: Slot, shared: int, now: float, waiting: list[Request]
    ) -> None:
        slot = self.cache.place(request, donor, shared, self.reserved, waiting)
        self._start(request, slot, now)

    def _start(self, request: Request, slot: Slot, now: float) -> None:
        slot.turn = self._clock
        request.slot = slot.id
        self._running[request] = slot
        request.state = State.PREFILL
        request.admitted_at = now
        request.cursor = request.cached_tokens = len(slot.tokens)

    def _beginning_is_coming(self, request: Request, shared: int) -> bool:
        """Whether a running prompt is the same, or will soon have decoded clearly more of ours than is
        there now."""
        worth = WORTH_WAITING if request.prompt_logprobs is None else 1  # scoring goes slowly
        return any(
            _is_twin(other, request)
            or usable_share(
                common_prefix(other.tokens, request.tokens),
                request,
                len(other.prompt),
                other.prompt_logprobs or 0,
                scored=other.prompt_logprobs is not None,
            )
            - shared
            >= worth
            for _, other in self.running()
            if other.state is State.PREFILL
            and not other.cancelled
            and other.scales == request.scales
        )

    # -- a step -------------------------------------------------------------------------------

    def decoding(self) -> list[Request]:
        """The requests that get a token in the next step."""
        return [request for _, request in self._group() if request.state is State.DECODE]

    def _group(self) -> list[tuple[Slot, Request]]:
        """The requests that the next step is for, in order of admission: all with equal adapters, those
        of the latest steps or, after their turn, of the request that waits longest."""
        running = self.running()
        if self._steps_in_a_row < STEPS_PER_TURN:
            same = [pair for pair in running if pair[0].scales == self._adapters]
            if same:
                return same
        return longest_waiting(running)

    @property
    def draft_room(self) -> int:
        """How many drafted tokens the next step has room for."""
        return min(self.max_outputs, self.n_batch) - len(self.slots)

    def plan(self) -> Step | None:
        """The next batch: a row per answer being written and one per drafted token, then prompts,
        oldest first; None if idle."""
        pairs = self._group()
        step = Step(Batch(scales=pairs[0][0].scales if pairs else ()))
        room = self.draft_room
        for slot, request in pairs:
            if request.state is State.DECODE:
                draft: list[int] = []
                if request.draft:
                    draft = request.draft[: max(0, min(room, request.draft_limit))]
                    room -= len(draft)
                    request.draft = []
                self._add_answer(step, slot, request, draft)
        if len(step.samples) < len(pairs):
            self._add_prompts(step, pairs, outputs=room)
        if not step.batch.tokens:
            return None
        step.batch.edits = self.cache.take_edits()
        return step

    def _add_prompts(self, step: Step, pairs: list[tuple[Slot, Request]], outputs: int) -> None:
        """Chunks of prompts; those that are scored have at most `outputs` rows, or one."""
        room = self.n_batch - len(step.batch.tokens)
        if any(request.state is State.DECODE for request in self._running):
            room = min(room, self.prefill_chunk)
        for slot, request in pairs:
            if request.state is State.PREFILL and room > 0:
                scored = request.prompt_logprobs is not None
                n = min(room, max(1, outputs)) if scored else room
                if request.reuse is not Reuse.ALL:
                    n = min(n, self._chunks.following(len(request.tokens) - request.cursor))
                chunk = request.tokens[request.cursor : request.cursor + n]
                self._add_prompt(step, slot, request, chunk)
                room -= len(chunk)
                outputs -= len(chunk) if scored else 0

    def _add_answer(self, step: Step, slot: Slot, request: Request, draft: list[int]) -> None:
        batch = step.batch
        first = len(batch.tokens)
        tokens = [request.tokens[-1], *draft]
        batch.add(tokens, request.cursor, slot.id)
        batch.output_rows += range(first, first + len(tokens))
        step.decoded.append((slot, tokens))
        step.samples.append(Sample(request, first, tuple(draft)))

    def _add_prompt(self, step: Step, slot: Slot, request: Request, tokens: list[int]) -> None:
        first = len(step.batch.tokens)
        end = request.cursor + len(tokens)
        step.n_prompt += len(tokens)
        step.batch.add(tokens, request.cursor, slot.id)
        step.decoded.append((slot, tokens))
        last = len(step.batch.tokens) - 1
        if request.prompt_logprobs is not None:
            step.batch.output_rows += range(first, last + 1)
            following = tuple(request.tokens[request.cursor + 1 : end + 1])
            step.scored.append(Scored(slot, request, first, following))
        elif end == len(request.tokens):
            step.batch.output_rows.append(last)
        if end == len(request.tokens):
            step.samples.append(Sample(request, last))

    def commit(self, step: Step) -> None:
        """The batch has been decoded: its tokens are in the cache now."""
        self._clock += 1
        if step.batch.edits:
            self.cache.prompt_cache.tidy()
        if step.batch.scales != self._adapters:
            self._adapters, self._steps_in_a_row = step.batch.scales, 0
        self._steps_in_a_row += 1
        for slot in self._running.values():
            if slot.scales == self._adapters:
                slot.turn = self._clock
        for slot, tokens in step.decoded:
            self.cache.decoded(slot, tokens, apart=len(step.decoded) == 1)
            slot.last_used = self._clock
            if slot.request is not None:
                slot.request.cursor += len(tokens)

    def join(self, step: Step, now: float) -> None:
        """Give slots to those waiting for just a prompt that `step` has decoded to its last row; they draw
        from its logits, so they are among the step's samples from now on."""
        if self.waiting:
            step.samples = [
                s for sample in step.samples for s in (sample, *self._twins(sample, now))
            ]

    def _twins(self, sample: Sample, now: float) -> list[Sample]:
        request = sample.request
        if request.state is not State.PREFILL:
            return []
        joined: list[Sample] = []
        donor = self._running[request]
        while self.waiting and _is_twin(request, self.waiting[0]):
            if not self._has_room(self.waiting[0]):
                break
            twin = self.waiting.popleft()
            self._place(twin, donor, len(twin.prompt), now, list(self.waiting))
            joined.append(Sample(twin, sample.row))
        return joined

    def shift(self) -> list[Request]:
        """Make room in those requests of the next step whose context is full; returns them.

        What they hold then is not what a prompt with these tokens would give, so it is not shared.
        """
        full = [
            request
            for request in self._running
            if request.shift is not None
            and request.state is State.DECODE
            and len(request.tokens) >= request.n_ctx
        ]
        if full:
            group = {request for _, request in self._group()}
            full = [request for request in full if request in group]
        for request in full:
            self._shift(request)
        return full

    def _shift(self, request: Request) -> None:
        assert request.shift is not None
        n_keep, n_discard = request.shift.cut(request.n_ctx, request.cursor)
        self.cache.shift(self._running[request], n_keep, n_discard)
        del request.tokens[n_keep : n_keep + n_discard]
        request.cursor -= n_discard
        request.n_dropped += n_discard

    def settle(self, request: Request) -> None:
        """Tokens have been drawn: what was drafted and turned out wrong leaves the cache."""
        slot = self._running.get(request)
        if slot is not None:
            self.cache.keep(slot, len(request.tokens) - 1)
            request.cursor = len(slot.tokens)

    # -- going out ----------------------------------------------------------------------------

    def release(self, request: Request) -> None:
        """The request is over: free its slot (the cache stays, for the next one that shares it)."""
        request.state = State.FINISHED
        slot = self._running.pop(request, None)
        if slot is not None:
            self.cache.release(slot)
        elif request in self.waiting:
            self.waiting.remove(request)

    def live(self) -> list[Request]:
        """All requests that have not ended."""
        return [*self._running, *self.waiting]

    def reset(self) -> None:
        """The KV cache has been cleared: forget what the slots held and all that was planned."""
        self.cache.reset()

    def check_integrity(self) -> None:
        """Assert what must hold between steps; for tests."""
        assert self.reserved <= self.cells
        held = sum(len(slot.tokens) for slot in self.cache.idle())
        assert self.reserved + held <= self.cells
        assert all(slot.request is request for slot, request in self.running())
        assert len(self.cache.idle()) == len(self.slots) - self.n_running
        for slot, request in self.running():
            assert request.state in (State.PREFILL, State.DECODE)
            assert slot.tokens == request.tokens[: request.cursor]
            assert slot.scales == request.scales
            assert self._clock - slot.turn <= STEPS_PER_TURN * (len(self.slots) - 1), "starving"
            assert not slot.chunks or slot.chunks[-1] <= len(slot.tokens)
            assert slot.n_exact is None or 0 <= slot.n_exact <= len(slot.tokens)
            if request.prompt_logprobs is not None and not request.n_dropped:
                assert len(slot.scores) == min(request.cursor, len(request.prompt) - 1)
            assert 0 <= request.cursor < len(request.tokens)
            assert len(request.tokens) <= max(request.reserve, len(request.prompt))
        assert all(slot.n_exact is None for slot in self.slots if slot.request is None)
        assert all(request.state is State.WAITING for request in self.waiting)


def _is_twin(request: Request, other: Request) -> bool:
    """Whether the logits behind the prompt of `request` are all that `other` needs to begin."""
    return (
        (other.reuse is not Reuse.NONE or other.prompt is request.prompt)
        and request.prompt_logprobs is other.prompt_logprobs is None
        and other.scales == request.scales
        and other.tokens == request.tokens
    )
