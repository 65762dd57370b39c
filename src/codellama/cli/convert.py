"""`codellama convert`: a Hugging Face checkpoint to GGUFs of any type, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from codellama.cli.options import json_option
from codellama.cli.outputs import (
    hub_options,
    output_option,
    output_options,
    print_reports,
    quant_options,
    quantizer_options,
    source_name,
    type_option,
    writing,
)


@click.command("convert")
@click.argument("source")
@type_option(default="BF16")
@output_option()
@output_options
@hub_options
@quant_options
@json_option
def command(
    source: str, types: tuple[str, ...], output: Path, as_json: bool, **options: Any
) -> None:
    """Convert the checkpoint SOURCE to a GGUF, quantized on the way.

    SOURCE is a folder with config.json, tokenizer.model and safetensors files, as downloaded from
    Hugging Face, or the name of a repository there, such as codellama/CodeLlama-70b-Instruct-hf.
    Of a repository one shard is fetched while the one before is quantized, checked, and deleted
    after use; HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are respected.

    The result is byte for byte what llama.cpp's converter and quantizer make together, but no file
    in between is written and only some megabytes are held in memory. Interrupted, the same command
    goes on where it was.
    """
    run(source, types, output, as_json=as_json, options=options)


def run(
    source: str,
    types: Sequence[str],
    output: Path,
    *,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Convert, with the `options` of `output_options`, `hub_options` and `quant_options`."""
    from codellama.weights.convert import RunSettings, convert_to
    from codellama.weights.naming import output_paths

    own = {name: options.pop(name) for name in RunSettings.names() if name in options}
    name = source_name(source)
    outputs = output_paths(output, name, types)
    with writing(f"{name} to {', '.join(types)}", outputs) as bars:
        settings = RunSettings(**own, **bars, options=quantizer_options(options))
        reports = convert_to(source, outputs, settings)
    print_reports(reports, as_json=as_json)
