"""`codellama quality card`: a table and pictures of several files of one model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.quality import kept_on_interrupt, text_options, text_settings

if TYPE_CHECKING:
    from codellama.quality.card import CardRow


@click.command("card")
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    show_envvar=True,
    help="The card to write: a .md file, with its pictures beside it, or an .html file, with them in it. "
    "A .md file that is there keeps what stands around the card.",
)
@click.option(
    "--against",
    type=click.Path(exists=True, path_type=Path),
    show_envvar=True,
    help="The file to compare the others with. [default: the largest one]",
)
@click.option(
    "--base-file",
    type=click.Path(path_type=Path),
    show_envvar=True,
    help="Load the base once and then one file at a time: see `codellama quality measure`.",
)
@text_options
@click.option(
    "--speed/--no-speed",
    default=True,
    show_default=True,
    show_envvar=True,
    help="Measure tokens per second too.",
)
@click.option(
    "--pictures/--no-pictures",
    default=True,
    show_default=True,
    show_envvar=True,
    help="Draw the pictures, with matplotlib.",
)
def command(
    sources: tuple[Path, ...],
    output: Path,
    against: Path | None,
    base_file: Path | None,
    speed: bool,
    pictures: bool,
    **options: Any,
) -> None:
    """Measure the files of one model and show them side by side.

    SOURCES are GGUF files, or folders with some. The results lie beside the files, and what has been
    measured is not measured again.
    """
    from codellama.cli.outputs import progress_bar
    from codellama.files.loadable import read_model
    from codellama.quality.card import ordered, row
    from codellama.quality.measure import QualityJob, measure, result_path

    if output.suffix not in (".md", ".html"):
        raise click.BadParameter(
            "the card's name has to end in .md or .html", param_hint="--output"
        )
    settings = text_settings(options)
    files = model_files(sources)
    base = against or files[0]
    rows = []
    with kept_on_interrupt():
        for path in files:
            other = None if path.samefile(base) else base
            job = QualityJob(path, other, base_file=base_file if other else None, **settings)
            with progress_bar(f"quality of {path.name}") as progress:
                found = measure(job, result_path(path), timed=speed, progress=progress)
            if not speed:
                found = {**found, "speed": None}  # that of an earlier card is not shown
            header = read_model(path)
            rows.append(row(header, _nbytes(path), found))
    write_card(output, ordered(rows), pictures)
    click.echo(f"{output}: {len(rows)} files")


def model_files(sources: Sequence[Path]) -> list[Path]:
    """The GGUF files among `sources` and in their folders, the largest first, of equals BF16 first."""
    from codellama.files.split import is_later_part

    found = []
    for source in sources:
        found += sorted(source.glob("*.gguf")) if source.is_dir() else [source]
    files = list(dict.fromkeys(path for path in found if not is_later_part(path)))
    if not files:
        raise click.UsageError("There is no .gguf file in these folders.")
    return sorted(files, key=lambda path: (-_nbytes(path), "BF16" not in path.name, path.name))


def write_card(output: Path, rows: Sequence[CardRow], with_pictures: bool) -> None:
    """Write the card, and for Markdown its pictures beside it."""
    from codellama.quality.card import markdown, page, put_into
    from codellama.quality.pictures import pictures

    drawn = pictures(rows) if with_pictures else {}
    if output.suffix == ".html":
        _write(output, page(f"Quality of {output.stem}", rows, drawn))
        return
    addresses = {}
    for what, svg in drawn.items():
        picture = output.with_name(f"{output.stem}.{what.split()[0]}.svg")
        _write(picture, svg)
        addresses[what] = picture.name
    before = output.read_text("utf-8") if output.exists() else ""
    _write(output, put_into(before, markdown(rows, addresses), str(output)))


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(text, "utf-8")
    os.replace(scratch, path)


def _nbytes(path: Path) -> int:
    from codellama.files.split import read_parts

    return sum(part.path.stat().st_size for part in read_parts(path))
