"""How many KV cells the memory holds, what prompts outside of them may take, and whether attention may have
its own. Pure: sizes in, numbers out."""

from __future__ import annotations

GIB = 2**30
MOST_SCORES = GIB // 2  # what plain attention may take: 70B with 4096 cells


def choose_cells(n_ctx: int, n_seq_max: int, bytes_per_cell: int, memory_bytes: int) -> int:
    """KV cells for `n_seq_max` full contexts, or what an eighth of the memory holds; at least one
    full context."""
    affordable = memory_bytes // 8 // max(1, bytes_per_cell)
    return max(n_ctx, min(n_ctx * n_seq_max, affordable))


def choose_cache_bytes(memory_bytes: int) -> int:
    """Bytes for prompts outside the KV cache: llama-server's 8 GiB, or a sixteenth of the memory."""
    return min(8 * GIB, memory_bytes // 16)


def plain_attention(n_seq_max: int, n_heads: int, cells: int, n_ubatch: int) -> bool:
    """Whether plain attention is better than flash attention on a CPU: for one request at a time, if its
    scores (f32, for all heads, cells and rows of a micro-batch) do not take too much memory.

    llama.cpp's flash attention on a CPU reads the whole cache once per row, so drafts gain nothing from
    it; plain attention takes what it needs once per step, but looks at the cells of all requests.
    """
    return n_seq_max == 1 and 4 * n_heads * cells * n_ubatch <= MOST_SCORES
