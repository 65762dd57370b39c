"""`codellama convert`: a Hugging Face checkpoint to a GGUF of any type, in one pass."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codellama.cli.options import json_option
from codellama.errors import ConversionError

if TYPE_CHECKING:
    from codellama.weights.convert import Report


def file_type(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Callback of --type: a name of llama.cpp's, in any case; anything else is bad usage."""
    from codellama.weights.recipe import resolve_type

    try:
        return resolve_type(value)
    except ConversionError as error:
        raise click.BadParameter(str(error), ctx=ctx, param=param) from error


output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    show_envvar=True,
    help="The GGUF file to write.",
)
force_option = click.option(
    "-f", "--force", is_flag=True, show_envvar=True, help="Replace OUTPUT if it exists."
)
threads_option = click.option(
    "-t",
    "--threads",
    type=click.IntRange(min=1),
    show_envvar=True,
    help="Threads that quantize. [default: one per core]",
)


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@output_option
@click.option(
    "--type",
    "type_name",
    default="BF16",
    show_default=True,
    show_envvar=True,
    callback=file_type,
    help="Any type llama.cpp quantizes to, such as Q4_K_M, Q8_0, BF16 or F16.",
)
@force_option
@threads_option
@json_option
def command(
    source: Path, output: Path, type_name: str, force: bool, threads: int | None, as_json: bool
) -> None:
    """Convert the checkpoint in the folder SOURCE to a GGUF, quantized on the way.

    SOURCE holds config.json, tokenizer.model and safetensors files, as downloaded from Hugging
    Face. The result is byte for byte what llama.cpp's converter and quantizer make together, but
    no file in between is written and only some megabytes are held in memory.
    """
    from codellama.weights.convert import convert

    with progress_bar(f"{source.name} to {type_name}") as progress:
        report = convert(source, output, type_name, force=force, threads=threads, progress=progress)
    print_report(report, as_json=as_json)


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr with bytes, rate and time left; None when stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_report(report: Report, *, as_json: bool) -> None:
    """Say what was written: one JSON object, or one line for people."""
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return
    types = ", ".join(f"{count} {name}" for name, count in report.types.items())
    click.echo(
        f"{report.path}: {report.type}, {report.nbytes / 1e9:.2f} GB, {report.n_tensors} tensors "
        f"({types}) in {report.seconds:.1f} s"
    )
