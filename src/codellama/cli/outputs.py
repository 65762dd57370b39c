"""What the commands that write GGUFs share: options, names of the files, the bar, the report."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.options import together
from codellama.errors import ConversionError

if TYPE_CHECKING:
    from codellama.params import Progress
    from codellama.weights.convert import Report
    from codellama.weights.options import QuantOptions

_SIZE = re.compile(r"(\d+)([KMG])", re.IGNORECASE)
_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}


def file_types(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Callback of --type: names of llama.cpp's, in any case; anything else is bad usage."""
    from codellama.weights.recipe import resolve_type

    try:
        return tuple(resolve_type(value) for value in values)
    except ConversionError as error:
        raise click.BadParameter(str(error), ctx=ctx, param=param) from error


def file_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Callback of --split-max-size: bytes, from a number with K, M or G (decimal, as llama.cpp)."""
    if value is None:
        return None
    found = _SIZE.fullmatch(value.strip())
    if not found or not int(found[1]):
        raise click.BadParameter(f"{value!r} is not a size such as 10G or 500M", ctx, param)
    return int(found[1]) * _UNITS[found[2].upper()]


def type_option(default: str | None = None) -> Callable[[Any], Any]:
    """--type, repeatable; without a `default` it has to be given."""
    return click.option(
        "--type",
        "types",
        multiple=True,
        required=default is None,
        default=None if default is None else (default,),
        show_default=default is not None,
        show_envvar=True,
        callback=file_types,
        metavar="TYPE",
        help="Any type llama.cpp quantizes to, such as Q4_K_M, Q8_0, BF16 or F16. Several are made "
        "from one reading of SOURCE.",
    )


def output_option(default: str = "") -> Callable[[Any], Any]:
    """--output; without words for its `default` it has to be given."""
    ending = f" [default: {default}]" if default else ""
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=not default,
        show_envvar=True,
        help="The GGUF to write: a file, a folder, or a name with {type} (and {name}) in it. "
        f"Several types need one of the last two.{ending}",
    )


hub_options = together(
    click.option(
        "--revision", show_envvar=True, help="Branch, tag or commit on the hub. [default: main]"
    ),
    click.option(
        "--keep",
        is_flag=True,
        show_envvar=True,
        help="Keep what was fetched, in a folder beside OUTPUT that is named after the repository.",
    ),
)
"""--revision and --keep."""

output_options = together(
    click.option(
        "--split-max-size",
        "split_bytes",
        callback=file_size,
        metavar="SIZE",
        show_envvar=True,
        help="Split each GGUF into files of at most so many bytes of weights, such as 10G or 500M.",
    ),
    click.option("-f", "--force", is_flag=True, show_envvar=True, help="Replace files that exist."),
    click.option(
        "--restart",
        is_flag=True,
        show_envvar=True,
        help="Begin anew, even if an unfinished run could be continued.",
    ),
    click.option(
        "-t",
        "--threads",
        type=click.IntRange(min=1),
        show_envvar=True,
        help="Threads that quantize. [default: one per core]",
    ),
)
"""--split-max-size, --force, --restart and --threads."""


def tensor_types(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Callback of --tensor-type: pairs of a regular expression and a type."""
    pairs = []
    for value in values:
        pattern, equals, kind = value.rpartition("=")
        if not (pattern and equals):
            reason = f"{value!r} is not REGEX=TYPE, such as ffn_down=Q6_K"
            raise click.BadParameter(reason, ctx=ctx, param=param)
        pairs.append((pattern, kind))
    return tuple(pairs)


quant_options = together(
    click.option(
        "--imatrix",
        type=click.Path(path_type=Path),
        show_envvar=True,
        help="Importance matrix, as llama-imatrix writes it; the smallest types need one.",
    ),
    click.option(
        "--output-type",
        metavar="TYPE",
        show_envvar=True,
        help="Type of output.weight, such as Q8_0.",
    ),
    click.option(
        "--embedding-type", metavar="TYPE", show_envvar=True, help="Type of token_embd.weight."
    ),
    click.option(
        "--tensor-type",
        "tensor_types",
        multiple=True,
        metavar="REGEX=TYPE",
        callback=tensor_types,
        show_envvar=True,
        help="Type of the tensors whose names match, such as ffn_down=Q6_K; repeatable, the first "
        "match counts.",
    ),
    click.option(
        "--pure", is_flag=True, show_envvar=True, help="No mixture: the same type for every matrix."
    ),
    click.option(
        "--leave-output",
        is_flag=True,
        show_envvar=True,
        help="Leave output.weight as it is in SOURCE: from a checkpoint in its type, such as BF16, which is "
        "what llama-quantize leaves of a GGUF converted to that type.",
    ),
)
"""Options of the quantizer; read them with `quantizer_options`."""


def quantizer_options(options: Mapping[str, Any]) -> QuantOptions:
    """The options of `quant_options`, checked; the importance matrix is read."""
    from codellama.files.imatrix_file import read_imatrix
    from codellama.weights.options import QuantOptions

    path = options["imatrix"]
    return QuantOptions(**{**options, "imatrix": None if path is None else read_imatrix(path)})


def source_name(source: str) -> str:
    """What `{name}` stands for: the last part of a path or of a repository's name."""
    from codellama.files.hub_cache import checkpoint_name

    return checkpoint_name(Path(source))


@contextlib.contextmanager
def writing(title: str, outputs: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    """Around a run: shows the bars, and says after Ctrl-C how to go on.

    Yields what `RunSettings` calls `progress` and `hashing`; the latter gets its bar when it begins.
    """
    from codellama.weights.convert import download_folder
    from codellama.weights.output import Output

    percent = 0.0

    def follow(done: int, total: int) -> None:
        nonlocal percent
        percent = 100 * done / total
        show(title, done, total)

    try:
        with _bars() as show:
            yield {
                "progress": follow,
                "hashing": lambda done, total: show("SHA-256 of what was written", done, total),
            }
    except KeyboardInterrupt:
        if any(Output.begun(path) or download_folder(path).exists() for path in outputs.values()):
            click.echo(
                f"\nInterrupted at {percent:.0f} %: the same command goes on from there.", err=True
            )
        raise


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on stderr with bytes, rate and time left, if that is a terminal; it is there from the
    beginning on."""
    with _bars() as show:
        show(title, 0, None)
        yield lambda done, total: show(title, done, total)


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str, int, int | None], None]]:
    """Takes the title of a bar with bytes done and in all (None: not known yet); nothing is shown but on a
    terminal."""
    if not sys.stderr.isatty():
        yield lambda title, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}

    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def show(title: str, done: int, total: int | None) -> None:
            if title not in tasks:
                tasks[title] = bars.add_task(title, total=total)
            bars.update(tasks[title], completed=done, total=total)

        yield show


def print_reports(reports: Sequence[Report], *, as_json: bool) -> None:
    """Say what was written: a JSON object, or a list of them for several types; lines for people."""
    if as_json:
        documents = [report.to_json() for report in reports]
        click.echo(json.dumps(documents[0] if len(documents) == 1 else documents))
        return
    for line in map(_line, reports):
        click.echo(line)


def _line(report: Report) -> str:
    types = _listed(f"{count} {name}" for name, count in report.types.items())
    files = f" in {len(report.paths)} files" if len(report.paths) > 1 else ""
    return (
        f"{report.path}: {report.type}, {report.nbytes / 1e9:.2f} GB{files}, "
        f"{report.n_tensors} tensors ({types}) in {report.seconds:.1f} s"
    )


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(parts)
