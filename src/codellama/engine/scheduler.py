"""Which requests run, where, and what goes into the next batch. Pure policy: no llama.cpp, no threads.

A request enters when its prompt and its whole answer fit beside what the running ones may still write, so
no running answer ever meets a full cache. It takes over what a slot's cache shares with its prompt: by
trimming that slot, or by forking from it when the slot is busy or holds much more. A request whose
beginning another one is just decoding waits for it instead of computing it again.

llama.cpp applies LoRA adapters to a whole batch: a step is for requests with equal ones, and those with
others take turns. Caches are shared between equal adapters only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from codellama.batch import (
    Adapters,
    Batch,
    Edit,
    Fork,
    KVState,
    Restore,
    Save,
    Shift,
    TokenLogprob,
    Trim,
)
from codellama.engine.prefix import common_prefix
from codellama.engine.prompt_cache import WORTH_KEEPING, PromptCache
from codellama.engine.sequence import Sequence, State
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
        self.slots = [Slot(i) for i in range(n_slots)]
        self.cells = cells
        self.n_batch = n_batch
        self.prefill_chunk = prefill_chunk
        self.max_outputs = n_batch if max_outputs is None else max_outputs
        self.prompt_cache = PromptCache() if prompt_cache is None else prompt_cache
        self.waiting: deque[Sequence] = deque()
        self._edits: list[Edit] = []
        self._clock = 0
        self._adapters: Adapters = ()  # of the latest step
        self._steps_in_a_row = 0  # with them

    # -- what there is ------------------------------------------------------------------------

    def running(self) -> Iterator[tuple[Slot, Sequence]]:
        """Busy slots and their sequences, in order of admission."""
        busy = [(slot, slot.sequence) for slot in self.slots if slot.sequence is not None]
        return iter(sorted(busy, key=lambda pair: pair[1].admitted_at))

    @property
    def reserved(self) -> int:
        """Cells that the running requests hold or may still write (shared cells count for each)."""
        return sum(sequence.reserve for _, sequence in self.running())

    @property
    def has_work(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.waiting) or any(slot.sequence for slot in self.slots)

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
            free = [slot for slot in self.slots if slot.sequence is None]
            if not free or self.reserved + sequence.reserve > self.cells:
                skipped.append(sequence)
                break
            donor, shared = self._donor(sequence)
            if self._beginning_is_coming(sequence, shared):
                skipped.append(sequence)  # those behind it may go ahead: it is waiting by choice
                continue
            self._place(sequence, free, donor, shared, now)
        self.waiting.extendleft(reversed(skipped))

    def _donor(self, sequence: Sequence) -> tuple[Slot, int]:
        """The slot that shares most with the prompt, and how many tokens; the last is left to decode."""
        shares = [(slot.spares(sequence), slot) for slot in self.slots]
        shared, donor = max(shares, key=lambda pair: (pair[0], pair[1].sequence is None))
        return donor, shared

    def _beginning_is_coming(self, sequence: Sequence, shared: int) -> bool:
        """Whether a running prompt will soon have decoded clearly more of ours than is there now."""
        worth = WORTH_WAITING if sequence.prompt_logprobs is None else 1  # scoring goes slowly
        return any(
            usable_share(
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

    def _place(
        self, sequence: Sequence, free: list[Slot], donor: Slot, shared: int, now: float
    ) -> None:
        """Give `sequence` a slot: the donor's own if most of it is shared, else the stalest one."""
        stored, stored_share = self._stored(sequence, shared)
        if stored is not None:
            shared = 0
        continues = donor.sequence is None and 2 * shared >= len(donor.tokens)
        others = [slot for slot in free if slot is not donor] or free
        slot = donor if continues else min(others, key=lambda s: (bool(s.tokens), s.last_used))
        scores = self._scores(sequence, donor, shared)
        if slot is donor:
            self._give_up(slot, shared)
        else:
            self._give_up(slot, 0)
            if shared:
                self._edits.append(Fork(donor.id, slot.id, shared))
                slot.tokens = donor.tokens[:shared]
        slot.scores, slot.n_top = scores
        slot.adapters = sequence.adapters
        slot.sequence = sequence
        slot.turn = self._clock
        sequence.state = State.PREFILL
        sequence.admitted_at = now
        self._make_room(max(0, len(stored.tokens) - sequence.reserve) if stored else 0)
        if stored is not None:
            self._edits.append(Restore(slot.id, stored))
            slot.tokens = list(stored.tokens)
            self._keep(slot, stored_share)
        sequence.cursor = sequence.cached_tokens = len(slot.tokens)

    def _scores(
        self, sequence: Sequence, donor: Slot, shared: int
    ) -> tuple[list[TokenLogprob], int]:
        """The donor's scores that hold for `sequence`, all of the shared part if it wants them, and how
        many alternatives they have."""
        if sequence.prompt_logprobs is None:
            return donor.scores[: max(0, shared - 1)], donor.n_top
        return donor.scores[:shared], donor.n_top if shared else sequence.prompt_logprobs

    def _stored(self, sequence: Sequence, shared: int) -> tuple[KVState | None, int]:
        """A stored state that shares clearly more with the prompt than any slot, and how much."""
        if sequence.prompt_logprobs is not None:
            return None, 0  # states have no log probabilities
        most = self.cells - self.reserved
        stored, share = self.prompt_cache.best(sequence.tokens, sequence.adapters, most, shared)
        return stored, min(share, len(sequence.prompt) - 1)

    def _give_up(self, slot: Slot, n: int) -> None:
        """Keep the first `n` tokens of a slot; a rest that no other slot holds goes to the prompt cache."""
        others = (other for other in self.slots if other is not slot)
        elsewhere = max((o.shared(slot.tokens, slot.adapters) for o in others), default=0)
        if len(slot.tokens) - max(elsewhere, n) >= WORTH_KEEPING:
            state = self.prompt_cache.keep(slot.tokens, slot.adapters)
            if state is not None:
                self._edits.append(Save(slot.id, state))
        self._keep(slot, n)

    def _make_room(self, extra: int) -> None:
        """Drop idle caches, stalest first, until all reservations and `extra` fit beside the rest."""
        idle = sorted(
            (s for s in self.slots if s.sequence is None and s.tokens), key=lambda s: s.last_used
        )
        held = sum(len(slot.tokens) for slot in idle)
        for slot in idle:
            if self.reserved + held + extra <= self.cells:
                return
            held -= len(slot.tokens)
            self._give_up(slot, 0)

    def _keep(self, slot: Slot, n: int) -> None:
        if len(slot.tokens) > n:
            self._edits.append(Trim(slot.id, n))
            del slot.tokens[n:]
            del slot.scores[max(0, n - 1) :]

    def plan_save(self, tokens: list[int], adapters: Adapters) -> tuple[KVState | None, list[Edit]]:
        """The edits that write the state sharing most with `tokens` decoded with `adapters`, all that
        were planned before them, and the state; None if nothing is shared."""
        slot = max(self.slots, key=lambda s: s.shared(tokens, adapters))
        shared = slot.shared(tokens, adapters)
        state, _ = self.prompt_cache.best(tokens, adapters, self.cells, shared)
        edits = self.take_edits()
        if state is None and shared and slot.n_exact is None:
            state = KVState(list(slot.tokens), adapters=adapters)
            edits.append(Save(slot.id, state))
        return state, edits

    def take_edits(self) -> list[Edit]:
        """The edits that have been planned and not yet handed out; the caller has them carried out."""
        edits, self._edits = self._edits, []
        return edits

    # -- a step -------------------------------------------------------------------------------

    def decoding(self) -> list[Sequence]:
        """The sequences that get a token in the next step."""
        return [sequence for _, sequence in self._group() if sequence.state is State.DECODE]

    def _group(self) -> list[tuple[Slot, Sequence]]:
        """The requests that the next step is for, in order of admission: all with equal adapters, those
        of the latest steps or, after their turn, of the request that waits longest."""
        running = list(self.running())
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
                draft = sequence.draft[: max(0, min(room, sequence.draft_limit))]
                room -= len(draft)
                sequence.draft = []
                self._add_answer(step, slot, sequence, draft)
        self._add_prompts(step, pairs, outputs=room)
        if not step.batch.tokens:
            return None
        step.batch.edits = self.take_edits()
        return step

    def _add_prompts(self, step: Step, pairs: list[tuple[Slot, Sequence]], outputs: int) -> None:
        """Chunks of prompts; those that are scored have at most `outputs` rows, or one."""
        room = self.n_batch - len(step.batch.tokens)
        if any(sequence.state is State.DECODE for _, sequence in self.running()):
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
        first = len(step.batch.tokens)
        tokens = sequence.tokens[sequence.cursor :] + draft
        step.batch.add(tokens, sequence.cursor, slot.id)
        step.batch.output_rows += range(first, first + len(tokens))
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
        self.prompt_cache.tidy()
        if step.batch.adapters != self._adapters:
            self._adapters, self._steps_in_a_row = step.batch.adapters, 0
        self._steps_in_a_row += 1
        for slot, _ in self.running():
            if slot.adapters == self._adapters:
                slot.turn = self._clock
        for slot, tokens in step.decoded:
            slot.tokens += tokens
            slot.last_used = self._clock
            if slot.sequence is not None:
                slot.sequence.cursor += len(tokens)

    def shift(self) -> list[Sequence]:
        """Make room in those sequences of the next step whose context is full; returns them.

        What they hold then is not what a prompt with these tokens would give, so it is not shared.
        """
        full = [
            (slot, sequence)
            for slot, sequence in self._group()
            if sequence.state is State.DECODE
            and sequence.shift is not None
            and len(sequence.tokens) >= sequence.n_ctx
        ]
        for slot, sequence in full:
            self._shift(slot, sequence)
        return [sequence for _, sequence in full]

    def _shift(self, slot: Slot, sequence: Sequence) -> None:
        assert sequence.shift is not None
        n_keep, n_discard = sequence.shift.cut(sequence.n_ctx, sequence.cursor)
        others = (other for other in self.slots if other is not slot)
        if any(common_prefix(o.tokens, slot.tokens) > n_keep + n_discard for o in others):
            # Cells that are to move may be another slot's too: a restored state has its own.
            state = KVState(list(slot.tokens), adapters=slot.adapters)
            self._edits += [Save(slot.id, state), Restore(slot.id, state)]
        self._edits.append(Shift(slot.id, n_keep, n_discard))
        slot.drop(n_keep, n_discard)
        del sequence.tokens[n_keep : n_keep + n_discard]
        sequence.cursor -= n_discard
        sequence.n_dropped += n_discard

    def settle(self, sequence: Sequence) -> None:
        """Tokens have been drawn: what was drafted and turned out wrong leaves the cache."""
        for slot in self.slots:
            if slot.sequence is sequence:
                self._keep(slot, len(sequence.tokens) - 1)
                sequence.cursor = len(slot.tokens)

    # -- going out ----------------------------------------------------------------------------

    def release(self, sequence: Sequence) -> None:
        """The request is over: free its slot (the cache stays, for the next one that shares it)."""
        sequence.state = State.FINISHED
        for slot in self.slots:
            if slot.sequence is sequence:
                self._keep(slot, slot.shared(sequence.tokens, sequence.adapters))
                slot.n_exact = slot.sequence = None
                return
        if sequence in self.waiting:
            self.waiting.remove(sequence)

    def live(self) -> list[Sequence]:
        """All requests that have not ended."""
        return [sequence for _, sequence in self.running()] + list(self.waiting)

    def reset(self) -> None:
        """The KV cache has been cleared: forget what the slots held and all that was planned."""
        self._edits.clear()
        self.prompt_cache.tidy()
        for slot in self.slots:
            slot.tokens.clear()
            slot.scores.clear()
            slot.n_exact = None

    def check_integrity(self) -> None:
        """Assert what must hold between steps; for tests."""
        assert self.reserved <= self.cells
        held = sum(len(slot.tokens) for slot in self.slots if slot.sequence is None)
        assert self.reserved + held <= self.cells
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
