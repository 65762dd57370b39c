"""How many layers fit the GPUs, how many KV cells the memory, and whether attention may take its own.
Pure: sizes in, numbers out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GIB = 2**30
MARGIN = GIB  # left free per GPU, as llama.cpp's own --fit-target
COMPUTE = GIB // 2  # scratch of a 512-row batch, per GPU
MOST_SCORES = GIB // 2  # what plain attention may take: 70B with 4096 cells


@dataclass(frozen=True)
class Placement:
    """`n_gpu_layers` counts the output layer; bytes are of layers and their KV cache."""

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
    room = sum(max(0, free - MARGIN - COMPUTE) for free in free_bytes)
    used = count = 0
    for size in reversed(with_cache(layers, kv_bytes)):
        if used + size > room:
            break
        used += size
        count += 1
    return placed(layers, kv_bytes, count)


def placed(layers: Sequence[int], kv_bytes: int, n_gpu_layers: int) -> Placement:
    """So many layers on the GPUs, or all if there are fewer; arguments as of `place_layers`."""
    sizes = with_cache(layers, kv_bytes)
    first = max(0, len(sizes) - n_gpu_layers)
    return Placement(len(sizes) - first, sum(sizes[first:]), sum(sizes[:first]))


def with_cache(layers: Sequence[int], kv_bytes: int) -> list[int]:
    """Bytes per layer with its share of the cache, which the output layer has none of."""
    n_layer = len(layers) - 1
    kv = kv_bytes // n_layer if n_layer else 0
    return [size + kv for size in layers[:-1]] + [layers[-1]]


def spread(sizes: Sequence[int], shares: Sequence[float]) -> list[tuple[int, int]]:
    """Number and bytes of layers per GPU, as llama.cpp spreads them in proportion to `shares`.

    `sizes` are the bytes of those layers that the GPUs get, in order.
    """
    total = sum(shares) or 1.0
    ends = [sum(shares[: i + 1]) / total for i in range(len(shares))]
    found = [(0, 0)] * len(shares)
    for index, size in enumerate(sizes):
        gpu = min(bisect_right(ends, index / len(sizes)), len(shares) - 1)
        found[gpu] = found[gpu][0] + 1, found[gpu][1] + size
    return found


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
