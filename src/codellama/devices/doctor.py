"""What is known of a machine and its llama.cpp, what is wrong with them, and the command that mends it. Pure;
`facts` looks at the real one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from codellama.devices.machine import Machine
from codellama.devices.processors import choose_threads
from codellama.devices.sizes import size_text
from codellama.native.backends import Device

GPU_BACKENDS = ("CUDA", "ROCm", "HIP", "Vulkan", "MTL", "Metal", "SYCL")
SOFTWARE_RENDERERS = ("llvmpipe", "lavapipe", "swiftshader", "software")
_SET_UP = "scripts/setup"


@dataclass(frozen=True)
class MachineFacts:
    """`cards` are the makers of the graphics cards that the system shows, nvidia, amd or intel. `programs`
    are those of a tool kit that were found. `pinned` is the version of llama-cpp-python that this package
    was made for.
    """

    versions: Mapping[str, str]
    pinned: str
    backends: tuple[str, ...]
    devices: tuple[Device, ...]
    features: str
    machine: Machine
    cards: frozenset[str] = frozenset()
    programs: frozenset[str] = frozenset()
    lanes: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    processor_features: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Problem:
    """What is wrong, in a sentence, and the command that mends it."""

    text: str
    command: str


def diagnose(facts: MachineFacts) -> list[Problem]:
    """Everything that is wrong, what costs most first."""
    return [*_build_problems(facts), *_device_problems(facts), *_small_problems(facts)]


def _build_problems(facts: MachineFacts) -> Iterator[Problem]:
    built = set(facts.backends) & set(GPU_BACKENDS)
    if "nvidia" in facts.cards and not built & {"CUDA", "Vulkan"}:
        first = "" if "nvcc" in facts.programs else "apt-get install nvidia-cuda-toolkit && "
        yield Problem(
            "an NVIDIA GPU is here, but llama.cpp was built without CUDA, so nothing runs on it",
            f"{first}CODELLAMA_BACKEND=cuda {_SET_UP}",
        )
    if "amd" in facts.cards and not built & {"ROCm", "HIP", "Vulkan"}:
        backend = "hip" if "hipcc" in facts.programs else "vulkan"
        yield Problem(
            "an AMD GPU is here, but llama.cpp was built without a backend for it",
            f"CODELLAMA_BACKEND={backend} {_SET_UP}",
        )
    version = facts.versions.get("llama-cpp-python", "")
    if facts.pinned and version != facts.pinned:
        yield Problem(
            f"llama-cpp-python {version} is installed, this package was made for {facts.pinned}",
            _SET_UP,
        )
    if "avx2" in facts.processor_features and "AVX2 = 1" not in facts.features:
        yield Problem("llama.cpp was built without the AVX2 that this processor has", _SET_UP)
    if "RPC" not in facts.backends:
        yield Problem(
            "llama.cpp was built without RPC: no other machine can lend its memory", _SET_UP
        )


def _device_problems(facts: MachineFacts) -> Iterator[Problem]:
    gpus = [device for device in facts.devices if device.kind in ("gpu", "igpu")]
    for backend in sorted(set(facts.backends) & set(GPU_BACKENDS)):
        if any(device.backend == backend for device in gpus):
            continue
        mend = "nvidia-smi" if backend == "CUDA" and "nvidia" in facts.cards else ""
        yield Problem(
            f"built with {backend}, no device"
            + (": its driver does not show the card" if mend else ""),
            mend or f"CODELLAMA_BACKEND=cpu {_SET_UP}",
        )
    for device in gpus:
        if any(name in device.description.lower() for name in SOFTWARE_RENDERERS):
            yield Problem(
                f"{device.name} is a software renderer ({device.description}): the CPU's own code is faster",
                f"CODELLAMA_BACKEND=cpu {_SET_UP}",
            )
        elif device.total_bytes == 0:
            yield Problem(
                f"{device.name} tells nothing of its memory: no layers are planned for it",
                "CODELLAMA_N_GPU_LAYERS=NUMBER codellama serve MODEL",
            )


def _small_problems(facts: MachineFacts) -> Iterator[Problem]:
    if not facts.lanes:
        yield Problem(
            "the quantizers in lanes were not built: converting takes ten times as long",
            f"apt-get install g++ && {_SET_UP}",
        )
    if facts.environment.get("GGML_CUDA_ENABLE_UNIFIED_MEMORY"):
        yield Problem(
            "with GGML_CUDA_ENABLE_UNIFIED_MEMORY a model that does not fit a GPU crawls and no load fails",
            "unset GGML_CUDA_ENABLE_UNIFIED_MEMORY",
        )
    if facts.environment.get("LLAMA_ATTN_ROT_DISABLE", "0") != "0":
        yield Problem(
            "with LLAMA_ATTN_ROT_DISABLE quantized KV caches lose quality, and contexts cannot shift",
            "unset LLAMA_ATTN_ROT_DISABLE",
        )
    room, total = facts.machine.room, facts.machine.memory_bytes
    if room < total // 4:
        yield Problem(
            f"only {size_text(room)} of {size_text(total)} of memory are free",
            "ps aux | sort -rnk 4 | head",
        )


def facts_json(facts: MachineFacts, problems: list[Problem]) -> dict[str, Any]:
    """As one JSON object; sizes in bytes, bandwidths in bytes a second."""
    threads = choose_threads(facts.machine.processors)
    return {
        "versions": dict(facts.versions),
        "backends": list(facts.backends),
        "devices": [
            {
                "name": device.name,
                "description": device.description,
                "kind": device.kind,
                "backend": device.backend,
                "endpoint": device.endpoint or None,
                "free_bytes": device.free_bytes,
                "total_bytes": device.total_bytes,
                "bandwidth": round(device.bandwidth) or None,
            }
            for device in facts.devices
        ],
        "memory_bytes": facts.machine.memory_bytes,
        "available_bytes": facts.machine.room,
        "memory_bandwidth": round(facts.machine.bandwidth),
        "cores": len(facts.machine.processors.cores),
        "processors": facts.machine.processors.n_cpus,
        "threads": {"n": threads.n, "reason": threads.reason},
        "rearranges": sorted(facts.machine.rearranges),
        "cpu_features": facts.features.strip(),
        "problems": [{"text": problem.text, "command": problem.command} for problem in problems],
    }
