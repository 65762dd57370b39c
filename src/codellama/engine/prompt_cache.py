"""KV states in host memory, for prompts that come back after their slot was given to another.

An entry is a slot's tokens and the state that llama.cpp wrote for them; it only serves prompts with the
adapters that it was decoded with. What is kept is bounded in bytes; the entry that was of no use for
longest goes first. Nothing that another entry holds anyway is kept.
"""

from __future__ import annotations

from collections.abc import Callable

from codellama.engine.batch import KVState, Scales
from codellama.engine.chunks import Chunks
from codellama.engine.prefix import common_prefix

# Writing and restoring a token's state takes about a hundredth of decoding it; a few are not worth an entry.
WORTH_KEEPING = 16


class PromptCache:
    """At most `limit` bytes of states, estimated at `bytes_per_token`; 0 keeps nothing."""

    def __init__(self, limit: int = 0, bytes_per_token: int = 1) -> None:
        self._limit = limit
        self._bytes_per_token = bytes_per_token
        self._entries: list[KVState] = []  # the least recently used first

    @property
    def n_bytes(self) -> int:
        """What is held, with an estimate for what is still to be written."""
        return sum(self._size(entry) for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def takes(self, n_tokens: int) -> bool:
        """Whether a state of so many tokens can be kept at all."""
        return n_tokens * self._bytes_per_token <= self._limit

    def keep(
        self, tokens: list[int], scales: Scales = (), chunks: tuple[int, ...] = ()
    ) -> KVState | None:
        """An entry for `tokens`, whose state the runner is to write; None if it is not worth it."""
        if len(tokens) < WORTH_KEEPING or not self.takes(len(tokens)):
            return None
        if any(_shared(entry, tokens, scales) == len(tokens) for entry in self._entries):
            return None
        return self.add(KVState(list(tokens), scales=scales, chunks=chunks))

    def add(self, new: KVState) -> KVState:
        """Hold `new`, also if it is larger than the limit by itself; others make room."""
        self._entries = [
            entry
            for entry in self._entries
            if _shared(entry, new.tokens, new.scales) < len(entry.tokens)
        ]
        while self._entries and self.n_bytes + self._size(new) > self._limit:
            del self._entries[0]
        self._entries.append(new)
        return new

    def best(
        self, tokens: list[int], scales: Scales, most: int, longer_than: int
    ) -> tuple[KVState | None, int]:
        """The entry of at most `most` tokens that shares most with `tokens` decoded with `scales`, if
        clearly more than `longer_than`, and how many it shares."""
        return self._best(lambda entry: _shared(entry, tokens, scales), most, longer_than)

    def best_equal(
        self, tokens: list[int], scales: Scales, most: int, longer_than: int, chunks: Chunks
    ) -> tuple[KVState | None, int]:
        """As `best` for a prompt of just these tokens, which takes over only what agrees with its
        `chunks`."""

        def share(entry: KVState) -> int:
            return chunks.agreeing(entry.chunks, len(tokens), _shared(entry, tokens, scales))

        return self._best(share, most, longer_than)

    def _best(
        self, share: Callable[[KVState], int], most: int, longer_than: int
    ) -> tuple[KVState | None, int]:
        found, longest = None, longer_than + WORTH_KEEPING - 1
        for entry in self._entries:
            shared = share(entry)
            if entry.data is not None and shared > longest and len(entry.tokens) <= most:
                found, longest = entry, shared
        if found is None:
            return None, 0
        self._entries.remove(found)
        if self._limit:  # else it was put there for one use
            self._entries.append(found)
        return found, longest

    def drop(self, tokens: list[int], scales: Scales) -> None:
        """Forget what goes on from `tokens`, and what `tokens` go on from."""
        self._entries = [
            entry
            for entry in self._entries
            if _shared(entry, tokens, scales) < min(len(tokens), len(entry.tokens))
        ]

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()

    def tidy(self) -> None:
        """After a step: drop what could not be written, and the oldest ones beyond the limit."""
        self._entries = [entry for entry in self._entries if entry.data is not None]
        while len(self._entries) > 1 and self.n_bytes > self._limit:
            del self._entries[0]

    def _size(self, entry: KVState) -> int:
        if entry.data is None:
            return len(entry.tokens) * self._bytes_per_token
        return len(entry.data)


def _shared(entry: KVState, tokens: list[int], scales: Scales) -> int:
    return common_prefix(entry.tokens, tokens) if entry.scales == scales else 0
