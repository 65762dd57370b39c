#!/usr/bin/env python3
"""Compare the bytes that a plan foresees on each device with what llama.cpp says that it allocates.

    check_fit.py                    84 combinations: a table, and one JSON document as the last line
    check_fit.py --quick            a tenth of them

Files of the shapes of 7B, 13B, 34B and 70B, with holes for weights, are gone through by llama.cpp without
allocating anything. One to three devices are RPC servers on loopback, so no GPU is needed. Exits with 1 if
a device is off by more than 2 %.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from codellama.devices.machine import Machine, this_machine
from codellama.devices.planner import plan_load
from codellama.files.gguf_header import GGUFHeader
from codellama.native.backends import rpc_devices
from codellama.params import ModelConfig
from codellama.variants import find
from codellama.weights.planned import planned_header
from stand_ins.accounting import allocations, write_shaped
from stand_ins.workers import workers

MOST_OFF = 0.02
PLENTY = 2**40  # so that a plan does as it is asked
MODELS = (("7b", "Q4_0"), ("13b-instruct", "Q5_K_M"), ("34b", "Q8_0"), ("70b-instruct", "Q4_K_M"))
CONTEXTS: tuple[
    dict[str, Any], ...
] = (  # of a request, requests, types of keys and values, kind of attention
    {"n_ctx": 4096, "n_seq_max": 1, "flash_attn": "auto"},
    {"n_ctx": 16384, "n_seq_max": 1, "beyond_training": True},
    {"n_ctx": 2048, "n_seq_max": 4, "type_k": "q8_0", "type_v": "q8_0"},
    {"n_ctx": 1024, "n_seq_max": 8, "type_k": "q4_0", "type_v": "f16", "n_ubatch": 128},
    {"n_ctx": 512, "n_seq_max": 1, "flash_attn": "off"},
    {"n_ctx": 3000, "n_seq_max": 2, "n_batch": 1024, "n_ubatch": 1024},
    {"n_ctx": 2048, "n_seq_max": 2, "type_k": "f32", "type_v": "f32", "embeddings": True},
)


@dataclass(frozen=True)
class Case:
    """A model, the settings of its contexts, and how many devices get how much of it."""

    model: str
    type_name: str
    devices: int
    layers: int | str
    context: dict[str, Any]

    def __str__(self) -> str:
        context = " ".join(f"{value}" for value in self.context.values())
        return f"{self.model} {self.type_name}, {self.layers} layers on {self.devices}, {context}"


@dataclass(frozen=True)
class Row:
    """Bytes foreseen and taken, on one device of a case."""

    case: Case
    device: str
    planned: int
    taken: int

    @property
    def off(self) -> float:
        return abs(self.planned - self.taken) / max(1, self.taken)


def cases() -> Iterator[Case]:
    """Every model with every context, on one, two and three devices, with few, half and all layers."""
    several: list[tuple[int, int | str]] = [
        (1, "all"),
        (2, 20),
        (3, "all"),
        (0, 0),
        (2, "all"),
        (1, 7),
    ]
    wanted = itertools.cycle([*several, (3, 25)])
    for _ in range(3):
        for (model, type_name), context in itertools.product(MODELS, CONTEXTS):
            devices, layers = next(wanted)
            yield Case(model, type_name, devices, layers, context)
        next(wanted)


def compare(case: Case, header: GGUFHeader, path: Path, machine: Machine) -> list[Row]:
    """One row for each device that takes anything."""
    config = ModelConfig.of(n_gpu_layers=case.layers, **case.context)
    machine = replace(machine, gpus=machine.gpus[: case.devices])
    plan = plan_load(header, config, machine)
    contexts = [plan.model.context, *([plan.encoder] if plan.encoder else [])]
    taken = allocations(path, plan.model, contexts)
    return [
        Row(case, placed.device, placed.nbytes, taken.get(placed.device, 0))
        for placed in plan.model.placements
        if placed.nbytes or taken.get(placed.device)
    ]


def check(chosen: list[Case], folder: Path) -> list[Row]:
    """The rows of these cases; files are written to `folder`."""
    headers = {name: planned_header(_variant(name), kind) for name, kind in MODELS}
    paths = {name: write_shaped(h, folder / f"{name}.gguf") for name, h in headers.items()}
    with workers(max(case.devices for case in chosen)) as endpoints:
        lent = [
            replace(device, free_bytes=PLENTY)
            for endpoint in endpoints
            for device in rpc_devices(endpoint)
        ]
        machine = replace(
            this_machine(), gpus=tuple(lent), memory_bytes=PLENTY, available_bytes=PLENTY
        )
        return [
            row
            for case in chosen
            for row in compare(case, headers[case.model], paths[case.model], machine)
        ]


def _variant(name: str) -> Any:
    variant = find(name)
    assert variant is not None, name
    return variant


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the combinations.")
def main(quick: bool) -> None:
    """Compare planned with allocated bytes."""
    chosen = list(cases())[:: 10 if quick else 1]
    with tempfile.TemporaryDirectory(prefix="codellama-") as folder:
        rows = check(chosen, Path(folder))
    for case, group in itertools.groupby(rows, key=lambda row: str(row.case)):
        parts = [f"{r.device.split('[')[0]} {r.taken / 2**20:,.1f} {r.off:+.2%}" for r in group]
        click.echo(f"{case}: {'; '.join(parts)}")
    worst = max(row.off for row in rows)
    document = {"combinations": len(chosen), "devices": len(rows), "worst": round(worst, 5)}
    click.echo(f"worst of {len(rows)} devices in {len(chosen)} combinations: {worst:.2%}")
    click.echo(json.dumps(document))
    sys.exit(worst > MOST_OFF)


if __name__ == "__main__":
    main()
