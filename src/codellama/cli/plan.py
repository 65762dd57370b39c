"""`codellama plan`: how a model will run, and what converting one will give and cost, from headers alone."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from codellama.cli import outlooks
from codellama.cli.options import json_option, model_config, running_options
from codellama.cli.outputs import file_size, quant_options, quantizer_options, type_option
from codellama.models import DEMO, demo_checkpoint, find_variant, resolve_model
from codellama.params import ModelConfig

if TYPE_CHECKING:
    from codellama.devices.machine import Machine
    from codellama.variants import Variant
    from codellama.weights.forecast import Forecast


_FROM_DISK = "No type fits: weights would come from the disk for every token."


@click.command("plan")
@click.argument("source")
@type_option(default="Q4_K_M")
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="SIZE[@BANDWIDTH]",
    show_envvar=True,
    help="A GPU of another machine, such as 24GiB@1008GB/s. Repeatable. [default: this machine's]",
)
@click.option(
    "--host",
    metavar="SIZE[@BANDWIDTH]",
    show_envvar=True,
    help="Main memory of another machine, such as 64GiB@90GB/s. [default: this machine's]",
)
@click.option(
    "--split-max-size",
    "split_bytes",
    callback=file_size,
    metavar="SIZE",
    show_envvar=True,
    help="As of convert.",
)
@click.option(
    "--revision", show_envvar=True, help="Branch, tag or commit on the hub. [default: main]"
)
@click.option(
    "-t",
    "--threads",
    type=click.IntRange(min=1),
    show_envvar=True,
    help="Threads that will quantize. [default: one per core]",
)
@quant_options
@running_options
@json_option
def command(
    source: str,
    types: tuple[str, ...],
    devices: tuple[str, ...],
    host: str | None,
    split_bytes: int | None,
    revision: str | None,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say how SOURCE will run, and what converting it will give and cost.

    SOURCE is a published model such as 70b-instruct: then a table over types says what fits, how many layers
    go where and what speed to expect, on this machine or on the one described. That needs no network and
    no file, and one request at a time is planned for unless --parallel says more.

    Or SOURCE is a checkpoint folder, a repository on the hub, a GGUF or the name of one here, or demo. Only
    headers are read. Sizes are exact to the byte; the time comes from measuring this machine for a second.
    """
    from codellama.devices.outlook import made_up_machine

    ctx = click.get_current_context()
    config = ModelConfig.of(**model_config(options, n_seq_max=1))
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    conversion = {name: value for name, value in options.items() if name not in names}
    machine = outlooks.here(config.rpc)
    if devices or host:
        machine = made_up_machine(devices, host, machine)
    base, _, kind = source.partition(":")
    variant = None if "/" in base or Path(source).exists() else find_variant(base)
    if variant is not None:
        chosen = ctx.get_parameter_source("types") is not ParameterSource.DEFAULT
        wanted = (kind,) if kind else types if chosen else outlooks.TYPES
        _tell_running(variant, wanted, config, machine, as_json=as_json)
        return
    from codellama.weights.convert import RunSettings, make_forecast

    settings = RunSettings(
        threads=threads,
        split_bytes=split_bytes,
        revision=revision,
        options=quantizer_options(conversion),
    )
    found = make_forecast(_meant(source), types, settings)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
        return
    for line in lines(found, shutil.disk_usage(Path()).free):
        click.echo(line)
    for line in _verdicts(found, config, machine):
        click.echo(line)


def _meant(source: str) -> str:
    """What is planned for: a name that is neither a path nor a repository's is one of the models here."""
    if "/" in source or Path(source).exists():
        return source
    return os.fspath(demo_checkpoint() if source == DEMO else resolve_model(source))


def _tell_running(
    variant: Variant,
    types: Sequence[str],
    config: ModelConfig,
    machine: Machine,
    *,
    as_json: bool,
) -> None:
    """The table of a published model."""
    found = outlooks.outlooks(variant, types, config, machine)
    n_ctx = config.n_ctx or variant.n_ctx
    if as_json:
        more = {"model": variant.name, "n_ctx": n_ctx, "n_seq_max": config.n_seq_max}
        click.echo(json.dumps(outlooks.document(found, machine, **more), indent=2))
        return
    click.echo(
        f"{variant.name} with {config.n_seq_max} x {n_ctx} tokens on {outlooks.machine_line(machine)}"
    )
    for line in outlooks.table(found):
        click.echo(line)
    best = outlooks.best_of(found)
    if best is None:
        click.echo("No type fits: see above." if any(one.problem for one in found) else _FROM_DISK)
        return
    click.echo(f"{best.name} {best.verdict}")
    for warning in best.plan.warnings if best.plan else ():
        click.echo(f"Warning: {warning}", err=True)


def _verdicts(found: Forecast, config: ModelConfig, machine: Machine) -> list[str]:
    """How each output will run; nothing of one that llama.cpp would not load as a model."""
    from codellama.devices.outlook import outlook
    from codellama.weights.planned import header_of

    return [
        f"{'running':<12} {plan.type_name} "
        + outlook(header_of(plan, found.metadata), config, machine).verdict
        for plan in found.plans
    ]


def lines(found: Forecast, free: int) -> list[str]:
    """The forecast for people; `free` are the bytes of disk that there are."""
    from codellama.kernels.quantizers import described

    text = []
    for plan in found.plans:
        types = ", ".join(f"{count} {name}" for name, count in plan.types.items())
        files = f" in {len(plan.files)} files" if len(plan.files) > 1 else ""
        text.append(f"{plan.type_name:<12} {plan.nbytes:,} bytes{files} ({types})")
    short = "" if found.peak_disk <= free else f", {_size(free)} are free here"
    text += [
        f"{'download':<12} {_size(found.download_bytes)}",
        f"{'disk':<12} {_size(found.peak_disk)} at most{short}",
        f"{'converting':<12} takes {_size(found.peak_memory)} of memory at most",
        f"{'time':<12} {_time(found.seconds)} on this machine's cores",
        f"{'quantizers':<12} {described(found.quantizers)}",
    ]
    return text


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
