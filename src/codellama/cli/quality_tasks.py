"""`codellama quality tasks`: tasks of lm-evaluation-harness over one file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from codellama.cli.options import json_option, model_argument


@click.command("tasks")
@model_argument
@click.option(
    "--tasks",
    "names",
    default="leaderboard",
    show_default=True,
    show_envvar=True,
    help="Names of the harness's tasks, with commas; `leaderboard` is the six of the model card.",
)
@click.option(
    "--shots",
    type=click.IntRange(min=0),
    show_envvar=True,
    help="Examples before each question. [default: the leaderboard's, or the task's own]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    show_envvar=True,
    help="Only so many questions of each task. [default: all]",
)
@click.option(
    "--include",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    show_envvar=True,
    help="A folder with tasks of your own, in the harness's YAML.",
)
@click.option(
    "-c",
    "--ctx-size",
    "max_length",
    type=click.IntRange(min=64),
    show_envvar=True,
    help="Context in tokens. [default: what the model was trained for]",
)
@click.option(
    "-t",
    "--threads",
    "n_threads",
    type=click.IntRange(min=1),
    show_envvar=True,
    help="CPU threads. [default: one per core]",
)
@json_option
def command(
    model: str,
    names: str,
    shots: int | None,
    limit: int | None,
    include: Path | None,
    max_length: int | None,
    n_threads: int | None,
    as_json: bool,
) -> None:
    """Run tasks of lm-evaluation-harness on MODEL, in this process.

    A question is decoded once for all its answers, and what questions share, such as examples, once for all
    of them. Data sets are loaded by the harness, from the hub's cache or the hub.
    """
    from codellama.cli.loading import model_file
    from codellama.quality.tasks import run_tasks, task_names

    path = model_file(model)
    told = task_names([name.strip() for name in names.split(",") if name.strip()])
    results = []
    for found in run_tasks(
        path,
        told,
        shots=shots,
        limit=limit,
        include=include,
        max_length=max_length,
        n_threads=n_threads or "auto",
    ):
        results.append(found)
        if not as_json:
            error = f" ± {100 * found.error:.2f}" if found.error is not None else ""
            examples = "its own" if found.shots is None else found.shots
            click.echo(
                f"{found.task:<16} {100 * found.value:6.2f}{error} % {found.metric}, "
                f"{found.n} questions, examples: {examples}"
            )
    if as_json:
        click.echo(json.dumps({"model": path.name, "tasks": [vars(found) for found in results]}))
