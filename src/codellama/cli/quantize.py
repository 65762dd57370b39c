"""`codellama quantize`: a GGUF to GGUFs of other types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from codellama.cli.options import json_option
from codellama.cli.outputs import (
    output_option,
    output_options,
    print_reports,
    quant_options,
    quantizer_options,
    source_name,
    type_option,
    writing,
)


@click.command("quantize")
@click.argument("source", type=click.Path(path_type=Path))
@type_option()
@output_option()
@output_options
@quant_options
@click.option(
    "--allow-requantize",
    is_flag=True,
    show_envvar=True,
    help="Accept a SOURCE that is quantized already; the result is worse than from BF16.",
)
@json_option
def command(
    source: Path, types: tuple[str, ...], output: Path, as_json: bool, **options: Any
) -> None:
    """Quantize the GGUF file SOURCE; of a split one, name the first file.

    The result is byte for byte that of llama.cpp's own quantizer. Interrupted, the same command
    goes on where it was.
    """
    from codellama.weights.convert import RunSettings, quantize_to
    from codellama.weights.naming import output_paths

    own = {name: options.pop(name) for name in RunSettings.names() if name in options}
    outputs = output_paths(output, source_name(str(source)), types)
    with writing(f"{source.name} to {', '.join(types)}", outputs) as bars:
        settings = RunSettings(**own, **bars, options=quantizer_options(options))
        reports = quantize_to(source, outputs, settings)
    print_reports(reports, as_json=as_json)
