"""Which layers of a model go to which device, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from codellama.devices import fitting
from codellama.devices.placement import DeviceLayers, Split, Work, spread
from codellama.devices.sizes import ModelSizes, size_text
from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.native.backends import Device
from codellama.native.settings import ContextSettings
from codellama.params import Layers, ModelConfig

Setting = Literal["n_gpu_layers", "draft_gpu_layers"]


@dataclass(frozen=True)
class LayerChoice:
    """What goes where, and why; `warnings` are what somebody should act on."""

    work: Work
    split: Split
    reason: str
    warnings: tuple[str, ...] = ()

    @property
    def tensor_split(self) -> tuple[float, ...]:
        """What makes llama.cpp spread the layers like this; empty where there is nothing to spread."""
        counts = self.split.counts
        return tuple(map(float, counts)) if len(counts) > 1 and any(counts) else ()

    @property
    def host_tensors(self) -> tuple[str, ...]:
        """Which tensors of layers on GPUs stay in main memory, as regular expressions."""
        first = self.work.n_layers - self.split.n_gpu_layers
        numbers = "|".join(map(str, range(first, first + self.split.host_ffn)))
        return (rf"blk\.({numbers})\.ffn_(gate|up|down)\.weight",) if numbers else ()


def choose_layers(
    sizes: ModelSizes,
    contexts: Sequence[ContextSettings],
    config: ModelConfig,
    gpus: Sequence[Device],
    host_bandwidth: float = 0.0,
    setting: Setting = "n_gpu_layers",
) -> LayerChoice:
    """Where the layers of a model go. `setting` names the wish of `config`.

    Raises UnsupportedError if it is for GPU layers and there is no GPU, InvalidRequestError for a
    `main_gpu` that there is not.
    """
    wanted: Layers = getattr(config, setting)
    if not gpus and wanted not in ("auto", 0):
        raise UnsupportedError(
            f"={wanted} was asked for, but this llama.cpp has no GPU backend or sees no GPU",
            f"set {{{setting}}} to auto or 0, or run scripts/setup on a machine with one",
            setting,
        )
    work = Work(sizes, tuple(contexts), _usable(config, gpus), config.split_mode == "layer")
    nothing = Split((0,) * len(work.gpus))
    if not gpus:
        return LayerChoice(work, nothing, "all on the CPU: llama.cpp sees no GPU")
    if wanted == 0:
        return LayerChoice(work, nothing, "all on the CPU, as asked for")
    shares = _told(config, work.gpus)
    if wanted == "auto":
        return _automatic(work, shares, host_bandwidth)
    count = work.n_layers if wanted == "all" else min(wanted, work.n_layers)
    return _as_asked(work, count, shares, setting)


def without(gpus: Sequence[Device], placements: Sequence[DeviceLayers]) -> list[Device]:
    """The GPUs with what is left of their free bytes beside these layers."""
    taken = {p.device: p.nbytes for p in placements}
    return [
        replace(gpu, free_bytes=max(0, gpu.free_bytes - taken.get(gpu.name, 0))) for gpu in gpus
    ]


def _usable(config: ModelConfig, gpus: Sequence[Device]) -> tuple[Device, ...]:
    """All GPUs, or the one of `main_gpu` if the model is not split."""
    if config.split_mode != "none" or not gpus:
        return tuple(gpus)
    if config.main_gpu >= len(gpus):
        raise InvalidRequestError(
            "{param}={value}, but there are {n} GPUs, counted from 0",
            "main_gpu",
            value=config.main_gpu,
            n=len(gpus),
        )
    return (gpus[config.main_gpu],)


def _told(config: ModelConfig, gpus: Sequence[Device]) -> tuple[float, ...]:
    """The shares that were asked for; empty if there are none, or nothing to share."""
    told = (*config.tensor_split, *[0.0] * len(gpus))[: len(gpus)]
    return told if any(told) and len(gpus) > 1 else ()


def _automatic(work: Work, shares: Sequence[float], host_bandwidth: float) -> LayerChoice:
    plain = fitting.most_layers(work, shares)
    free = " and ".join(f"{size_text(gpu.free_bytes)} on {gpu.name}" for gpu in work.gpus)
    kept = f"{size_text(fitting.MARGIN)} kept free" + (" on each" if len(work.gpus) > 1 else "")
    numbers = f"{free} are free, {kept}"
    if plain.n_gpu_layers < work.n_layers and work.in_turn:
        other = fitting.attention_first(work, shares)
        if other is not None and fitting.quicker(work, plain, other, host_bandwidth):
            reason = (
                f"{_where(work, other)}, but the feed-forward matrices of {other.host_ffn} layers in main "
                f"memory, which is quicker than {plain.n_gpu_layers} whole layers: {numbers}"
            )
            return LayerChoice(work, other, reason)
    return LayerChoice(work, plain, f"{_where(work, plain)}: {numbers}")


def _as_asked(work: Work, count: int, shares: Sequence[float], setting: Setting) -> LayerChoice:
    split = fitting.distributed(work, count, shares)
    if split is None:
        free = [float(gpu.free_bytes) for gpu in work.gpus]
        split = Split(spread(count, shares or free))
    warnings = [
        f"layers: {p.layers} take {size_text(p.nbytes)} on {p.device}, of which "
        f"{size_text(gpu.free_bytes)} are free: {setting} auto takes as many as fit"
        for gpu, p in zip(work.gpus, work.placed(split), strict=False)
        if p.layers and p.nbytes > gpu.free_bytes
    ]
    return LayerChoice(work, split, f"{_where(work, split)}, as asked for", tuple(warnings))


def _where(work: Work, split: Split) -> str:
    """Such as "42 of 81 on CUDA0"."""
    found = [
        f"{count} of {work.n_layers} on {gpu.name}"
        for gpu, count in zip(work.gpus, split.counts, strict=True)
        if count
    ]
    return ", ".join(found) or "all on the CPU"
