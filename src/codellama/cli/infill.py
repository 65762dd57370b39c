"""`codellama infill`: write what stands between a prefix and a suffix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from codellama.cli.cursor import Cursor, write_at, yes_option
from codellama.cli.loading import open_model
from codellama.cli.options import (
    SettingsCommand,
    infill_options,
    json_option,
    model_argument,
    model_options,
    sampling_options,
    sampling_params,
)
from codellama.cli.streams import print_completion

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("infill", cls=SettingsCommand)
@model_argument
@click.option("--prefix", show_envvar=True, help="Text before the gap.")
@click.option("--suffix", show_envvar=True, help="Text behind the gap.")
@click.option("--prefix-file", type=_FILE, show_envvar=True, help="File with the prefix.")
@click.option("--suffix-file", type=_FILE, show_envvar=True, help="File with the suffix.")
@click.option(
    "--at",
    metavar="FILE:LINE[:COLUMN]",
    show_envvar=True,
    help="The gap is at this place of a file, behind LINE or before COLUMN.",
)
@click.option(
    "--in-place", is_flag=True, show_envvar=True, help="Write the middle into the file of --at."
)
@yes_option
@json_option
@sampling_options
@infill_options
@model_options
def command(
    model: str,
    prefix: str | None,
    suffix: str | None,
    prefix_file: Path | None,
    suffix_file: Path | None,
    at: str | None,
    in_place: bool,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fill in between a prefix and a suffix.

    7B and 13B models can do this, base and Instruct. Only the middle is printed. With --at, prefix and
    suffix are what a file has before and behind a place.
    """
    sampling = sampling_params(options)
    if in_place and at is None:
        raise click.UsageError("--in-place needs --at")
    if at is None:
        before = _text("prefix", prefix, prefix_file)
        behind = _text("suffix", suffix, suffix_file)
    elif (prefix, suffix, prefix_file, suffix_file) != (None, None, None, None):
        raise click.UsageError("give either --at or a prefix and a suffix")
    elif in_place:
        write_at(at, model, options, sampling, yes=yes)
        return
    else:
        cursor = Cursor.at(at)
        before, behind = cursor.before, cursor.behind
    with open_model(model, options) as llm:
        print_completion(llm.infill(before, behind, **sampling), as_json=as_json)


def _text(name: str, text: str | None, file: Path | None) -> str:
    if (text is None) == (file is None):
        raise click.UsageError(f"give either --{name} or --{name}-file")
    if text is not None:
        return text
    assert file is not None
    try:
        return file.read_bytes().decode("utf-8-sig")  # read_text would change the line ends
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file} is not UTF-8 text: {error}") from error
