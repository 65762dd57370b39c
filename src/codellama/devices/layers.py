"""Which layers of a model go to which device, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from codellama.devices import fit, sizes
from codellama.devices.sizes import size_text
from codellama.errors import UnsupportedError
from codellama.files.gguf_header import GGUFHeader
from codellama.native.library import Device
from codellama.params import Layers, ModelConfig

CPU = "CPU"


@dataclass(frozen=True)
class DeviceLayers:
    """So many layers of a model on one device, the output layer among them.

    `nbytes` are their weights and KV cache; on the CPU those of the token embedding too, and of a cache
    that stays there.
    """

    device: str
    layers: int
    nbytes: int


def place(
    header: GGUFHeader,
    config: ModelConfig,
    kv_bytes: int,
    gpus: Sequence[Device],
    setting: Literal["n_gpu_layers", "draft_gpu_layers"] = "n_gpu_layers",
) -> tuple[tuple[DeviceLayers, ...], str]:
    """The layers of every GPU, then those of the CPU; and the reason in words.

    `kv_bytes` are those of all caches on these layers. `setting` names the wish of `config`.
    Raises UnsupportedError if it is for GPU layers and there is no GPU.
    """
    wanted: Layers = getattr(config, setting)
    layers = sizes.layer_bytes(header)
    offloaded = kv_bytes if config.offload_kqv else 0
    if not gpus and wanted not in ("auto", 0):
        raise UnsupportedError(
            f"={wanted} was asked for, but this llama.cpp has no GPU backend or sees no GPU",
            f"set {{{setting}}} to auto or 0, or run scripts/setup on a machine with one",
            setting,
        )
    if not gpus:
        placement = fit.placed(layers, offloaded, 0)
    elif wanted == "auto":
        placement = fit.place_layers(layers, offloaded, [gpu.free_bytes for gpu in gpus])
    else:
        count = len(layers) if wanted == "all" else wanted
        placement = fit.placed(layers, offloaded, count)
    on_cpu = len(layers) - placement.n_gpu_layers
    spread = fit.spread(fit.with_cache(layers, offloaded)[on_cpu:], _shares(config, gpus))
    on_gpus = [
        DeviceLayers(gpu.name, n, nbytes)
        for gpu, (n, nbytes) in zip(gpus, spread, strict=True)
        if n
    ]
    rest = sizes.weight_bytes(header) - sum(layers) + kv_bytes - offloaded
    cpu = DeviceLayers(CPU, on_cpu, placement.cpu_bytes + rest)
    return (*on_gpus, cpu), _reason(wanted, on_gpus, len(layers), gpus)


def gpu_layers(placements: Sequence[DeviceLayers]) -> int:
    """Layers that are not on the CPU, the output layer among them."""
    return sum(p.layers for p in placements if p.device != CPU)


def without(gpus: Sequence[Device], placements: Sequence[DeviceLayers]) -> list[Device]:
    """The GPUs with what is left of their free bytes beside these layers and their scratch."""
    taken = {p.device: p.nbytes + fit.COMPUTE for p in placements}
    return [
        replace(gpu, free_bytes=max(0, gpu.free_bytes - taken.get(gpu.name, 0))) for gpu in gpus
    ]


def _shares(config: ModelConfig, gpus: Sequence[Device]) -> list[float]:
    """In what proportion llama.cpp spreads layers: as it is told, else by free memory."""
    if config.split_mode == "none":
        return [float(index == config.main_gpu) for index in range(len(gpus))]
    told = [*config.tensor_split, *[0.0] * len(gpus)][: len(gpus)]
    return told if any(told) else [float(gpu.free_bytes) for gpu in gpus]


def _reason(
    wanted: Layers, placed: Sequence[DeviceLayers], n_layers: int, gpus: Sequence[Device]
) -> str:
    if not gpus:
        return "all on the CPU: llama.cpp sees no GPU"
    if wanted == 0:
        return "all on the CPU, as asked for"
    where = ", ".join(f"{p.layers} of {n_layers} on {p.device}" for p in placed) or "all on the CPU"
    if wanted != "auto":
        return f"{where}, as asked for"
    free = " and ".join(f"{size_text(gpu.free_bytes)} on {gpu.name}" for gpu in gpus)
    margin = f"{size_text(fit.MARGIN + fit.COMPUTE)} margin" + (" each" if len(gpus) > 1 else "")
    return f"{where}: {free} are free, less {margin}"
