"""How fast a model will be on its devices, from what each of them has to read. Pure.

A token is made by one device after the other, so the seconds that each needs add up, and the slowest part
decides. A device reads its weights once for a token, and the part of the KV cache that is filled. Measured
on the 70B, GPUs reach 85 % of the bandwidth that their makers publish, beside a tenth of a millisecond for
each layer; processors reach 70 % (tests/unit/test_speed.py compares).

A prompt is read in micro-batches: all weights once for each, and two operations for each weight and token,
of which a device makes so many for a byte that it could read. Bandwidths are in bytes a second.

A device on another machine is told what goes in and asked for what comes out, once for each token or
micro-batch: one way there and back, and twice the hidden state over the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GPU_SHARE, HOST_SHARE = 0.85, 0.70  # of the bandwidth, while weights are read
HOST_CACHE_SHARE = (
    0.35  # an estimate: attention computes more for a byte of its cache than of a weight
)
GPU_LAYER_S = 1e-4
SMALLEST = 2**28
_OPERATIONS_PER_BYTE = {"gpu": 60.0, "igpu": 20.0, "cpu": 10.0}  # of a bandwidth, in prompts


@dataclass(frozen=True)
class Reading:
    """What a device has for every token: bytes of weights, bytes of a request's whole cache, and layers.

    `kind` is that of the device: gpu, igpu or cpu. `disk` is the bandwidth with which weights come from a
    disk because memory does not hold them, 0 where it does. `latency`, `network` and `passed` are of a device
    on another machine: seconds there and back, bytes a second, and bytes of a token's hidden state.
    """

    device: str
    kind: str
    bandwidth: float
    weights: int
    cache: int
    layers: int
    disk: float = 0.0
    latency: float = 0.0
    network: float = 0.0
    passed: int = 0

    def way(self, rows: int = 1) -> float:
        """Seconds that so many tokens spend on the network."""
        return self.latency + (2 * rows * self.passed / self.network if self.network else 0.0)

    def seconds(self, filled: float = 0.5) -> float:
        """For one token, with this share of a context filled."""
        if self.disk:
            return self.weights / self.disk
        if not self.bandwidth:
            return 0.0
        cache = filled * self.cache
        if self.kind == "cpu":
            return (self.weights / HOST_SHARE + cache / HOST_CACHE_SHARE) / self.bandwidth
        seconds = (self.weights + cache) / (GPU_SHARE * self.bandwidth)
        return seconds + GPU_LAYER_S * self.layers + self.way()

    def batch_seconds(self, rows: int, weights_per_byte: float) -> float:
        """For a micro-batch of a prompt; so many weights are in a byte."""
        operations = 2 * self.weights * weights_per_byte * rows
        speed = self.bandwidth * _OPERATIONS_PER_BYTE.get(self.kind, 10.0)
        computing = max(self.seconds(0.0) - self.way(), operations / speed if speed else 0.0)
        return computing + self.way(rows)


@dataclass(frozen=True)
class ExpectedSpeed:
    """Tokens a second of one request: while it is answered, with half of its context filled, and while its
    prompt is read. `slowest` is the device that takes most of the time, `share` of it."""

    decode: float
    prompt: float
    slowest: str
    share: float

    def __str__(self) -> str:
        return f"about {_number(self.decode)} tokens/s, prompts {_number(self.prompt)}"


def expected(
    readings: Sequence[Reading], n_ubatch: int, weights_per_byte: float
) -> ExpectedSpeed | None:
    """What to expect of a model on these devices; None where the bandwidth of one is not known."""
    used = [reading for reading in readings if reading.weights]
    if sum(reading.weights for reading in used) < SMALLEST:
        return None  # other things take the time
    if not used or not all(reading.bandwidth or reading.disk for reading in used):
        return None
    seconds = [reading.seconds() for reading in used]
    total = sum(seconds)
    batch = sum(reading.batch_seconds(n_ubatch, weights_per_byte) for reading in used)
    worst = max(range(len(used)), key=seconds.__getitem__)
    return ExpectedSpeed(1 / total, n_ubatch / batch, used[worst].device, seconds[worst] / total)


def step_seconds(readings: Sequence[Reading], n_seq: int) -> float:
    """For a token of each of `n_seq` requests with full contexts; to compare placements with."""
    known = [reading for reading in readings if reading.bandwidth]
    return sum(r.seconds(0.0) + n_seq * (r.seconds(1.0) - r.seconds(0.0)) for r in known)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
