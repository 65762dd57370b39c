"""`codellama imatrix`: an importance matrix of a model over a text."""

from __future__ import annotations

import json
from pathlib import Path

import click

from codellama.cli.options import json_option, model_argument


@click.command("imatrix")
@model_argument
@click.argument("text", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    show_envvar=True,
    help="The file to write, in llama-imatrix's GGUF format.",
)
@click.option(
    "--chunks",
    type=click.IntRange(min=1),
    show_envvar=True,
    help="How many chunks of the text. [default: all]",
)
@click.option(
    "--chunk-size",
    type=click.IntRange(min=16),
    default=512,
    show_default=True,
    show_envvar=True,
    help="Tokens of a chunk.",
)
@click.option(
    "-t",
    "--threads",
    type=click.IntRange(min=1),
    show_envvar=True,
    help="CPU threads. [default: one per core]",
)
@click.option("-f", "--force", is_flag=True, show_envvar=True, help="Replace OUTPUT if it exists.")
@json_option
def command(
    model: str,
    text: Path,
    output: Path,
    chunks: int | None,
    chunk_size: int,
    threads: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Find out over TEXT which weights of MODEL matter most.

    The result goes to `codellama convert --imatrix` or llama-quantize; the smallest types need it.
    MODEL should be of a type that loses little, such as Q8_0 or BF16. Interrupted, the same
    command goes on where it was.
    """
    from codellama.cli.loading import model_file
    from codellama.cli.outputs import progress_bar
    from codellama.weights.imatrix import collect_imatrix
    from codellama.weights.writer import default_threads

    path = model_file(model)
    with progress_bar(f"imatrix of {path.name}") as progress:
        sums = collect_imatrix(
            path,
            text,
            output,
            n_chunks=chunks,
            chunk_tokens=chunk_size,
            threads=threads or default_threads(),
            force=force,
            progress=progress,
        )
    facts = {"path": str(output), "chunks": sums.n_chunks, "matrices": len(sums.squares)}
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo(f"{output}: {sums.n_chunks} chunks, {len(sums.squares)} matrices")
