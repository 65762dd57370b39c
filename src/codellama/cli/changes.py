"""Proposed changes of files on a terminal: a coloured diff, a question, and what was written."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from codellama.cli.streams import printable

if TYPE_CHECKING:
    from codellama.edits.files import EditedFile

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def show_and_write(
    changes: Sequence[tuple[EditedFile, str]], *, yes: bool = False, dry_run: bool = False
) -> None:
    """Show each file's diff to its new text; write them if the user agrees, or `yes` says so.

    Exit code 1 if there is nothing to change, or nobody who could agree.
    """
    changed = [(file, text) for file, text in changes if text != file.text]
    for file, text in changed:
        for line in file.diff(text).splitlines():
            _show(line)
    if not changed:
        raise click.ClickException("the model changed nothing")
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.ClickException("nothing is written: --yes writes without asking")
        names = ", ".join(file.name for file, _ in changed)
        if not click.confirm(f"Write {names}?"):
            click.echo("Nothing is written.")
            return
    for file, text in changed:
        backup = file.write(text)
        click.echo(f"{file.name}: written; as it was: {backup.name}")


def _show(line: str) -> None:
    colour = None if line.startswith(("+++", "---")) else _COLOURS.get(line[:1])
    plain = bool(os.environ.get("NO_COLOR"))
    bold = line.startswith(("+++", "---"))
    click.secho(printable(line), fg=colour, bold=bold, color=False if plain else None)
