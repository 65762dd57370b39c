"""`codellama quality`: perplexity of a file over a text, and how far it is from a base.

A group whose other commands begin with a word of their own: `card`, `code` and `tasks`. Anything else is a
model.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from codellama.cli import option_names
from codellama.cli.options import json_option, model_argument, together
from codellama.errors import CodeLlamaError

MEASURE = "measure"
_OTHERS = {"card": "quality_card", "code": "quality_code", "tasks": "quality_tasks"}
"""The other commands, each the `command` of a module in this package."""


class QualityGroup(click.Group):
    """The measuring of one model, and the commands around it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [MEASURE, *_OTHERS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == MEASURE:
            return measure_command
        if cmd_name not in _OTHERS:
            return None
        module = importlib.import_module(f"codellama.cli.{_OTHERS[cmd_name]}")
        found: click.Command = module.command
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.list_commands(ctx), *ctx.help_option_names):
            args = [MEASURE, *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CodeLlamaError as error:  # the options are those of the command inside
            command = self.get_command(ctx, ctx.invoked_subcommand or "") or self
            raise click.ClickException(error.spelled(option_names(command))) from error


@click.group("quality", cls=QualityGroup, no_args_is_help=True)
def command() -> None:
    """How good is this quantized file?

    `codellama quality MODEL --against BASE` measures one file (see `codellama quality measure --help`). The
    others make a card of several files, have a model solve problems, and run a harness's tasks.
    """


text_options = together(
    click.option(
        "--text",
        type=click.Path(path_type=Path),
        show_envvar=True,
        help="The text to read, in UTF-8. [default: code that comes with this program]",
    ),
    click.option(
        "--code", is_flag=True, show_envvar=True, help="Say that the default text is meant."
    ),
    click.option(
        "--chunks",
        "n_chunks",
        type=click.IntRange(min=1),
        show_envvar=True,
        help="How many chunks of the text. [default: all]",
    ),
    click.option(
        "--chunk-size",
        "chunk_tokens",
        type=click.IntRange(min=1),
        default=512,
        show_default=True,
        show_envvar=True,
        help="Tokens of a chunk; those of its second half count.",
    ),
    click.option(
        "-t",
        "--threads",
        type=click.IntRange(min=1),
        show_envvar=True,
        help="CPU threads. [default: one per core]",
    ),
)
"""--text, --code, --chunks, --chunk-size and --threads: the text, and how it is cut and read."""


def text_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the options of `text_options` say, as fields of `quality.measure.QualityJob`."""
    if options["code"] and options["text"]:
        raise click.UsageError("--text and --code exclude each other.")
    return {name: options[name] for name in ("text", "n_chunks", "chunk_tokens", "threads")}


@contextmanager
def kept_on_interrupt() -> Iterator[None]:
    """Says after Ctrl-C that what is done is kept."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("\nInterrupted: the same command goes on from there.", err=True)
        raise


@click.command(MEASURE)
@model_argument
@click.option(
    "--against",
    metavar="BASE",
    show_envvar=True,
    help="A better file of the same model, such as its BF16 or Q8_0, to compare with.",
)
@click.option(
    "--base-file",
    type=click.Path(path_type=Path),
    show_envvar=True,
    help="Load BASE first and MODEL after it, for lack of memory; what BASE thinks is kept in this file, in "
    "64 bytes a token, and serves for other files too. Single tokens' divergences are estimates then, their "
    "mean is right within its error.",
)
@text_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    show_envvar=True,
    help="The result's file. [default: MODEL's name with .quality.json, beside it]",
)
@click.option(
    "--speed/--no-speed",
    default=True,
    show_default=True,
    show_envvar=True,
    help="Measure tokens per second too.",
)
@json_option
def measure_command(
    model: str,
    against: str | None,
    base_file: Path | None,
    output: Path | None,
    speed: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure MODEL over a text: perplexity, divergence from BASE, speed.

    The numbers are those of llama-perplexity. Interrupted, the same command goes on where it was; when it is
    done, it only shows the result.
    """
    from codellama.cli.loading import model_file
    from codellama.cli.outputs import progress_bar
    from codellama.quality.measure import QualityJob, measure, result_path

    path = model_file(model)
    base = model_file(against) if against else None
    job = QualityJob(model=path, against=base, base_file=base_file, **text_settings(options))
    with kept_on_interrupt(), progress_bar(f"quality of {path.name}") as progress:
        found = measure(job, output or result_path(path), timed=speed, progress=progress)
    click.echo(json.dumps(found) if as_json else report(found))


def report(found: Mapping[str, Any]) -> str:
    """A result of `quality.measure` as lines for people."""
    summary = found["summary"]
    rows = [
        ("text", f"{found['text']}, {found['n_chunks']} chunks of {found['chunk_tokens']} tokens"),
        ("counted", f"{summary['n_tokens']} tokens"),
        ("perplexity", _estimate(summary["perplexity"], 4)),
    ]
    divergence = summary["divergence"]
    if divergence:
        quantiles = divergence["quantiles"]
        rows += [
            ("base", f"{found['base']}, {_estimate(divergence['base_perplexity'], 4)}"),
            ("ln(PPL/base)", _estimate(divergence["log_ratio"], 6)),
            ("KL divergence", _estimate(divergence["mean"], 6)),
            ("  median", f"{divergence['median']:.6f}"),
            *((f"  {100 * float(q):g} %", f"{value:.6f}") for q, value in quantiles.items()),
            ("  maximum", f"{divergence['maximum']:.6f}"),
            ("RMS of Δp", f"{_estimate(divergence['rms_delta_p'], 3, 100)} %"),
            ("same top token", f"{_estimate(divergence['same_top'], 3, 100)} %"),
        ]
    if found["outside"] is not None:
        share = f"{100 * found['outside']:.2f} % of the base's probability"
        rows.append(
            ("drawn from", f"{share}: the mean is unbiased, single divergences are estimates")
        )
    if found["speed"]:
        speed = found["speed"]
        rows.append(("tokens/s", f"prompt {speed['prompt']:.1f}, answer {speed['decode']:.1f}"))
    return "\n".join(f"{name:<15} {value}" for name, value in rows)


def _estimate(found: Mapping[str, float], digits: int, scale: float = 1.0) -> str:
    return f"{scale * found['value']:.{digits}f} ± {scale * found['error']:.{digits}f}"
