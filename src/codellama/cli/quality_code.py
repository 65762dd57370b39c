"""`codellama quality code`: problems that a model solves, and how many of the answers are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codellama.cli import imports
from codellama.cli.options import json_option, model_argument
from codellama.cli.quality import kept_on_interrupt

if TYPE_CHECKING:
    from codellama.quality.sandbox import Sandbox

_UNTOLD = "not run: give --run-code, or judge the file elsewhere"


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in value.split(",")}))
    except ValueError:
        found = (0,)
    if found[0] < 1:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,10", ctx, param)
    return found


@click.command("code")
@model_argument
@click.option(
    "--problems",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    show_envvar=True,
    help="HumanEval's, its infill kinds' or MBPP's JSONL file.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    show_envvar=True,
    help="The answers' file. [default: PROBLEMS and MODEL with .jsonl, in this folder]",
)
@click.option(
    "--run-code",
    is_flag=True,
    show_envvar=True,
    help="Run what the model wrote, in bubblewrap: without network, home and anything to write to.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, 128),
    default=1,
    show_default=True,
    show_envvar=True,
    help="Answers to each problem.",
)
@click.option(
    "--k",
    "ks",
    default="1",
    callback=_numbers,
    show_default=True,
    show_envvar=True,
    help="Which pass@k, such as 1,10,100; none larger than --samples.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    show_envvar=True,
    help="0 takes the likeliest tokens. [default: 0, with several samples 0.8]",
)
@click.option(
    "--top-p", type=float, default=0.95, show_default=True, show_envvar=True, help="Of samples."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, show_envvar=True, help="Of samples."
)
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    show_envvar=True,
    help="The longest answer.",
)
@click.option(
    "-np",
    "--parallel",
    "n_seq_max",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    show_envvar=True,
    help="Answers that are written at once.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    show_envvar=True,
    help="Seconds that an answer may run.",
)
@click.option(
    "--memory",
    "memory_mb",
    type=click.IntRange(min=64),
    default=1024,
    show_default=True,
    show_envvar=True,
    help="Megabytes that an answer may use.",
)
@json_option
def command(
    model: str,
    problems: Path,
    output: Path | None,
    run_code: bool,
    ks: tuple[int, ...],
    timeout: float,
    memory_mb: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Have MODEL solve programming problems; with --run-code, say how many of the answers are right.

    An Instruct model is asked in a chat, others go on with the code. Interrupted, the same command goes on
    where it was. Nothing that the model writes is run without --run-code.
    """
    from codellama.cli.loading import model_file
    from codellama.quality.problems import read_problems
    from codellama.quality.sandbox import Limits, Sandbox

    if ks[-1] > options["samples"]:
        raise click.UsageError(f"pass@{ks[-1]} needs at least {ks[-1]} --samples.")
    found = read_problems(problems)
    sandbox = Sandbox(Limits(timeout, memory_mb * 10**6)) if run_code else None
    path = model_file(model)
    output = output or Path(f"{problems.stem}.{path.stem}.jsonl")
    with kept_on_interrupt():
        told = _solve(path, found, output, sandbox, ks, **options)
    facts = {"model": path.name, "output": str(output), **told}
    click.echo(json.dumps(facts) if as_json else _report(facts))


def _solve(
    path: Path,
    problems: Any,
    output: Path,
    sandbox: Sandbox | None,
    ks: tuple[int, ...],
    *,
    samples: int,
    temperature: float | None,
    top_p: float,
    seed: int,
    max_tokens: int,
    n_seq_max: int,
) -> Any:
    """Ask for what is missing, run what has not been run, and count."""
    from codellama.cli.outputs import progress_bar
    from codellama.files.identity import weights_digest
    from codellama.files.loadable import read_model
    from codellama.params import SamplingParams
    from codellama.quality.solving import Answers, judge, run_id, score, solve

    if temperature is None:
        temperature = 0.0 if samples == 1 else 0.8
    params = SamplingParams.of(
        temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens
    )
    run = run_id(weights_digest(read_model(path)), problems, params)
    answers = Answers(output, run)
    if any(answers.missing(problem, samples) for problem in problems):
        with imports.lasting():
            from codellama.llm import LLM
        with (
            LLM(path, n_seq_max=n_seq_max) as llm,
            progress_bar(f"answers of {path.name}") as progress,
        ):
            solve(llm, problems, answers, run, samples, params, progress)
    if sandbox is not None:
        with progress_bar("running the answers") as progress:
            judge(problems, answers, sandbox, progress)
    return score(answers, ks)


def _report(facts: Any) -> str:
    rows = [
        ("problems", f"{facts['problems']}"),
        ("answers", f"{facts['answers']} in {facts['output']}"),
        ("right", _UNTOLD if facts["right"] is None else str(facts["right"])),
        *((f"pass@{k}", f"{100 * share:.1f} %") for k, share in facts["pass_at_k"].items()),
    ]
    return "\n".join(f"{name:<9} {value}" for name, value in rows)
