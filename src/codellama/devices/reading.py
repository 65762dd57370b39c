"""What devices read for a token, and what share of their bandwidth a measured speed is. Pure.

Sizes are in bytes, bandwidths in bytes a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codellama.devices.placement import CPU
from codellama.devices.plan import ModelPlan
from codellama.devices.sizes import model_sizes
from codellama.files.gguf_header import GGUFHeader


@dataclass(frozen=True)
class DeviceBytes:
    """What a device reads in a step: its weights once, and what is filled of each stream's cache."""

    device: str
    weights: int
    cache: int

    def of_step(self, streams: int) -> int:
        """All of it."""
        return self.weights + streams * self.cache


def bytes_read(plan: ModelPlan, header: GGUFHeader, filled: float) -> list[DeviceBytes]:
    """What each device of `plan`, made from `header`, reads in a step, with `filled` tokens in every cache.

    All weights count but those of the token embedding, of which a step reads one row for each stream.
    """
    embedding = model_sizes(header).embedding
    cached = plan.kv_bytes_per_cell * filled
    return [
        DeviceBytes(
            device=placed.device,
            weights=placed.weights - (embedding if placed.device == CPU else 0),
            cache=round(cached * placed.kv / plan.kv_bytes),
        )
        for placed in plan.placements
    ]


def bandwidth_share(
    read: Sequence[DeviceBytes], bandwidths: Mapping[str, float], streams: int, rate: float
) -> float | None:
    """The share of the bandwidth that `streams` answers use which together get `rate` tokens a second.

    It is bytes read for a token x tokens a second / bandwidth. Devices read one after the other, so their
    seconds add up. None where the bandwidth of one is not known. It may exceed 1 where a processor's cache
    holds the weights.
    """
    seconds = 0.0
    for device in read:
        nbytes = device.of_step(streams)
        if not nbytes:
            continue
        bandwidth = bandwidths.get(device.device, 0.0)
        if not bandwidth:
            return None
        seconds += nbytes / bandwidth
    return seconds * rate / streams
