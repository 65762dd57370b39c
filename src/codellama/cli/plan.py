"""`codellama plan`: what a conversion will give and cost, from headers alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.options import json_option
from codellama.cli.outputs import file_size, quant_options, quantizer_options, type_option

if TYPE_CHECKING:
    from codellama.weights.forecast import Forecast


@click.command("plan")
@click.argument("source")
@type_option(default="Q4_K_M")
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
@json_option
def command(
    source: str,
    types: tuple[str, ...],
    split_bytes: int | None,
    revision: str | None,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what converting SOURCE will give and cost.

    SOURCE is a checkpoint folder, a repository on the hub or a GGUF. Only headers are read. Sizes
    are exact to the byte; the time comes from measuring this machine for a second.
    """
    from codellama.weights.convert import RunSettings, make_forecast

    settings = RunSettings(
        threads=threads,
        split_bytes=split_bytes,
        revision=revision,
        options=quantizer_options(options),
    )
    found = make_forecast(source, types, settings)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
        return
    for line in lines(found, shutil.disk_usage(Path()).free):
        click.echo(line)


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
        f"{'memory':<12} {_size(found.peak_memory)} at most",
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
