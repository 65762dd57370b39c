"""How many layers fit the GPUs, how many KV cells the memory, and whether attention may take its own.
Pure: sizes in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GIB = 2**30
MARGIN = GIB  # left free per GPU, as llama.cpp's own --fit-target
COMPUTE = GIB // 2  # scratch of a 512-row batch, per GPU
MOST_SCORES = GIB // 2  # what plain attention may take: 70B with 4096 cells


@dataclass(frozen=True)
class Placement:
    """`n_gpu_layers` counts the output layer; bytes are weights and KV cache."""

    n_gpu_layers: int
    gpu_bytes: int
    cpu_bytes: int


def layer_bytes(tensors: Mapping[str, int], n_layer: int) -> list[int]:
    """Bytes per layer from tensor name → bytes; the last entry is the output layer.

    The token embedding stays on the CPU in llama.cpp and is not counted.
    """
    sizes = [0] * (n_layer + 1)
    for name, nbytes in tensors.items():
        if name.startswith("blk."):
            sizes[int(name.split(".")[1])] += nbytes
        elif name.startswith("output"):
            sizes[n_layer] += nbytes
    return sizes


def place_layers(layers: Sequence[int], kv_bytes: int, free_bytes: Sequence[int]) -> Placement:
    """As many layers as fit GPUs with `free_bytes` each, from the output layer downwards.

    `kv_bytes` is the whole cache; each layer takes its share of it along (0 if it stays on the CPU).
    """
    n_layer = len(layers) - 1
    kv = kv_bytes // n_layer if n_layer else 0
    room = sum(max(0, free - MARGIN - COMPUTE) for free in free_bytes)
    used = count = 0
    for index in range(n_layer, -1, -1):
        size = layers[index] + (kv if index < n_layer else 0)
        if used + size > room:
            break
        used += size
        count += 1
    total = sum(layers) + kv * n_layer
    return Placement(count, used, total - used)


def kv_bytes_per_cell(n_layer: int, n_kv_heads: int, head_dim: int, bytes_per_value: float) -> int:
    """Bytes of keys and values of one token; `bytes_per_value` is the mean of both types."""
    return round(2 * n_layer * n_kv_heads * head_dim * bytes_per_value)


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
