"""Which requests run, where, and what goes into the next batch. Pure policy: no llama.cpp, no threads.

A request enters when its prompt and its whole answer fit beside what the running ones may still write, so
no running answer ever meets a full cache. It takes over what the cache shares with its prompt (`KVCache`).
A request whose beginning another one is just decoding waits for it instead of computing it again.

llama.cpp applies LoRA adapters to a whole batch: a step is for requests with equal ones, and those with
others take turns. Caches are shared between equal adapters only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from codellama.engine.batch import Adapters, Batch, Edit, KVState
from codellama.engine.kv_cache import KVCache
from codellama.engine.prefix import common_prefix
from codellama.engine.prompt_cache import PromptCache
from codellama.engine.request import Sequence, State
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
    `max_outputs` of its rows (None: all) have logits, enough for one per slot. Caches that must
    leave their slot go to `prompt_cache`.
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
        self.prompt_cache = PromptCache() if prompt_cache is None else prompt_cache
        self._cache = KVCache(n_slots, cells, self.prompt_cache)
        self.slots = self._cache.slots
        self.cells = cells
        self.n_batch = n_batch
        self.prefill_chunk = prefill_chunk
        self.max_outputs = n_batch if max_outputs is None else max_outputs
        self.waiting: deque[Sequence] = deque()
        self._running: dict[Sequence, Slot] = {}  # in order of admission
        self._clock = 0
        self._adapters: Adapters = ()  # of the latest step
        self._steps_in_a_row = 0  # with them

    # -- what there is ------------------------------------------------------------------------

    def running(self) -> list[tuple[Slot, Sequence]]:
        """Busy slots and their sequences, in order of admission."""
        return [(slot, sequence) for sequence, slot in self._running.items()]

    @property
    def n_running(self) -> int:
        """Number of requests that have a slot."""
        return len(self._running)

    @property
    def reserved(self) -> int:
        """Cells that the running requests hold or may still write (shared cells count for each)."""
        return sum(sequence.reserve for sequence in self._running)

    @property
    def has_work(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.waiting) or bool(self._running)

    # -- coming in ----------------------------------------------------------------------------

    def submit(self, sequence: Sequence) -> None:
        """Queue a request; its `reserve` must fit the cache by itself."""
        assert sequence.reserve <= self.cells, "checked by the caller"
        self.waiting.append(sequence)

    def admit(self, now: float) -> None:
        """Move waiting requests to slots, in order of arrival, as far as slots and cells go."""
        skipped: list[Sequence] = []
        while self.waiting:
            sequence = self.waiting.popleft()
            if not self._has_room(sequence):
                skipped.append(sequence)
                break
            donor, shared = self._cache.donor(sequence)
            if self._beginning_is_coming(sequence, shared):
                skipped.append(sequence)  # those behind it may go ahead: it is waiting by choice
                continue
            self._place(sequence, donor, shared, now, [*skipped, *self.waiting])
        self.waiting.extendleft(reversed(skipped))

    def _has_room(self, sequence: Sequence) -> bool:
        full = len(self._running) == len(self.slots)
        return not full and self.reserved + sequence.reserve <= self.cells

    def _place(
        self, sequence: Sequence, donor: Slot, shared: int, now: float, waiting: list[Sequence]
    ) -> None:
        slot = self._cache.place(sequence, donor, shared, self.reserved, waiting)
        slot.turn = self._clock
        self._running[sequence] = slot
        sequence.state = State.PREFILL
        sequence.admitted_at = now
        sequence.cursor = sequence.cached_tokens = len(slot.tokens)

    def _beginning_is_coming(self, sequence: Sequence, shared: int) -> bool:
        """Whether a running prompt is the same, or will soon have decoded clearly more of ours than is
        there now."""
        worth = WORTH_WAITING if sequence.prompt_logprobs is None else 1  # scoring goes slowly
        return any(
            _is_twin(other, sequence)
            or usable_share(
                common_prefix(other.tokens, sequence.tokens),
                sequence,
                len(other.prompt),
                other.prompt_logprobs or 0,
                scored=other.prompt_logprobs is not None,
            )
            - shared
            >= worth
            for _, other in self.running()
            if other.state is State.PREFILL
            and not other.cancelled
            and other.adapters == sequence.adapters
        )

    def plan_save(self, tokens: list[int], adapters: Adapters) -> tuple[KVState | None, list[Edit]]:
        """See `KVCache.plan_save`."""
        return self._cache.plan_save(tokens, adapters)

    def take_edits(self) -> list[Edit]:
        """See `KVCache.take_edits`."""
        return self._cache.take_edits()

    # -- a step -------------------------------------------------------------------------------

    def decoding(self) -> list[Sequence]:
        """The sequences that get a token in the next step."""
        return [sequence for _, sequence in self._group() if sequence.state is State.DECODE]

    def _group(self) -> list[tuple[Slot, Sequence]]:
        """The requests that the next step is for, in order of admission: all with equal adapters, those
        of the latest steps or, after their turn, of the request that waits longest."""
        running = self.running()
        if self._steps_in_a_row < STEPS_PER_TURN:
            same = [pair for pair in running if pair[0].adapters == self._adapters]
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
        step = Step(Batch(adapters=pairs[0][0].adapters if pairs else ()))
        room = self.draft_room
        for slot, sequence in pairs:
            if sequence.state is State.DECODE:
                draft: list[int] = []
                if sequence.draft:
                    draft = sequence.draft[: max(0, min(room, sequence.draft_limit))]
                    room -= len(draft)
                    sequence.draft = []
                self._add_answer(step, slot, sequence, draft)
        if len(step.samples) < len(pairs):
            self._add_prompts(step, pairs, outputs=room)
        if not step.batch.tokens:
            return None
        step.batch.edits = self.take_edits()
        return step

    def _add_prompts(self, step: Step, pairs: list[tuple[Slot, Sequence]], outputs: int) -> None:
        """Chunks of prompts; those that are scored have at most `outputs` rows, or one."""
        room = self.n_batch - len(step.batch.tokens)
        if any(sequence.state is State.DECODE for sequence in self._running):
            room = min(room, self.prefill_chunk)
        for slot, sequence in pairs:
            if sequence.state is State.PREFILL and room > 0:
                scored = sequence.prompt_logprobs is not None
                n = min(room, max(1, outputs)) if scored else room
                chunk = sequence.tokens[sequence.cursor : sequence.cursor + n]
                self._add_prompt(step, slot, sequence, chunk)
                room -= len(chunk)
                outputs -= len(chunk) if scored else 0

    def _add_answer(self, step: Step, slot: Slot, sequence: Sequence, draft: list[int]) -> None:
        batch = step.batch
        first = len(batch.tokens)
        tokens = [sequence.tokens[-1], *draft]
        batch.add(tokens, sequence.cursor, slot.id)
        batch.output_rows += range(first, first + len(tokens))
        step.decoded.append((slot, tokens))
        step.samples.append(Sample(sequence, first, tuple(draft)))

    def _add_prompt(self, step: Step, slot: Slot, sequence: Sequence, tokens: list[int]) -> None:
        first = len(step.batch.tokens)
        end = sequence.cursor + len(tokens)
        step.n_prompt += len(tokens)
        step.batch.add(tokens, sequence.cursor, slot.id)
        step.decoded.append((slot, tokens))
        last = len(step.batch.tokens) - 1
        if sequence.prompt_logprobs is not None:
            step.batch.output_rows += range(first, last + 1)
            following = tuple(sequence.tokens[sequence.cursor + 1 : end + 1])
            step.scored.append(Scored(slot, sequence, first, following))
        elif end == len(sequence.tokens):
            step.batch.output_rows.append(last)
        if end == len(sequence.tokens):
            step.samples.append(Sample(sequence, last))

    def commit(self, step: Step) -> None:
        """The batch has been decoded: its tokens are in the cache now."""
        self._clock += 1
        if step.batch.edits:
            self.prompt_cache.tidy()
        if step.batch.adapters != self._adapters:
            self._adapters, self._steps_in_a_row = step.batch.adapters, 0
        self._steps_in_a_row += 1
        for slot in self._running.values():
            if slot.adapters == self._adapters:
                slot.turn = self._clock
        for slot, tokens in step.decoded:
            slot.tokens += tokens
            slot.last_used = self._clock
            if slot.sequence is not None:
                slot.sequence.cursor += len(tokens)

    def samples(self, step: Step, now: float) -> Iterator[Sample]:
        """What is to be drawn after a step that has been committed, one after the other.

        Those waiting for just a prompt that is now in the cache get slots, and draw from its logits.
        """
        for sample in step.samples:
            prompt_done = sample.sequence.state is State.PREFILL
            twins = self._join(sample.sequence, now) if prompt_done and self.waiting else []
            yield sample
            for twin in twins:
                yield Sample(twin, sample.row)

    def _join(self, sequence: Sequence, now: float) -> list[Sequence]:
        joined: list[Sequence] = []
        donor = self._running[sequence]
        while self.waiting and _is_twin(sequence, self.waiting[0]):
            if not self._has_room(self.waiting[0]):
                break
            twin = self.waiting.popleft()
            self._place(twin, donor, len(twin.prompt), now, list(self.waiting))
            joined.append(twin)
        return joined

    def shift(self) -> list[Sequence]:
        """Make room in those sequences of the next step whose context is full; returns them.

        What they hold then is not what a prompt with these tokens would give, so it is not shared.
        """
        full = [
            sequence
            for sequence in self._running
            if sequence.shift is not None
            and sequence.state is State.DECODE
            and len(sequence.tokens) >= sequence.n_ctx
        ]
        if full:
            group = {sequence for _, sequence in self._group()}
            full = [sequence for sequence in full if sequence in group]
        for sequence in full:
            self._shift(sequence)
        return full

    def _shift(self, sequence: Sequence) -> None:
        assert sequence.shift is not None
        n_keep, n_discard = sequence.shift.cut(sequence.n_ctx, sequence.cursor)
        self._cache.shift(self._running[sequence], n_keep, n_discard)
        del sequence.tokens[n_keep : n_keep + n_discard]
        sequence.cursor -= n_discard
        sequence.n_dropped += n_discard

    def settle(self, sequence: Sequence) -> None:
        """Tokens have been drawn: what was drafted and turned out wrong leaves the cache."""
        slot = self._running.get(sequence)
        if slot is not None:
            self._cache.keep(slot, len(sequence.tokens) - 1)
            sequence.cursor = len(slot.tokens)

    # -- going out ----------------------------------------------------------------------------

    def release(self, sequence: Sequence) -> None:
        """The request is over: free its slot (the cache stays, for the next one that shares it)."""
        sequence.state = State.FINISHED
        slot = self._running.pop(sequence, None)
        if slot is not None:
            self._cache.release(slot)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def live(self) -> list[Sequence]:
        """All requests that have not ended."""
        return [*self._running, *self.waiting]

    def reset(self) -> None:
        """The KV cache has been cleared: forget what the slots held and all that was planned."""
        self._cache.reset()

    def check_integrity(self) -> None:
        """Assert what must hold between steps; for tests."""
        assert self.reserved <= self.cells
        held = sum(len(slot.tokens) for slot in self._cache.idle())
        assert self.reserved + held <= self.cells
        assert all(slot.sequence is sequence for slot, sequence in self.running())
        assert len(self._cache.idle()) == len(self.slots) - self.n_running
        for slot, sequence in self.running():
            assert sequence.state in (State.PREFILL, State.DECODE)
            assert slot.tokens == sequence.tokens[: sequence.cursor]
            assert slot.adapters == sequence.adapters
            assert self._clock - slot.turn <= STEPS_PER_TURN * (len(self.slots) - 1), "starving"
            assert slot.n_exact is None or 0 <= slot.n_exact <= len(slot.tokens)
            if sequence.prompt_logprobs is not None and not sequence.n_dropped:
                assert len(slot.scores) == min(sequence.cursor, len(sequence.prompt) - 1)
            assert 0 <= sequence.cursor < len(sequence.tokens)
            assert len(sequence.tokens) <= max(sequence.reserve, len(sequence.prompt))
        assert all(slot.n_exact is None for slot in self.slots if slot.sequence is None)
        assert all(sequence.state is State.WAITING for sequence in self.waiting)


def _is_twin(sequence: Sequence, other: Sequence) -> bool:
    """Whether the logits behind the prompt of `sequence` are all that `other` needs to begin."""
    return (
        sequence.prompt_logprobs is other.prompt_logprobs is None
        and other.adapters == sequence.adapters
        and other.tokens == sequence.tokens
    )
