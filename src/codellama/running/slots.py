"""The slots of a loaded model: what they do, and their KV states on disk and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codellama.engine import Engine
from codellama.engine.batch import KVState, Scales
from codellama.engine.status import SlotStatus
from codellama.errors import InvalidRequestError, QueueFullError
from codellama.running.kv_file import Owner, StaleStateError, read_state, write_state


class Slots:
    """The slots of `engine`, whose context holds `cells` tokens; `owner` is what its KV states belong to."""

    def __init__(self, engine: Engine, owner: Owner, cells: int) -> None:
        self._engine = engine
        self.owner = owner
        self._cells = cells

    def status(self) -> list[SlotStatus]:
        """What each slot is doing. Raises EngineDeadError."""
        return self._engine.slots()

    def save(self, tokens: Sequence[int], scales: Scales, path: Path) -> int:
        """Write the KV state that shares most with `tokens`; how many tokens it has, 0 if there is none."""
        state = self._engine.save_state(tokens, scales)
        if state is None:
            return 0
        write_state(path, self.owner, state)
        return len(state.tokens)

    def read(self, path: Path) -> KVState:
        """A saved KV state. Raises StaleStateError if it is of no use here, or more than fits."""
        state = read_state(path, self.owner)
        if len(state.tokens) > self._cells:
            raise StaleStateError(
                "{path} holds {n} tokens, more than fit here", path=path, n=len(state.tokens)
            )
        return state

    def save_slot(self, index: int, path: Path) -> int:
        """Write what slot `index` holds; how many tokens that are.

        Raises InvalidRequestError if there is no such slot, or it is empty.
        """
        held = self._slot(index)
        n = self.save(held.tokens, held.scales, path) if held.tokens else 0
        if not n:
            raise InvalidRequestError("slot {index} holds nothing to save", "id_slot", index=index)
        return n

    def restore_slot(self, index: int, path: Path) -> int:
        """Put a saved state into slot `index`; how many tokens it has.

        Raises StaleStateError, InvalidRequestError if there is no such slot, QueueFullError if it is busy.
        """
        self._slot(index)
        state = self.read(path)
        self._set(index, state)
        return len(state.tokens)

    def erase_slot(self, index: int) -> int:
        """Forget what slot `index` holds; how many tokens that were. Raises as `restore_slot` does."""
        held = self._slot(index)
        self._set(index, None)
        return len(held.tokens)

    def _slot(self, index: int) -> SlotStatus:
        slots = self.status()
        if not 0 <= index < len(slots):
            raise InvalidRequestError(
                "{param} must be from 0 to {last}; got {index}",
                "id_slot",
                last=len(slots) - 1,
                index=index,
            )
        return slots[index]

    def _set(self, index: int, state: KVState | None) -> None:
        if not self._engine.set_slot(index, state):
            raise QueueFullError(f"slot {index} is busy, or running requests need its room")
