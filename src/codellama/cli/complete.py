"""`codellama complete`: continue a text, as the base and Python models were trained to do."""

from __future__ import annotations

from typing import Any

import click

from codellama.cli.cursor import write_at, yes_option
from codellama.cli.loading import open_model
from codellama.cli.options import (
    SettingsCommand,
    json_option,
    model_argument,
    model_options,
    sampling_options,
    sampling_params,
)
from codellama.cli.streams import print_completion, read_stdin


@click.command("complete", cls=SettingsCommand)
@model_argument
@click.argument("prompt", required=False)
@click.option(
    "--in-place",
    metavar="FILE:LINE[:COLUMN]",
    show_envvar=True,
    help="Write at this place of a file, behind LINE or before COLUMN, instead of continuing a PROMPT.",
)
@yes_option
@click.option("--echo", is_flag=True, show_envvar=True, help="Print the prompt before the answer.")
@json_option
@sampling_options
@model_options
def command(
    model: str,
    prompt: str | None,
    in_place: str | None,
    yes: bool,
    echo: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Continue PROMPT with MODEL.

    What it writes is printed as it comes. PROMPT `-` is standard input. With --in-place it goes into a
    file: a diff is shown, and nothing is written before you agree. What follows there is heeded by models
    that can infill (7B and 13B).
    """
    sampling = sampling_params(options)
    if (prompt is None) == (in_place is None):
        raise click.UsageError("give either a PROMPT or --in-place")
    if in_place is not None:
        write_at(in_place, model, options, sampling, yes=yes)
        return
    text = read_stdin() if prompt == "-" else prompt or ""
    with open_model(model, options) as llm:
        print_completion(llm.complete(text, echo=echo, **sampling), as_json=as_json)
