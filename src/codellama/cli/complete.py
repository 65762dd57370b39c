"""`codellama complete`: continue a text, as the base and Python models were trained to do."""

from __future__ import annotations

from typing import Any

import click

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
@click.argument("prompt")
@click.option("--echo", is_flag=True, show_envvar=True, help="Print the prompt before the answer.")
@json_option
@sampling_options
@model_options
def command(model: str, prompt: str, echo: bool, as_json: bool, **options: Any) -> None:
    """Continue PROMPT with MODEL.

    What it writes is printed as it comes. PROMPT `-` is standard input.
    """
    sampling = sampling_params(options)
    text = read_stdin() if prompt == "-" else prompt
    with open_model(model, options) as llm:
        print_completion(llm.complete(text, echo=echo, **sampling), as_json=as_json)
