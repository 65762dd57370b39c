"""How models would run, for the commands that tell of it: a table over types, or one line about a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cli import spelled

if TYPE_CHECKING:
    from codellama.devices.machine import Machine
    from codellama.devices.outlook import RunOutlook
    from codellama.files.gguf_header import GGUFHeader
    from codellama.params import ModelConfig
    from codellama.variants import Variant

TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K", "TQ1_0")
"""What the table has if no type is named: the usual types that need no importance matrix."""


def outlooks(
    variant: Variant, types: Sequence[str], config: ModelConfig, machine: Machine
) -> list[RunOutlook]:
    """How each of these types of a published model would run."""
    from codellama.devices.outlook import outlook
    from codellama.weights.planned import planned_header

    return [outlook(planned_header(variant, name), config, machine, name) for name in types]


def table(found: Sequence[RunOutlook]) -> list[str]:
    """Rows of the same columns under a heading, then why some do not run at all."""
    heading = ("type", "weights", "fits", "memory for running", "layers", "tokens/s", "prompt")
    rows: list[tuple[str, ...]] = [heading, *map(_row, found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    problems = [spelled(one.problem) for one in found if one.problem is not None]
    return [*lines, *dict.fromkeys(problems)]


def best_of(found: Sequence[RunOutlook]) -> RunOutlook | None:
    """The first that is on GPUs alone, or else the first that fits; None if none does."""
    fitting = [one for one in found if one.fits]
    return next((one for one in fitting if one.on_gpus), fitting[0] if fitting else None)


def _row(found: RunOutlook) -> tuple[str, ...]:
    from codellama.devices.sizes import size_text

    if found.plan is None:
        return (found.name, size_text(found.weight_bytes), "no", "", "", "", "")
    model = found.plan.model
    memory = " + ".join(f"{size_text(p.nbytes)} {_short(p.device)}" for p in model.placements)
    layers = " + ".join(str(p.layers) for p in model.placements)
    speed = model.expected
    ffn = ", feed-forward partly in main memory" if model.weights.host_tensors else ""
    return (
        found.name,
        size_text(found.weight_bytes),
        "yes" if found.fits else "no, disk",
        memory,
        layers + ffn,
        f"{speed.decode:.2g}"
        if speed and speed.decode < 10
        else f"{speed.decode:.0f}"
        if speed
        else "?",
        f"{speed.prompt:.0f}" if speed else "?",
    )


def machine_line(machine: Machine) -> str:
    """The machine in one line: sizes and bandwidths."""
    from codellama.devices.sizes import size_text

    parts = [
        f"{gpu.name}{_at(gpu.endpoint)} {size_text(gpu.free_bytes)}{_speed(gpu.bandwidth)}"
        for gpu in machine.gpus
    ]
    return ", ".join([*parts, f"main memory {size_text(machine.room)}{_speed(machine.bandwidth)}"])


def verdict(header: GGUFHeader, config: ModelConfig | None = None) -> str:
    """How the file with this header would run on this machine, one request at a time: one line."""
    from codellama.devices.outlook import outlook
    from codellama.params import ModelConfig

    config = config or ModelConfig(n_seq_max=1)
    return outlook(header, config, here(config.rpc), str(header.path)).verdict


def file_verdict(path: Path) -> str:
    """The same of a file on this machine; why it would not load, if it would not."""
    from codellama.errors import ModelLoadError
    from codellama.files.loadable import read_model

    try:
        return verdict(read_model(path))
    except ModelLoadError as error:
        return f"does not run: {error}"


def here(rpc: Sequence[str] = ()) -> Machine:
    """This machine and what others lend it, with the bandwidths of their memories measured."""
    from codellama.devices.machine import this_machine, with_measured_speeds

    return with_measured_speeds(this_machine(rpc))


def document(found: Sequence[RunOutlook], machine: Machine, **more: Any) -> dict[str, Any]:
    """The table as one JSON object."""
    return {
        **more,
        "machine": {
            "devices": [
                {"name": g.name, "free_bytes": g.free_bytes, "bandwidth": g.bandwidth}
                for g in machine.gpus
            ],
            "host_bytes": machine.room,
            "host_bandwidth": machine.bandwidth,
        },
        "types": [one.to_json() for one in found],
    }


def _short(device: str) -> str:
    return "main" if device == "CPU" else device


def _speed(bandwidth: float) -> str:
    return f" at {bandwidth / 1e9:.0f} GB/s" if bandwidth else ""


def _at(endpoint: str) -> str:
    return f" at {endpoint}" if endpoint else ""
