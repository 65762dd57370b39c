"""The scratch memory of llama.cpp's graph of a Llama model, on each device that has a part of it. Pure.

llama.cpp lays out the graph of its largest batch once and keeps that memory. What is alive at the same time
there is counted here, as read in src/models/llama.cpp, src/llama-graph.cpp and src/llama-context.cpp, and
compared with what llama.cpp says that it takes (scripts/check_fit.py). Sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from codellama.devices.sizes import ModelSizes, padded_cells
from codellama.native.settings import ContextSettings

COPIES = 4  # GGML_SCHED_MAX_COPIES: of inputs, while several devices work on one prompt


@dataclass(frozen=True)
class Part:
    """What of a graph runs on a device: attention and feed-forward of some layers, the output layer.

    `host` is the CPU, where every graph begins. `first` says that the first layer is here. With `pipelined`
    several devices work on one prompt; `later` ones get what the one before gave. `copied` are bytes of
    the largest matrix that is in main memory and copied here for the batches of a prompt.
    """

    attention: bool = False
    ffn: bool = False
    output: bool = False
    host: bool = False
    first: bool = False
    pipelined: bool = False
    later: bool = False
    copied: int = 0


def scratch_bytes(sizes: ModelSizes, context: ContextSettings, part: Part) -> int:
    """What a context's largest batch takes on the device that runs `part` of it."""
    if not (part.attention or part.ffn or part.output or part.host):
        return 0
    cells = padded_cells(context.cells)
    rows = min(cells, context.n_ubatch)
    flash = context.flash_attn != "off"
    hidden, keys = 4 * rows * sizes.hidden, 4 * rows * sizes.kv_dim
    inputs = rows * cells * (2 if flash else 4)  # the mask
    if not flash:
        inputs += 2 * keys  # where each value goes, as 64 bits
    if not (part.attention or part.ffn or part.host):
        inputs = 0
    work = max(
        _attention(sizes, context, part, hidden, keys, flash),
        _feed_forward(sizes, context, part, hidden, rows),
        2 * hidden if part.host and not part.ffn else 0,
        _logits(sizes, context, part, rows),
    )
    if part.host and part.attention:
        work += hidden  # the embeddings' own input
    if part.pipelined:
        inputs *= COPIES
        work += hidden * (3 if part.host else 8 if part.later else 4)
    return inputs + work + part.copied


def output_bytes(sizes: ModelSizes, context: ContextSettings) -> int:
    """The logits that a context keeps in main memory."""
    return 4 * context.n_seq_max * (sizes.n_vocab + (sizes.hidden if context.embeddings else 0))


def _attention(
    sizes: ModelSizes, context: ContextSettings, part: Part, hidden: int, keys: int, flash: bool
) -> int:
    """What is alive while scores are: queries, keys, values, and the scores themselves without flash."""
    if not part.attention:
        return 0
    cells = padded_cells(context.cells)
    rows = min(cells, context.n_ubatch)
    if not flash:
        return 4 * sizes.heads * cells * rows + 4 * hidden
    wide = (context.type_k, context.type_v).count("f32")  # flash attention makes them f16 first
    return wide * 2 * cells * sizes.kv_dim + max(4 * hidden, 3 * hidden + 2 * keys)


def _feed_forward(
    sizes: ModelSizes, context: ContextSettings, part: Part, hidden: int, rows: int
) -> int:
    """Three results of the feed-forward width beside what goes around them."""
    if not part.ffn:
        return 0
    around = 2
    if (part.first or part.pipelined) and part.attention and context.type_v in ("f16", "bf16"):
        around = 3  # the room that attention leaves does not suit
    return 3 * 4 * rows * sizes.ffn + around * hidden


def _logits(sizes: ModelSizes, context: ContextSettings, part: Part, rows: int) -> int:
    if not part.output:
        return 0
    outputs = rows if context.embeddings else min(rows, context.max_outputs)
    return 4 * outputs * (sizes.n_vocab + sizes.hidden)
