"""What a machine has for a model: memory, GPUs, and how its llama.cpp stores quantized keys.

`this_machine` is the one look at the real one; everything that is planned takes a `Machine`, which can as
well be made up.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from codellama.native.library import Device, library
from codellama.system import memory_bytes


@dataclass(frozen=True)
class Machine:
    """`memory_bytes` is the main memory, used or not; `gpus` are in llama.cpp's order.

    llama.cpp stores quantized keys rotated, in blocks of 64, unless its environment forbids it.
    """

    memory_bytes: int
    gpus: tuple[Device, ...] = ()
    rotates_keys: bool = True


def this_machine() -> Machine:
    """The machine as it is now. Raises UnsupportedError if llama.cpp cannot list its devices."""
    return Machine(
        memory_bytes=memory_bytes(),
        gpus=tuple(library().gpus()),
        rotates_keys=os.environ.get("LLAMA_ATTN_ROT_DISABLE", "0") == "0",
    )
