"""How a model would run on a machine, before it is there: what fits, where it lies, how fast it is. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from codellama.devices.machine import Machine
from codellama.devices.placement import CPU
from codellama.devices.plan import LoadPlan
from codellama.devices.planner import plan_load
from codellama.devices.sizes import size_text, weight_bytes
from codellama.errors import CodeLlamaError, InvalidRequestError
from codellama.files.gguf_header import GGUFHeader
from codellama.native.backends import Device
from codellama.params import ModelConfig

_UNITS = {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_MEMORY = re.compile(
    r"(?P<size>\d+(?:\.\d+)?)(?P<unit>[MGT]i?B)(?:@(?P<speed>\d+(?:\.\d+)?)(?P<rate>[MGT]i?B)/s)?"
)


@dataclass(frozen=True)
class RunOutlook:
    """How one file would run. `plan` is None where it would not load, `problem` is why."""

    name: str
    weight_bytes: int
    plan: LoadPlan | None
    problem: CodeLlamaError | None = None

    @property
    def fits(self) -> bool:
        """Whether it runs without waiting for the disk."""
        return self.plan is not None and self.plan.model.host.fits

    @property
    def on_gpus(self) -> bool:
        """Whether all layers are on GPUs."""
        return self.plan is not None and not self.plan.model.placements[-1].layers

    @property
    def verdict(self) -> str:
        """One line for people."""
        if self.plan is None:
            return f"does not run: {self.problem}"
        model = self.plan.model
        layers = [f"{p.layers} layers on {p.device}" for p in model.placements if p.layers]
        memory = [f"{size_text(p.nbytes)} of {_place(p.device)}" for p in model.placements]
        speed = f", {model.expected}" if model.expected else ""
        slow = next((w for w in self.plan.warnings if w.startswith("memory: ")), "")
        if not self.fits:
            return f"does not fit: {slow.removeprefix('memory: ')}"
        return f"runs: {', '.join(layers)}, takes {' and '.join(memory)}{speed}"

    def to_json(self) -> dict[str, Any]:
        """As one JSON object; sizes are in bytes."""
        return {
            "type": self.name,
            "weight_bytes": self.weight_bytes,
            "fits": self.fits,
            "problem": str(self.problem) if self.problem else None,
            "plan": self.plan.to_json() if self.plan else None,
        }


def outlook(
    header: GGUFHeader, config: ModelConfig, machine: Machine, name: str = ""
) -> RunOutlook:
    """How the file with this header would run."""
    nbytes = weight_bytes(header)
    try:
        return RunOutlook(name, nbytes, plan_load(header, config, machine))
    except CodeLlamaError as error:
        return RunOutlook(name, nbytes, None, error)


def parse_memory(text: str, param: str) -> tuple[int, float]:
    """Bytes, and bytes a second, of a text such as 24GiB@1008GB/s; 0 where it says nothing of speed.

    Raises InvalidRequestError naming `param`.
    """
    found = _MEMORY.fullmatch(text.replace(" ", ""))
    if not found:
        raise InvalidRequestError(
            "{param}: {text!r} is not a size and a bandwidth such as 24GiB@1008GB/s",
            param,
            text=text,
        )
    speed = float(found["speed"] or 0) * _UNITS.get(found["rate"] or "GB", 0)
    return int(float(found["size"]) * _UNITS[found["unit"]]), speed


def made_up_machine(devices: tuple[str, ...], host: str | None, here: Machine) -> Machine:
    """The machine with GPUs and main memory of these sizes; what is not said is as it is `here`.

    With only main memory given it has no GPU. Raises InvalidRequestError for a text that is no size.
    """
    gpus = []
    for index, text in enumerate(devices):
        size, speed = parse_memory(text, "devices")
        gpus.append(
            Device(
                f"GPU{index}", text, "gpu", size, size, "CUDA", host_buffer=True, bandwidth=speed
            )
        )
    if host is None:
        return Machine(
            here.memory_bytes,
            tuple(gpus),
            here.rotates_keys,
            here.available_bytes,
            here.rearranges,
            here.bandwidth,
        )
    size, speed = parse_memory(host, "host")
    return Machine(size, tuple(gpus), bandwidth=speed)


def _place(device: str) -> str:
    return "main memory" if device == CPU else device
