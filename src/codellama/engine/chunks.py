"""How a prompt is cut into steps so that what the cache holds of it is the same, bit for bit, every time.

llama.cpp's kernels differ by the number of rows of a step, so what a token becomes depends on which
tokens were decoded with it. A request that is to repeat is therefore cut at places that depend on its
length alone, and takes over only what was cut at the same places: pieces of a power of two, the larger
ones first, and a rest.
"""

from __future__ import annotations

from collections.abc import Sequence

# Larger pieces are hardly faster, and prompts of different lengths have fewer of them in common.
LARGEST = 256
# Smaller ones cost a step each; so many tokens at most are decoded again when a prompt comes back.
SMALLEST = 64


class Chunks:
    """The pieces of prompts, where a step has at most `n_batch` rows."""

    def __init__(self, n_batch: int) -> None:
        self.largest = min(LARGEST, 1 << (n_batch.bit_length() - 1))
        self.smallest = min(SMALLEST, self.largest)

    def following(self, rest: int) -> int:
        """The size of the next piece when `rest` tokens of a prompt are left to decode."""
        size = self.largest
        while size > self.smallest and size >= rest:
            size //= 2
        return min(size, rest)

    def agreeing(self, ends: Sequence[int], n_prompt: int, shared: int) -> int:
        """How many of the first `shared` tokens of a prompt of `n_prompt` it may take over from a cache whose
        pieces ended at `ends`; the last token is left to decode."""
        taken = 0
        for end in ends:
            if end > shared or end >= n_prompt or end != taken + self.following(n_prompt - taken):
                break
            taken = end
        return taken
