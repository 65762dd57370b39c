"""`codellama chat`: a conversation on the terminal, or one question when there is no terminal."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.attachments import (
    Attachment,
    read_file,
    stdin_beside_a_question,
    with_question,
)
from codellama.cli.loading import open_model
from codellama.cli.options import (
    SettingsCommand,
    chat_options,
    complete_model,
    model_options,
    sampling_options,
    sampling_params,
)
from codellama.cli.questions import from_template
from codellama.cli.streams import read_stdin, stream_text

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from codellama.cli.keeper import Keeper
    from codellama.params import SamplingOptions
    from codellama.running.language_model import LanguageModel
    from codellama.session import Answer

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("chat", cls=SettingsCommand)
@click.argument("model", envvar="CODELLAMA_MODEL", default="demo", shell_complete=complete_model)
@click.option("-p", "--prompt", show_envvar=True, help="Ask this one question and leave.")
@click.option(
    "-f",
    "--file",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    show_envvar=True,
    help="Attach this file to the first question; repeatable.",
)
@click.option("--template", show_envvar=True, help="Ask by a template, such as review or explain.")
@click.option("--system", show_envvar=True, help="The system text.")
@click.option("--system-file", type=_FILE, show_envvar=True, help="File with the system text.")
@click.option(
    "--session",
    show_envvar=True,
    metavar="NAME",
    help="Keep the conversation under this name, or go on with it.",
)
@click.option(
    "--continue", "go_on", is_flag=True, show_envvar=True, help="Go on with the last conversation."
)
@click.option(
    "--save/--no-save",
    default=True,
    show_envvar=True,
    help="Whether a conversation without a name is kept. [default: save]",
)
@click.option(
    "--plain", is_flag=True, show_envvar=True, help="Print answers as they are, not as Markdown."
)
@sampling_options
@chat_options
@model_options
def command(
    model: str,
    prompt: str | None,
    files: tuple[Path, ...],
    template: str | None,
    system: str | None,
    system_file: Path | None,
    session: str | None,
    go_on: bool,
    save: bool,
    plain: bool,
    **options: Any,
) -> None:
    """Talk with MODEL, an Instruct model. [env var: CODELLAMA_MODEL; default: demo]

    On a terminal: Enter sends; Alt-Enter, a trailing backslash or \"\"\" ... \"\"\" go on in the next
    line; Ctrl-C stops the answer; /help lists the commands. When input or output is not a
    terminal, the question is --prompt or standard input, and the plain answer is printed.
    Standard input beside a --prompt is attached to it, as the files of --file are.

    Conversations on a terminal are kept; `codellama sessions` lists them.
    """
    sampling = sampling_params(options)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if system_file is not None:
        if system is not None:
            raise click.UsageError("give either --system or --system-file")
        system = read_file(system_file).text.strip()
    attached = [read_file(path) for path in files]
    if prompt is not None:
        attached += stdin_beside_a_question()
    elif not terminal:
        prompt = _from_stdin(template, attached)
    question = from_template(template, prompt or "") if template else (prompt or "").strip()
    one = prompt is not None
    if one and not question:
        raise click.UsageError("no question: give one by --prompt or on standard input")
    name = _session_name(session, go_on, save and not one)
    with open_model(model, options) as llm:
        keeper = _keeper(name)
        if one:
            _answer_one(llm, with_question(attached, question), system, sampling, keeper)
            return
        from rich.console import Console

        from codellama.cli.repl import start

        console = Console(highlight=False)
        start(
            llm,
            system,
            sampling,
            console,
            plain=plain,
            keeper=keeper,
            attached=attached,
            question=question,
        )


def _from_stdin(template: str | None, attached: list[Attachment]) -> str:
    """The question on standard input; beside a template or with files it is attached, if there is any."""
    if template is None:
        return read_stdin()
    attached += stdin_beside_a_question()
    return ""


def _session_name(session: str | None, go_on: bool, save: bool) -> str | None:
    """What the conversation is kept as; None: it is not. Raises InvalidRequestError and UsageError."""
    if session is not None and go_on:
        raise click.UsageError("give either --session or --continue")
    if session is None and not go_on and not save:
        return None
    from codellama.cli.keeper import SessionFolder

    folder = SessionFolder()
    if session is None:
        return folder.latest().name if go_on else folder.new_name()
    folder.path(session)  # raises if it cannot be one
    return session


def _keeper(name: str | None) -> Keeper | None:
    """What writes the conversation down. Raises InvalidRequestError if another process does."""
    if name is None:
        return None
    from codellama.cli.keeper import Keeper, SessionFolder

    return Keeper(SessionFolder(), name)


def _answer_one(
    llm: LanguageModel,
    question: str,
    system: str | None,
    sampling: SamplingOptions,
    keeper: Keeper | None,
) -> None:
    from codellama.session import Session

    if keeper is None:
        stream_text(_pieces(Session(llm, system).ask(question, **sampling)))
        return
    session = keeper.open_session(llm, system)
    answer = session.ask(question, **sampling)
    keeper.begin(answer)
    try:
        with contextlib.closing(_kept(keeper, _pieces(answer))) as pieces:  # also after Ctrl-C
            stream_text(pieces)
    finally:
        keeper.save(session)
        keeper.close(session)


def _kept(keeper: Keeper, pieces: Iterator[str]) -> Generator[str, None, None]:
    for text in pieces:
        keeper.say(text)
        yield text


def _pieces(answer: Answer) -> Iterator[str]:
    """The answer's text; a terminal on stderr shows how far the prompt is."""
    if not sys.stderr.isatty():
        return iter(answer)
    from rich.console import Console

    from codellama.cli.waiting import texts

    return texts(answer.events(), answer.n_prompt, Console(stderr=True))
