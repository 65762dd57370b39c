"""What the slots of the KV cache hold, and the edits that change it. Pure policy: the edits are carried out
by whoever takes them.

A new request takes over what a slot shares with its prompt: by trimming that slot, or by forking from it when
the slot is busy or holds much more. Caches nobody is using are worth keeping, but not among the cells: every
used cell makes every step slower, masked or not. So they are parked in host memory (`PromptCache`), if
there is any, as soon as a request has work to do beside them.

A request that is to repeat and comes to an idle engine finds the cache as it always does (`place_alone`): all
cells are free, but for its own beginning if that was decoded in its pieces (`Chunks`).
"""

from __future__ import annotations

from collections.abc import Iterable

from codellama.engine.batch import (
    Edit,
    Fork,
    KVState,
    Restore,
    Save,
    Scales,
    Shift,
    TokenLogprob,
    Trim,
)
from codellama.engine.chunks import Chunks
from codellama.engine.prefix import common_prefix
from codellama.engine.prompt_cache import WORTH_KEEPING, PromptCache
from codellama.engine.request import Request, Reuse, State
from codellama.engine.slot import Slot

# Parking and restoring an idle cell takes about as long as it costs 60 to 80 rows that are decoded beside it
# (measured on a CPU with a model of 100 million parameters; both grow with the model).
WORTH_PARKING = 64
# A prompt's batches should end where a block of cells does, of which attention takes 256 at a time. Behind a
# shared token or two they end in the next block, which costs up to 4 % of a step: sharing less than this part
# of a prompt does not pay.
LEAST_SHARE = 32
# A state holds all of a slot's tokens; of those that no other slot holds there must be at least this part.
LEAST_OWN = 8


class KVCache:
    """`n_slots` slots over `cells` KV cells; what leaves them goes to `prompt_cache`."""

    def __init__(self, n_slots: int, cells: int, prompt_cache: PromptCache, chunks: Chunks) -> None:
        self.slots = [Slot(i) for i in range(n_slots)]
        self.cells = cells
        self.prompt_cache = prompt_cache
        self._chunks = chunks
        self._edits: list[Edit] = []

    def take_edits(self) -> list[Edit]:
        """The edits that have been planned and not yet handed out; the caller has them carried out."""
        edits, self._edits = self._edits, []
        return edits

    def idle(self) -> list[Slot]:
        """Slots without a request."""
        return [slot for slot in self.slots if slot.request is None]

    def donor(self, request: Request) -> tuple[Slot, int]:
        """The slot that shares most with the prompt, and how many tokens, 0 if it does not pay; the last
        is left to decode."""
        shares = [(slot.spares(request), slot) for slot in self.slots]
        shared, donor = max(shares, key=lambda pair: (pair[0], pair[1].request is None))
        return donor, shared if shared * LEAST_SHARE >= len(request.prompt) else 0

    # -- coming in ----------------------------------------------------------------------------

    def place(
        self,
        request: Request,
        donor: Slot,
        shared: int,
        reserved: int,
        waiting: Iterable[Request],
    ) -> Slot:
        """Give `request` a slot: that which it asks for, else the donor's own if most of it is shared, else
        the stalest one.

        `reserved` are the cells of the running requests; `waiting` ones keep what they share.
        """
        stored, stored_share = self._stored(request, shared, reserved)
        if stored is not None:
            shared = 0
        slot = self._asked_for(request) or self._fitting(donor, shared)
        scores = _scores(request, donor, shared)
        if slot is donor:
            self._give_up(slot, shared)
        else:
            self._give_up(slot, 0)
            if shared:
                self._edits.append(Fork(donor.id, slot.id, shared))
                slot.tokens = donor.tokens[:shared]
                slot.chunks = [end for end in donor.chunks if end <= shared]
        self._enter(slot, request, scores)
        if request.reserve - max(shared, stored_share) >= WORTH_PARKING:
            self._park(waiting)
        reserved += request.reserve
        self._make_room(reserved, max(0, len(stored.tokens) - request.reserve) if stored else 0)
        if stored is not None:
            self._restore(slot, stored, stored_share)
        return slot

    def _asked_for(self, request: Request) -> Slot | None:
        if request.id_slot < 0:
            return None
        slot = self.slots[request.id_slot % len(self.slots)]
        return slot if slot.request is None else None

    def _fitting(self, donor: Slot, shared: int) -> Slot:
        idle = self.idle()
        if donor.request is None and 2 * shared >= len(donor.tokens):
            return donor
        others = [slot for slot in idle if slot is not donor] or idle
        return min(others, key=lambda s: (bool(s.tokens), s.last_used))

    def place_alone(self, request: Request) -> Slot:
        """Give `request` a slot when nothing else runs or waits, so that each time it finds the same: free
        cells, or its own beginning in the first of them, as decoding it anew would leave it there."""
        asked_for = self._asked_for(request)
        slots = self.slots if asked_for is None else [asked_for]
        shares = [(self._equal_share(slot, request), slot) for slot in slots]
        share, slot = max(shares, key=lambda pair: pair[0])
        stored, stored_share = None, 0
        if _takes_equals(request):
            stored, stored_share = self.prompt_cache.best_equal(
                request.tokens, request.scales, self.cells, share, self._chunks
            )
        for other in self.slots:
            if other is not slot:
                self._give_up(other, 0)
        if stored is not None:
            share = 0
        scores = _scores(request, slot, share)
        self._give_up(slot, share)
        self._enter(slot, request, scores)
        if stored is not None:
            self._restore(slot, stored, stored_share)
        return slot

    def _equal_share(self, slot: Slot, request: Request) -> int:
        if not _takes_equals(request):
            return 0
        shared = slot.shared(request.tokens, request.scales)
        return self._chunks.agreeing(slot.chunks, len(request.prompt), shared)

    def _enter(self, slot: Slot, request: Request, scores: tuple[list[TokenLogprob], int]) -> None:
        slot.scores, slot.n_top = scores
        slot.scales = request.scales
        slot.request = request

    def _restore(self, slot: Slot, state: KVState, n: int) -> None:
        """Put the first `n` tokens of `state` into an empty slot."""
        self._edits.append(Restore(slot.id, state))
        slot.tokens = list(state.tokens)
        slot.chunks = list(state.chunks) if self._is_alone(slot) else []
        self.keep(slot, n)

    def _is_alone(self, slot: Slot) -> bool:
        """Whether all cells that are taken are this slot's."""
        return not any(other.tokens for other in self.slots if other is not slot)

    def _stored(self, request: Request, shared: int, reserved: int) -> tuple[KVState | None, int]:
        """A stored state that shares clearly more with the prompt than any slot, and how much."""
        if request.prompt_logprobs is not None or request.reuse is Reuse.NONE:
            return None, 0  # states have no log probabilities
        most = self.cells - reserved
        stored, share = self.prompt_cache.best(request.tokens, request.scales, most, shared)
        return stored, min(share, len(request.prompt) - 1)

    def _park(self, waiting: Iterable[Request]) -> None:
        """Move idle caches to host memory, but for those that a waiting request shares."""
        for slot in [slot for slot in self.idle() if slot.tokens]:
            if any(slot.spares(other) >= WORTH_KEEPING for other in waiting):
                continue
            if not self._is_worth_keeping(slot, 0) or self.prompt_cache.takes(len(slot.tokens)):
                self._give_up(slot, 0)

    def _is_worth_keeping(self, slot: Slot, n: int) -> bool:
        """Whether enough tokens behind the first `n` would be lost with the slot's: no other has them."""
        others = (other for other in self.slots if other is not slot)
        elsewhere = max((o.shared(slot.tokens, slot.scales) for o in others), default=0)
        own = len(slot.tokens) - max(elsewhere, n)
        return own >= WORTH_KEEPING and own * LEAST_OWN >= len(slot.tokens)

    def _give_up(self, slot: Slot, n: int) -> None:
        """Keep the first `n` tokens of a slot; a rest that no other slot holds goes to the prompt cache."""
        if self._is_worth_keeping(slot, n):
            state = self.prompt_cache.keep(slot.tokens, slot.scales, tuple(slot.chunks))
            if state is not None:
                self._edits.append(Save(slot.id, state))
        self.keep(slot, n)

    def _make_room(self, reserved: int, extra: int) -> None:
        """Drop idle caches, stalest first, until all reservations and `extra` fit beside the rest."""
        idle = sorted((s for s in self.idle() if s.tokens), key=lambda s: s.last_used)
        held = sum(len(slot.tokens) for slot in idle)
        for slot in idle:
            if reserved + held + extra <= self.cells:
                return
            held -= len(slot.tokens)
            self._give_up(slot, 0)

    # -- while it runs ------------------------------------------------------------------------

    def decoded(self, slot: Slot, tokens: list[int], apart: bool) -> None:
        """`tokens` of `slot` have been decoded, `apart` in a step with no other rows."""
        request = slot.request
        prompt = request is not None and request.state is State.PREFILL
        in_pieces = len(slot.tokens) == (slot.chunks[-1] if slot.chunks else 0)
        slot.tokens += tokens
        if apart and prompt and in_pieces and self._is_alone(slot):
            slot.chunks.append(len(slot.tokens))

    def keep(self, slot: Slot, n: int) -> None:
        """Keep the first `n` tokens of a slot."""
        if len(slot.tokens) > n:
            self._edits.append(Trim(slot.id, n))
            del slot.tokens[n:]
            del slot.scores[max(0, n - 1) :]
            slot.chunks = [end for end in slot.chunks if end <= n]

    def shift(self, slot: Slot, n_keep: int, n_discard: int) -> None:
        """Drop `n_discard` tokens behind the first `n_keep` and move the rest up."""
        others = (other for other in self.slots if other is not slot)
        if any(common_prefix(o.tokens, slot.tokens) > n_keep + n_discard for o in others):
            # Cells that are to move may be another slot's too: a restored state has its own.
            state = KVState(list(slot.tokens), scales=slot.scales)
            self._edits += [Save(slot.id, state), Restore(slot.id, state)]
        self._edits.append(Shift(slot.id, n_keep, n_discard))
        slot.drop(n_keep, n_discard)

    # -- going out ----------------------------------------------------------------------------

    def release(self, slot: Slot) -> None:
        """The slot's request is over: its cache stays, for the next one that shares it."""
        assert slot.request is not None
        self.keep(slot, slot.shared(slot.request.tokens, slot.request.scales))
        slot.n_exact = slot.request = None

    def plan_save(self, tokens: list[int], scales: Scales) -> tuple[KVState | None, list[Edit]]:
        """The edits that write the state sharing most with `tokens` decoded with `scales`, all that
        were planned before them, and the state; None if nothing is shared."""
        slot = max(self.slots, key=lambda s: s.shared(tokens, scales))
        shared = slot.shared(tokens, scales)
        state, _ = self.prompt_cache.best(tokens, scales, self.cells, shared)
        edits = self.take_edits()
        if state is None and shared and slot.n_exact is None:
            state = KVState(list(slot.tokens), scales=scales, chunks=tuple(slot.chunks))
            edits.append(Save(slot.id, state))
        return state, edits

    def set(self, slot: Slot, state: KVState | None) -> bool:
        """Put `state` into an idle slot, or empty it for good; False if it is not idle, or the running
        requests leave no room for the state."""
        if slot.request is not None:
            return False
        if state is None:
            self.prompt_cache.drop(slot.tokens, slot.scales)
            self.keep(slot, 0)
            return True
        reserved = sum(s.request.reserve for s in self.slots if s.request is not None)
        if reserved + len(state.tokens) > self.cells:
            return False
        self.keep(slot, 0)
        self._make_room(reserved, len(state.tokens))
        slot.scales = state.scales
        self._restore(slot, state, len(state.tokens))
        return True

    def reset(self) -> None:
        """The KV cache has been cleared: forget what the slots held and all that was planned."""
        self._edits.clear()
        self.prompt_cache.tidy()
        for slot in self.slots:
            slot.tokens.clear()
            slot.scores.clear()
            slot.chunks.clear()
            slot.n_exact = None


def _takes_equals(request: Request) -> bool:
    """Whether `request` may take over what decoding anew would give. A scored prompt is cut by the number of
    its outputs and not into pieces."""
    return request.reuse is not Reuse.NONE and request.prompt_logprobs is None


def _scores(request: Request, donor: Slot, shared: int) -> tuple[list[TokenLogprob], int]:
    """The donor's scores that hold for `request`, all of the shared part if it wants them, and how
    many alternatives they have."""
    if request.prompt_logprobs is None:
        return donor.scores[: max(0, shared - 1)], donor.n_top
    return donor.scores[:shared], donor.n_top if shared else request.prompt_logprobs
