"""`codellama chat`: a conversation on the terminal, or one question when there is no terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.loading import open_model
from codellama.cli.options import (
    SettingsCommand,
    chat_options,
    model_options,
    sampling_options,
    sampling_params,
)
from codellama.cli.streams import read_stdin, stream_text

if TYPE_CHECKING:
    from codellama.params import SamplingOptions
    from codellama.running.language_model import LanguageModel


@click.command("chat", cls=SettingsCommand)
@click.argument("model", envvar="CODELLAMA_MODEL", default="demo")
@click.option("-p", "--prompt", show_envvar=True, help="Ask this one question and leave.")
@click.option("--system", show_envvar=True, help="The system text.")
@click.option(
    "--plain", is_flag=True, show_envvar=True, help="Print answers as they are, not as Markdown."
)
@sampling_options
@chat_options
@model_options
def command(
    model: str,
    prompt: str | None,
    system: str | None,
    plain: bool,
    **options: Any,
) -> None:
    """Talk with MODEL, an Instruct model. [env var: CODELLAMA_MODEL; default: demo]

    On a terminal: Enter sends; Alt-Enter, a trailing backslash or \"\"\" ... \"\"\" go on in the next
    line; Ctrl-C stops the answer; /help lists the commands. When input or output is not a
    terminal, the question is --prompt or standard input, and the plain answer is printed.
    """
    sampling = sampling_params(options)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if prompt is None and not terminal:
        prompt = read_stdin()
    if prompt is not None:
        if not prompt.strip():
            raise click.UsageError("no question: give one by --prompt or on standard input")
        with open_model(model, options) as llm:
            _answer_one(llm, prompt.strip(), system, sampling)
        return
    from rich.console import Console

    from codellama.cli.repl import start

    with open_model(model, options) as llm:
        start(llm, system, sampling, Console(highlight=False), plain=plain)


def _answer_one(
    llm: LanguageModel, question: str, system: str | None, sampling: SamplingOptions
) -> None:
    from codellama.session import Session

    stream_text(Session(llm, system).ask(question, **sampling))
