"""How weights lie in main memory: mapped from the file, rearranged in a copy, locked, or read. Pure.

What is mapped can leave memory and come back from the disk; it need not fit. A copy that the CPU's code has
rearranged cannot, nor can caches and scratch. So weights are rearranged only where all of it fits at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codellama.devices.sizes import size_text
from codellama.errors import InvalidRequestError
from codellama.params import ModelConfig

Way = Literal["mapped", "rearranged", "locked", "read"]
SYSTEM = 2**29  # left for the program itself and for what else the machine does
DISK = 1e9  # bytes a second, where nobody has measured the disk


@dataclass(frozen=True)
class HostUse:
    """Main memory that a model takes, in bytes: `pinned` cannot leave it, `mapped` can.

    `room` is what there is.

    `rearranged` is the part of `pinned` that is a rearranged copy of weights.
    """

    way: Way
    pinned: int
    mapped: int
    room: int
    rearranged: int = 0

    @property
    def fits(self) -> bool:
        """Whether all of it stays in memory, so that no token waits for the disk."""
        return self.pinned + self.mapped <= self.room

    def __str__(self) -> str:
        words = {
            "mapped": "mapped from the file",
            "rearranged": f"{size_text(self.rearranged)} rearranged, the rest mapped",
            "locked": "locked in memory",
            "read": "read into memory",
        }
        return words[self.way]


def host_use(
    config: ModelConfig, weights: int, rearranged: int, others: int, room: int
) -> tuple[HostUse, str]:
    """How `weights` in main memory are kept, of which `rearranged` could be, beside caches and scratch, which
    are `others`; and why. `room` is what is free.

    Raises InvalidRequestError if a way that was asked for does not fit.
    """
    everything = weights + others
    tight = everything > room - SYSTEM
    if config.use_mlock:
        _demand("use_mlock", everything, room - SYSTEM)
        return HostUse("locked", everything, 0, room), "locked in memory, as asked for"
    if not config.use_mmap:
        _demand("use_mmap", everything, room)
        return HostUse("read", everything, 0, room), "read into memory, as asked for"
    mapped = HostUse("mapped", others, weights, room)
    if not rearranged or config.repack == "off":
        why = (
            "as asked for"
            if rearranged
            else "nothing in it is of a type that is rearranged, or a GPU borrows it"
        )
        return mapped, f"mapped: {why}"
    if config.repack == "on":
        _demand("repack", rearranged + others, room)
    if tight and config.repack == "auto":
        need = f"{size_text(everything)} with caches and scratch"
        return mapped, f"mapped: rearranged weights cannot leave memory, and {need} do not fit"
    copied = HostUse("rearranged", others + rearranged, weights - rearranged, room, rearranged)
    why = "as asked for" if config.repack == "on" else "all of it fits the free memory"
    return copied, f"{size_text(rearranged)} of weights rearranged: {why}"


def _demand(setting: str, need: int, room: int) -> None:
    if need > room:
        raise InvalidRequestError(
            "{param}: {need} of main memory are needed, {room} are free",
            setting,
            "leave it out: weights that are mapped need not fit",
            need=size_text(need),
            room=size_text(max(0, room)),
        )
