"""Which layers fit which GPUs: as many as possible, and where one is quicker, more there. Pure.

First it is tried to put all layers on the GPUs, then one less, and so on. If not all fit, the other way is
weighed too: all layers on the GPUs with their caches, but the feed-forward matrices of the first ones in main
memory. What makes a token of every request sooner is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

from codellama.devices.placement import CPU, Split, Work, spread
from codellama.devices.speed import Reading, step_seconds

MARGIN = 2**30  # left free on each GPU, as llama.cpp's own --fit-target
_WORTH = 0.97  # of the other's time: the plainer placement wins a tie


def fits(work: Work, split: Split, margin: int = MARGIN) -> bool:
    """Whether every GPU that has layers keeps `margin` bytes free."""
    return all(slack >= 0 for slack in _slacks(work, split, margin))


def most_layers(work: Work, shares: Sequence[float] = (), margin: int = MARGIN) -> Split:
    """As many layers as fit the GPUs, from the output layer downwards; spread by `shares`, if given."""
    for n in range(work.n_layers, 0, -1):
        split = distributed(work, n, shares, margin=margin)
        if split is not None:
            return split
    return Split((0,) * len(work.gpus))


def attention_first(work: Work, shares: Sequence[float] = (), margin: int = MARGIN) -> Split | None:
    """All layers on the GPUs, with as many feed-forward matrices as fit; None if not even attention does."""
    low, high = 0, work.sizes.n_layer
    best = distributed(work, work.n_layers, shares, high, margin)
    while best is not None and low < high:
        middle = (low + high) // 2
        split = distributed(work, work.n_layers, shares, middle, margin)
        if split is None:
            low = middle + 1
        else:
            best, high = split, middle
    return best


def distributed(
    work: Work, n: int, shares: Sequence[float], host_ffn: int = 0, margin: int = MARGIN
) -> Split | None:
    """`n` layers over the GPUs so that each has room; None if there is no way, or `shares` are none."""
    if not work.gpus:
        return None
    if shares:
        split = Split(spread(n, shares), host_ffn)
        return split if fits(work, split, margin) else None
    return _settled(work, Split(_begin(work, n, margin), host_ffn), margin)


def _begin(work: Work, n: int, margin: int) -> tuple[int, ...]:
    """Layers for each GPU: in proportion to their memory if they are equally fast, else the fastest first."""
    rooms = [max(0, gpu.free_bytes - margin) for gpu in work.gpus]
    speeds = [gpu.bandwidth for gpu in work.gpus]
    if min(speeds) == max(speeds) or not all(speeds):
        return spread(n, rooms)
    layers = work.sizes.layers[-n:]
    mean = sum(layer.nbytes for layer in layers) / n + work.layer_kv
    counts, left = [0] * len(rooms), n
    for index in sorted(range(len(rooms)), key=lambda i: -speeds[i]):
        counts[index] = min(left, int(rooms[index] / mean))
        left -= counts[index]
    counts[max(range(len(rooms)), key=rooms.__getitem__)] += left
    return tuple(counts)


def _settled(work: Work, split: Split, margin: int) -> Split | None:
    """The split with layers moved from where there is too little room to where there is most."""
    for _ in range(2 * work.n_layers):
        slacks = _slacks(work, split, margin)
        worst = min(range(len(slacks)), key=slacks.__getitem__)
        best = max(range(len(slacks)), key=slacks.__getitem__)
        if slacks[worst] >= 0:
            return split
        if slacks[best] <= 0 or not split.counts[worst]:
            return None
        counts = list(split.counts)
        counts[worst] -= 1
        counts[best] += 1
        split = Split(tuple(counts), split.host_ffn)
    return None


def _slacks(work: Work, split: Split, margin: int) -> list[int]:
    """Bytes that are left on each GPU beside the margin; at least 0 on one that has nothing."""
    found = []
    for gpu, placed in zip(work.gpus, work.placed(split), strict=False):
        room = gpu.free_bytes - margin
        found.append(room - placed.nbytes if placed.layers else max(0, room))
    return found


def readings(work: Work, split: Split, host_bandwidth: float, disk: float = 0.0) -> list[Reading]:
    """What every device has to read for a token; `disk` is the bandwidth of weights that memory does not
    hold, 0 if it holds all."""
    *gpus, cpu = work.placed(split)
    n_seq = work.contexts[0].n_seq_max
    found = [
        Reading(
            gpu.name,
            gpu.kind,
            gpu.bandwidth,
            placed.weights,
            placed.kv // n_seq,
            placed.layers,
            latency=gpu.latency,
            network=gpu.network,
            passed=4 * work.sizes.hidden,
        )
        for gpu, placed in zip(work.gpus, gpus, strict=True)
    ]
    host = work.host_layer_bytes(split)
    return [*found, Reading(CPU, "cpu", host_bandwidth, host, cpu.kv // n_seq, cpu.layers, disk)]


def quicker(work: Work, plain: Split, other: Split | None, host_bandwidth: float) -> bool:
    """Whether `other` makes a token of every request sooner than `plain`."""
    if other is None or not host_bandwidth or not all(gpu.bandwidth for gpu in work.gpus):
        return False
    n_seq = work.contexts[0].n_seq_max
    seconds = [step_seconds(readings(work, s, host_bandwidth), n_seq) for s in (plain, other)]
    return seconds[1] < _WORTH * seconds[0]
