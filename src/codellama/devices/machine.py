"""What a machine has for a model: memory, GPUs, processors, and what llama.cpp does with weights and keys.

`this_machine` is the one look at the real one; everything that is planned takes a `Machine`, which can as
well be made up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from codellama.devices.bandwidth import known_bandwidth
from codellama.devices.host_memory import host_memory
from codellama.devices.processors import ONE_CORE, Processors, choose_threads, this_processors
from codellama.devices.speed import GPU_SHARE
from codellama.native.backends import Device, offload_devices, rpc_devices
from codellama.native.bandwidth import read_bandwidth
from codellama.native.library import library
from codellama.native.rpc_speed import measure_worker

REARRANGED_ON_X86 = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})


@dataclass(frozen=True)
class Machine:
    """`memory_bytes` is the main memory, used or not, `available_bytes` what is free of it (None: all).

    `gpus` are in the order in which llama.cpp fills them. `rearranges` are the types of weights that
    llama.cpp's CPU code keeps in a copy of another order, which is quicker and cannot be paged out.
    Bandwidths are in bytes a second, of the main memory and of the disk, 0 where nobody knows them.
    `processors` are those that this process may use.

    llama.cpp stores quantized keys rotated, in blocks of 64, unless its environment forbids it.
    """

    memory_bytes: int
    gpus: tuple[Device, ...] = ()
    rotates_keys: bool = True
    available_bytes: int | None = None
    rearranges: frozenset[str] = field(default=REARRANGED_ON_X86)
    bandwidth: float = 0.0
    disk_bandwidth: float = 0.0
    processors: Processors = ONE_CORE

    @property
    def room(self) -> int:
        """Bytes of main memory that a model can have."""
        return self.memory_bytes if self.available_bytes is None else self.available_bytes


def this_machine(rpc: Sequence[str] = ()) -> Machine:
    """The machine as it is now, with the devices that others lend it at the endpoints `rpc`.

    Those come first, as llama.cpp has them, so that what follows them stays on this machine. Raises
    UnsupportedError if llama.cpp cannot list its devices, and what `rpc_devices` raises.
    """
    lib = library()
    memory = host_memory()
    lent = [device for endpoint in rpc for device in rpc_devices(endpoint)]
    gpus = [
        replace(device, bandwidth=known_bandwidth(device.description))
        for device in (*lent, *offload_devices())
    ]
    return Machine(
        memory_bytes=memory.total,
        gpus=tuple(gpus),
        rotates_keys=os.environ.get("LLAMA_ATTN_ROT_DISABLE", "0") == "0",
        available_bytes=memory.available,
        rearranges=rearranged_types(lib.features),
        processors=this_processors(),
    )


def with_measured_workers(machine: Machine) -> Machine:
    """The machine with the speed of what others lend, and of the way there; half a second for each device."""
    return replace(machine, gpus=tuple(map(_measured, machine.gpus)))


def with_measured_speeds(machine: Machine, n_threads: int | None = None) -> Machine:
    """The same with the bandwidth of its own memory too, as so many threads read it (None: as many as a model
    begins to answer with)."""
    n = n_threads or choose_threads(machine.processors).n
    return with_measured_workers(replace(machine, bandwidth=read_bandwidth(n)))


def _measured(device: Device) -> Device:
    speed = measure_worker(device) if device.endpoint else None
    if speed is None:
        return device
    # Of a bandwidth only a share is reached, which what was measured has in it already.
    bandwidth = device.bandwidth or speed.memory / GPU_SHARE
    return replace(device, bandwidth=bandwidth, latency=speed.latency, network=speed.network)


def rearranged_types(features: str) -> frozenset[str]:
    """The types of weights that llama.cpp's CPU code rearranges, by what it says that it was built with.

    From `ggml_repack_get_optimal_repack_type` in ggml-cpu/repack.cpp, and ggml-cpu/amx/amx.cpp.
    """
    has = {part.strip().removesuffix(" = 1") for part in features.replace(":", "|").split("|")}
    found: set[str] = set()
    if "REPACK" in has and "AVX2" in has:
        found |= REARRANGED_ON_X86
    if "REPACK" in has and "AVX512" in has:
        found |= {"Q2_K"}
    if "REPACK" in has and "NEON" in has:
        found |= {*REARRANGED_ON_X86, "Q5_K", "Q6_K", "Q8_0", "Q1_0"}
    if "AMX_INT8" in has:
        found |= {"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "F16"}
    return frozenset(found)
