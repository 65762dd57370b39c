"""`codellama verify`: whether a GGUF still has the bytes that were written."""

from __future__ import annotations

import json

import click

from codellama.cli.loading import model_file
from codellama.cli.options import json_option, model_argument
from codellama.cli.outputs import progress_bar


@click.command("verify")
@model_argument
@json_option
def command(model: str, as_json: bool) -> None:
    """Read the file of MODEL again and compare it with the manifest that was written with it.

    Of a split GGUF any part stands for all.
    """
    from codellama.files.provenance import verify

    file = model_file(model)
    with progress_bar(f"verifying {file.name}") as progress:
        listed = verify(file, progress)
    if as_json:
        rows = [
            {"path": str(entry.path), "bytes": entry.nbytes, "sha256": entry.sha256}
            for entry in listed
        ]
        click.echo(json.dumps({"files": rows}))
        return
    for entry in listed:
        click.echo(f"{entry.path}: {entry.nbytes:,} bytes as written, SHA-256 {entry.sha256}")
