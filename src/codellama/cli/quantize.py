"""`codellama quantize`: a GGUF to a GGUF of another type."""

from __future__ import annotations

from pathlib import Path

import click

from codellama.cli.convert import (
    file_type,
    force_option,
    output_option,
    print_report,
    progress_bar,
    threads_option,
)
from codellama.cli.options import json_option


@click.command("quantize")
@click.argument("source", type=click.Path(path_type=Path))
@output_option
@click.option(
    "--type",
    "type_name",
    required=True,
    show_envvar=True,
    callback=file_type,
    help="Any type llama.cpp quantizes to, such as Q4_K_M.",
)
@force_option
@click.option(
    "--allow-requantize",
    is_flag=True,
    show_envvar=True,
    help="Accept a SOURCE that is quantized already; the result is worse than from BF16.",
)
@threads_option
@json_option
def command(
    source: Path,
    output: Path,
    type_name: str,
    force: bool,
    allow_requantize: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Quantize the GGUF file SOURCE.

    The result is byte for byte that of llama.cpp's own quantizer.
    """
    from codellama.weights.convert import quantize

    with progress_bar(f"{source.name} to {type_name}") as progress:
        report = quantize(
            source,
            output,
            type_name,
            force=force,
            allow_requantize=allow_requantize,
            threads=threads,
            progress=progress,
        )
    print_report(report, as_json=as_json)
