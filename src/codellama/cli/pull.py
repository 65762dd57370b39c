"""`codellama pull`: a published model, fetched and quantized in one pass, or a GGUF that is ready."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from codellama.cli.convert import run
from codellama.cli.loading import fetched_model
from codellama.cli.options import json_option
from codellama.cli.outlooks import file_verdict
from codellama.cli.outputs import (
    file_types,
    hub_options,
    output_option,
    output_options,
    quant_options,
    type_option,
)
from codellama.models import HubName, find_variant, new_models_folder
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
    """Fetch a model and put it where the other commands find it.

    NAME is a published model such as 70b-instruct: its checkpoint is fetched from the hub and
    quantized on the way. It is `codellama convert` with the name of the repository looked up.

    Or NAME is a repository with GGUFs that are ready, and the type or file that is wanted:
    TheBloke/CodeLlama-70B-Instruct-GGUF:Q4_K_M. Without one Q4_K_M is taken. Interrupted, the same
    command goes on where it was. `codellama models` lists what is here.
    """
    ctx = click.get_current_context()
    base, _, type_name = name.partition(":")
    variant = find_variant(base)
    if variant is None:
        _pull_ready(name, options["revision"], as_json=as_json)
        return
    if type_name:
        types = file_types(ctx, ctx.command.params[0], (type_name,))
    if output is None:
        folder = new_models_folder()
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / f"codellama-{variant.name}.{{type}}.gguf"
    reports = run(variant.repo, types, output, as_json=as_json, options=options)
    for report in [] if as_json else reports:
        click.echo(f"here {report.type} {file_verdict(report.path)}")


def _pull_ready(name: str, revision: str | None, *, as_json: bool) -> None:
    hub_name = HubName.parse(name)
    if hub_name is None:
        names = ", ".join(known.name for known in VARIANTS)
        raise click.BadParameter(
            f"no published model {name!r}; there are {names}, and files of a repository are called "
            "ORGANISATION/NAME:TYPE",
            param_hint="NAME",
        )
    _refuse_settings()
    from codellama.files.split import read_parts  # with it comes llama.cpp

    path = fetched_model(hub_name, revision)
    nbytes = sum(part.path.stat().st_size for part in read_parts(path))
    if as_json:
        click.echo(json.dumps({"path": str(path), "bytes": nbytes}))
    else:
        click.echo(f"{path}: {nbytes / 1e9:.2f} GB")
        click.echo(f"here it {file_verdict(path)}")


def _refuse_settings() -> None:
    """Options of the conversion mean nothing for a file that is ready."""
    ctx = click.get_current_context()
    for option in ctx.command.params:
        given = ctx.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name not in ("name", "revision", "as_json"):
            raise click.BadParameter(
                "the file is ready, nothing is converted: leave it out", ctx=ctx, param=option
            )
