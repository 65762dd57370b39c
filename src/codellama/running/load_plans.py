"""The plans of a load, one after the other: the best first, then some that take less, if memory runs out.

A plan is made from what a device said to be free. Others may have taken it meanwhile, and a driver takes some
for itself, so it can turn out that there is less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from codellama.devices.fitting import MARGIN
from codellama.devices.machine import Machine, this_machine, with_measured_speeds
from codellama.devices.plan import LoadPlan
from codellama.devices.planner import plan_load
from codellama.errors import CodeLlamaError, ModelLoadError
from codellama.files.gguf_header import GGUFHeader
from codellama.params import ModelConfig
from codellama.running.adapter_files import AdapterFile, adapter_bytes
from codellama.running.opening import read_draft

T = TypeVar("T")
_LESS = (0.9, 0.75, 0.5, 0.0)  # of what the first plan takes on each GPU, after each failure
_LARGE = (
    2**30
)  # bytes of weights from which on it is worth a tenth of a second to know the memory's speed
_RAN_OUT = (
    "unable to allocate",
    "failed to allocate",
    "out of memory",
    "insufficient memory",
    "cannot allocate memory",
)


def memory_ran_out(error: CodeLlamaError) -> bool:
    """Whether llama.cpp failed because a device had too little memory, by its own words."""
    return any(words in str(error).lower() for words in _RAN_OUT)


def first_that_fits(tried: Iterable[LoadPlan], carry_out: Callable[[LoadPlan], T]) -> T:
    """Carry out the first plan; if memory runs out, the next, and so on: what came of it. Each is logged.

    Raises what the last one raised, and at once what is no lack of memory.
    """
    failure: ModelLoadError | None = None
    for plan in tried:
        plan.log(failure)
        try:
            return carry_out(plan)
        except ModelLoadError as error:
            if not memory_ran_out(error):
                raise
            failure = error
    assert failure is not None, "there is always a first plan"
    raise failure


def plans(
    header: GGUFHeader, config: ModelConfig, adapters: Sequence[AdapterFile] = ()
) -> Iterator[LoadPlan]:
    """Plans of this load on this machine, each of which takes less than those before.

    Raises what `plan_load` and `read_draft` raise for the first one.
    """
    draft, nbytes = read_draft(config), adapter_bytes(adapters)
    machine = measured(this_machine(config.rpc), header, config)
    plan = plan_load(header, config, machine, draft, nbytes)
    yield plan
    for other in _smaller(config, machine, plan):
        try:
            found = plan_load(header, other[0], other[1], draft, nbytes)
        except CodeLlamaError:
            return
        if _taken(found) != _taken(plan):
            plan = found
            yield plan


def measured(machine: Machine, header: GGUFHeader, config: ModelConfig) -> Machine:
    """The machine with the bandwidths of its memory and of workers, if the model's speed depends on them."""
    if sum(tensor.nbytes for tensor in header.tensors) < _LARGE:
        return machine
    return with_measured_speeds(machine, None if config.n_threads == "auto" else config.n_threads)


def _smaller(
    config: ModelConfig, machine: Machine, plan: LoadPlan
) -> Iterator[tuple[ModelConfig, Machine]]:
    if plan.model.host.way == "rearranged" and config.repack == "auto":
        config = replace(config, repack="off")
        yield config, machine
    for share in _LESS:
        taken = {placed.device: placed.nbytes for placed in plan.model.placements}
        gpus = [
            replace(gpu, free_bytes=round(MARGIN + share * taken.get(gpu.name, 0)))
            for gpu in machine.gpus
        ]
        yield config, replace(machine, gpus=tuple(gpus))


def _taken(plan: LoadPlan) -> tuple[object, ...]:
    parts = [plan.model, *([plan.draft] if plan.draft else [])]
    return tuple((part.placements, part.host.way) for part in parts)
