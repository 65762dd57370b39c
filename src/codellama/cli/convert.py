"""`codellama convert`: a Hugging Face checkpoint to GGUFs of any type, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from codellama.cli.options import json_option
from codellama.cli.outputs import (
    output_options,
    print_reports,
    quant_options,
    quantizer_options,
    source_name,
    type_option,
    writing,
)


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@type_option(default="BF16")
@output_options
@quant_options
@json_option
def command(
    source: Path,
    types: tuple[str, ...],
    output: Path,
    split_bytes: int | None,
    force: bool,
    restart: bool,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert the checkpoint in the folder SOURCE to a GGUF, quantized on the way.

    SOURCE holds config.json, tokenizer.model and safetensors files, as downloaded from Hugging
    Face. The result is byte for byte what llama.cpp's converter and quantizer make together, but
    no file in between is written and only some megabytes are held in memory. Interrupted, the
    same command goes on where it was.
    """
    from codellama.weights.convert import RunSettings, convert_to
    from codellama.weights.naming import output_paths

    outputs = output_paths(output, source_name(str(source)), types)
    with writing(f"{source.name} to {', '.join(types)}", outputs) as progress:
        settings = RunSettings(
            force, restart, threads, split_bytes, progress, quantizer_options(options)
        )
        reports = convert_to(source, outputs, settings)
    print_reports(reports, as_json=as_json)
