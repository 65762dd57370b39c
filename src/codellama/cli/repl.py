"""The loop of a conversation on a terminal: questions, `/commands`, answers as they come, figures below."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from codellama.cli import slash
from codellama.cli.streams import TextStream
from codellama.cli.talk import Talk, Writer
from codellama.session import Session

if TYPE_CHECKING:
    from codellama.cli.attachments import Attachment
    from codellama.cli.keeper import Keeper
    from codellama.params import SamplingOptions
    from codellama.running.language_model import LanguageModel


class Reader(Protocol):
    """Reads a message."""

    def __call__(self, begun: str = "") -> str:
        """The next message, which begins as `begun`; EOFError when the user leaves."""


def start(
    llm: LanguageModel,
    system: str | None,
    sampling: SamplingOptions,
    console: Console,
    *,
    plain: bool,
    keeper: Keeper | None,
    attached: list[Attachment],
    question: str,
) -> None:
    """Talk until the user leaves. A `question` is asked at once; what is attached belongs to it, or to the
    first one that is typed."""
    from codellama.cli.markdown import MarkdownStream
    from codellama.cli.prompt import PromptReader, open_history

    llm.chat_prompt("hello")  # a model without chat format is refused now, not after a question
    console.print(f"{llm.name}, {llm.n_ctx} tokens of context; /help lists the commands")
    session = Session(llm, system) if keeper is None else keeper.open_session(llm, system)
    plain = plain or console.is_dumb_terminal
    writer: Callable[[Console], Writer] = plain_stream if plain else MarkdownStream
    talk = Talk(session, console, writer, sampling, keeper)
    talk.attached += attached
    remind(talk)
    try:
        if question:
            talk.ask(question)
        Repl(talk, PromptReader(open_history(), slash.COMMANDS)).run()
    finally:
        if keeper is not None:
            say_goodbye(talk, keeper)


def remind(talk: Talk) -> None:
    """Show where a conversation that goes on was left."""
    if not talk.session.messages and talk.session.question is None:
        return
    answered = sum(message["role"] == "assistant" for message in talk.session.messages)
    name = talk.keeper.name if talk.keeper is not None else ""
    talk.note(f"{name} goes on after {answered} answers")
    if talk.session.notice is not None:
        talk.note(talk.session.notice)
    talk.console.print(f"> {talk.session.question}", markup=False)
    if talk.session.messages[-1:] and talk.session.messages[-1]["role"] == "assistant":
        talk.console.print(talk.last_answer(), markup=False)
    talk.console.print()


def say_goodbye(talk: Talk, keeper: Keeper) -> None:
    """Wait for what is still to be written; say how to go on."""
    path = keeper.path
    try:
        keeper.close(talk.session)
    except OSError as error:
        talk.error(f"the state of the conversation cannot be saved: {error.strerror}")
    if path.exists():
        talk.note(f"kept: codellama chat --session {keeper.name}")


class Repl:
    """Reads messages by `read`; runs commands, asks the rest."""

    def __init__(self, talk: Talk, read: Reader) -> None:
        self._talk = talk
        self._read = read

    def run(self) -> None:
        """Until the user leaves."""
        talk = self._talk
        while True:
            try:
                text = self._read(talk.begun or "").strip()
            except EOFError:
                return
            if text in slash.LEAVE:
                return
            if text == "help":
                slash.show_help(talk)
            elif text.startswith("/") and not Path(text.split()[0]).exists():
                talk.begun = None
                slash.run(talk, text)
            elif text:
                talk.ask(text)
            else:
                talk.begun = None


def plain_stream(console: Console) -> TextStream:
    """Text as it comes, for `--plain`."""
    return TextStream(console.file)
