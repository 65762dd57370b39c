"""`codellama edit`: the model changes files as it is told; a diff is shown before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.attachments import language_of
from codellama.cli.changes import show_and_write
from codellama.cli.loading import open_model
from codellama.cli.options import (
    SettingsCommand,
    chat_options,
    complete_model,
    model_options,
    sampling_options,
    sampling_params,
)
from codellama.cli.streams import printable
from codellama.errors import UnsupportedError

if TYPE_CHECKING:
    from codellama.edits.form import EditForm, FormName
    from codellama.engine.request import Delta
    from codellama.params import SamplingOptions
    from codellama.running.language_model import LanguageModel


@click.command("edit", cls=SettingsCommand)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
@click.argument("instruction")
@click.option(
    "-m",
    "--model",
    default="demo",
    shell_complete=complete_model,
    envvar="CODELLAMA_MODEL",
    show_default=True,
    show_envvar=True,
    help="The Instruct model that edits.",
)
@click.option(
    "--form",
    type=click.Choice(["auto", "blocks", "whole"]),
    default="auto",
    show_default="auto, a short file as a whole",
    show_envvar=True,
    help="Whether the model writes changed blocks or the whole file.",
)
@click.option("-y", "--yes", is_flag=True, show_envvar=True, help="Write without asking.")
@click.option("--dry-run", is_flag=True, show_envvar=True, help="Only show the diff.")
@sampling_options
@chat_options
@model_options
def command(
    files: tuple[str, ...],
    instruction: str,
    model: str,
    form: FormName,
    yes: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Change FILE... as INSTRUCTION says.

    The diff is shown, and nothing is written before you agree. The old file is kept beside the new one as
    FILE.bak. Answers are the likeliest ones unless --temperature says otherwise.
    """
    from codellama.edits.files import EditedFile
    from codellama.edits.form import EditForm

    read = {name: EditedFile.read(name) for name in dict.fromkeys(files)}
    asked = EditForm.of({name: file.text for name, file in read.items()}, form)
    sampling = sampling_params(options)
    if "temperature" not in sampling:
        sampling["temperature"] = 0.0
    with open_model(model, options) as llm:
        answer = _answer(llm, asked, instruction, sampling)
    changed = asked.changed(answer)
    show_and_write([(read[name], changed[name]) for name in read], yes=yes, dry_run=dry_run)


def _answer(
    llm: LanguageModel, asked: EditForm, instruction: str, sampling: SamplingOptions
) -> str:
    """What the model answers; a terminal on stderr shows it as it comes. Raises UnsupportedError if it was
    cut off."""
    from codellama.engine.request import FinishReason
    from codellama.session import Session

    languages = {name: language_of(name) for name in asked.texts}
    sampling["lark"] = asked.grammar(languages[next(iter(languages))])
    answer = Session(llm).ask(asked.question(instruction, languages), **sampling)
    on_terminal = sys.stderr.isatty()
    text = _shown(answer.events(), answer.n_prompt) if on_terminal else answer.text()
    if answer.finish_reason is not FinishReason.STOP:
        raise UnsupportedError(
            "the model's answer was cut off, so nothing is changed",
            "load the model with a larger {n_ctx}, raise {max_tokens}, or edit a smaller file",
        )
    return text


def _shown(events: Iterable[Delta], n_prompt: int) -> str:
    from rich.console import Console

    from codellama.cli.waiting import texts

    parts: list[str] = []
    for text in texts(events, n_prompt, Console(stderr=True)):
        parts.append(text)
        click.secho(printable(text), dim=True, nl=False, err=True)
    click.echo("\n", err=True)
    return "".join(parts)
