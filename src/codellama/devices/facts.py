"""Looks at this machine for `doctor`: versions, backends, devices, memory and its speed, in a second."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from codellama.devices.bandwidth import known_bandwidth
from codellama.devices.doctor import MachineFacts
from codellama.devices.machine import Machine, this_machine, with_measured_workers
from codellama.devices.processors import choose_threads
from codellama.kernels.library import MissingLanesError, lanes
from codellama.native.backends import backend_names, devices
from codellama.native.bandwidth import read_bandwidth
from codellama.native.library import library

_MAKERS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
_PROGRAMS = ("nvcc", "nvidia-smi", "hipcc", "glslc", "vulkaninfo")
_VARIABLES = ("GGML_CUDA_ENABLE_UNIFIED_MEMORY", "LLAMA_ATTN_ROT_DISABLE", "CUDA_VISIBLE_DEVICES")
_MEASURING_S = 1.0


def gather(rpc: Sequence[str] = ()) -> MachineFacts:
    """The facts of this machine, with the devices that others lend at the endpoints `rpc`."""
    lib = library()
    machine = with_measured_workers(this_machine(rpc))
    lent = [device for device in machine.gpus if device.endpoint]
    here = [replace(d, bandwidth=known_bandwidth(d.description)) for d in devices()]
    return MachineFacts(
        versions={
            "codellama-runtime": metadata.version("codellama-runtime"),
            "llama-cpp-python": lib.version,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
        pinned=_pinned(),
        backends=backend_names(),
        devices=(*lent, *here),
        features=lib.features,
        machine=replace(machine, bandwidth=memory_bandwidth(machine)),
        cards=_cards(Path("/sys/bus/pci/devices")),
        programs=frozenset(name for name in _PROGRAMS if shutil.which(name)),
        lanes=_has_lanes(),
        environment={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        processor_features=_processor_features(),
    )


def memory_bandwidth(machine: Machine) -> float:
    """Bytes a second that the machine's cores read from memory together; takes a second."""
    return read_bandwidth(choose_threads(machine.processors).n, _MEASURING_S)


def _has_lanes() -> bool:
    """Whether the quantizers in lanes were built for this processor."""
    try:
        lanes()
    except MissingLanesError:
        return False
    return True


def _pinned() -> str:
    """The version of llama-cpp-python that this package asks for."""
    for requirement in metadata.requires("codellama-runtime") or ():
        found = re.match(r"llama-cpp-python==([0-9.]+)", requirement)
        if found:
            return found[1]
    return ""


def _cards(folder: Path) -> frozenset[str]:
    """The makers of the display controllers that Linux shows."""
    found = set()
    for device in folder.glob("*") if folder.is_dir() else ():
        try:
            if (device / "class").read_text().startswith("0x03"):
                found.add(_MAKERS.get((device / "vendor").read_text().strip(), ""))
        except OSError:
            continue
    return frozenset(found - {""})


@functools.cache
def _processor_features() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split() if found else ())
