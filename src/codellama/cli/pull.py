"""`codellama pull`: a published model by its name, fetched and quantized in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from codellama.cli.convert import run
from codellama.cli.options import json_option
from codellama.cli.outputs import (
    hub_options,
    output_option,
    output_options,
    quant_options,
    type_option,
)
from codellama.models import find_variant, new_models_folder
from codellama.variants import VARIANTS


@click.command("pull")
@click.argument("name")
@type_option(default="Q4_K_M")
@output_option(default="in the models folder, codellama-NAME.TYPE.gguf")
@output_options
@hub_options
@quant_options
@json_option
def command(
    name: str, types: tuple[str, ...], output: Path | None, as_json: bool, **options: Any
) -> None:
    """Fetch the published model NAME, such as 70b-instruct, and quantize it on the way.

    `codellama models` lists the names. It is `codellama convert` with the name of the repository
    looked up and the file put where the other commands find it.
    """
    variant = find_variant(name)
    if variant is None:
        names = ", ".join(known.name for known in VARIANTS)
        raise click.BadParameter(
            f"no published model {name!r}; there are {names}", param_hint="NAME"
        )
    if output is None:
        folder = new_models_folder()
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / f"codellama-{variant.name}.{{type}}.gguf"
    run(variant.repo, types, output, as_json=as_json, options=options)
