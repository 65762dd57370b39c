"""The conversation on a terminal: questions, `/commands`, answers as they come, figures below them.

Ctrl-C while an answer is written stops the answer and keeps what was said; an error is one line and
the conversation goes on.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from codellama.cli import spelled
from codellama.cli.streams import printable, speeds
from codellama.engine.request import FinishReason, Timings, Usage
from codellama.errors import CodeLlamaError, ContextLengthError
from codellama.session import Answer, Session

if TYPE_CHECKING:
    from codellama.params import SamplingOptions
    from codellama.running.language_model import LanguageModel

HELP = {
    "/help": "this list",
    "/system TEXT": "set the system text and start afresh; without TEXT: show it",
    "/reset": "forget the conversation, keep the system text",
    "/regen": "answer the last question again",
    "/stats": "tokens, speeds and context of this conversation",
    "/exit": "leave (so does Ctrl-D)",
}
STOPPED = "stopped; /regen answers again"
COMMANDS = [line.split()[0] for line in HELP]


class Writer(Protocol):
    """Shows an answer as it comes, as a context manager."""

    def push(self, text: str) -> None:
        """Add text."""

    def __enter__(self) -> Writer: ...

    def __exit__(self, *exc: Any) -> None: ...


def start(
    llm: LanguageModel,
    system: str | None,
    sampling: SamplingOptions,
    console: Console,
    *,
    plain: bool,
) -> None:
    """Talk until the user leaves."""
    from codellama.cli.markdown import MarkdownStream
    from codellama.cli.prompt import PromptReader, open_history

    llm.chat_prompt("hello")  # a model without chat format is refused now, not after a question
    console.print(f"{llm.name}, {llm.n_ctx} tokens of context; /help lists the commands")
    writer: Callable[[Console], Writer] = PlainStream if plain else MarkdownStream
    session = Session(llm, system)
    Repl(session, console, PromptReader(open_history(), COMMANDS), writer, sampling).run()


class Repl:
    """Reads messages, runs commands, shows answers."""

    def __init__(
        self,
        session: Session,
        console: Console,
        read: Callable[[], str],
        writer: Callable[[Console], Writer],
        sampling: SamplingOptions,
    ) -> None:
        """`read` returns the next message and raises EOFError to leave; `sampling` draws the answers."""
        self._session = session
        self._console = console
        self._read = read
        self._writer = writer
        self._sampling = sampling
        self._answers = 0
        self._tokens = 0
        self._usage = Usage()
        self._timings = Timings()

    def run(self) -> None:
        """Until `/exit` or EOFError."""
        while True:
            try:
                text = self._read().strip()
            except EOFError:
                return
            if text == "/exit":
                return
            if text.startswith("/"):
                self._command(text)
            elif text:
                self._ask(text)

    def _ask(self, text: str) -> None:
        self._answer(lambda: self._session.ask(text, **self._sampling))

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        match name:
            case "/help":
                for line, meaning in HELP.items():
                    self._console.print(f"  {line:<14} {meaning}", markup=False)
            case "/system":
                self._system(rest.strip())
            case "/reset":
                self._session.reset()
                self._usage = Usage()
                self._note("The conversation is forgotten.")
            case "/regen":
                self._answer(lambda: self._session.regen(**self._sampling))
            case "/stats":
                self._stats()
            case _:
                self._error(f"unknown command {name}; the commands are {', '.join(COMMANDS)}")

    def _system(self, text: str) -> None:
        if text:
            self._session.system = text
            self._usage = Usage()
            self._note("The system text is set, the conversation starts afresh.")
        else:
            self._note(self._session.system or "There is no system text.")

    def _stats(self) -> None:
        self._note(f"answers: {self._answers}, tokens in all: {self._tokens}")
        if self._answers:
            self._note(f"last answer: {speeds(self._usage, self._timings)}")
        self._note(f"context: {self._usage.total_tokens} of {self._session.llm.n_ctx} tokens used")

    def _answer(self, ask: Callable[[], Answer]) -> None:
        try:
            answer = ask()
            with stopped_by_ctrl_c(answer), no_echo():
                self._show(answer)
        except CodeLlamaError as error:
            self._error(self._words(error))
        except KeyboardInterrupt:  # a second Ctrl-C, before the engine has seen the first
            self._note(STOPPED)
        else:
            self._count(answer)

    def _words(self, error: CodeLlamaError) -> str:
        grown = any(message["role"] == "assistant" for message in self._session.messages)
        if not (grown and isinstance(error, ContextLengthError)):
            return spelled(error)
        return (
            f"the conversation has {error.n_prompt} tokens with this question and the context holds "
            f"{error.n_ctx}: /reset starts over"
        )

    def _show(self, answer: Answer) -> None:
        if answer.dropped:
            self._note(f"the context has no room for the oldest {answer.dropped} messages")
        with self._writer(self._console) as writer:
            for text in answer:
                writer.push(printable(text))

    def _count(self, answer: Answer) -> None:
        self._usage, self._timings = answer.usage, answer.timings
        self._answers += 1
        self._tokens += self._usage.completion_tokens
        used, n_ctx = self._usage.total_tokens, self._session.llm.n_ctx
        self._note(
            f"{self._usage.completion_tokens} tokens, {self._timings.decode_per_second:.1f} tokens/s, "
            f"context {used} of {n_ctx}"
        )
        if answer.finish_reason is FinishReason.CANCELLED:
            self._note(STOPPED)
        elif answer.finish_reason is FinishReason.LENGTH and used >= n_ctx:
            self._error(f"the context is full, {used} of {n_ctx} tokens: /reset starts over")
        elif answer.finish_reason is FinishReason.LENGTH:
            self._note("cut off by --max-tokens")
        self._console.print()

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, soft_wrap=True)

    def _error(self, text: str) -> None:
        self._console.print(f"Error: {text}", style="red", markup=False, soft_wrap=True)


class PlainStream:
    """Text as it comes, for `--plain`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = "\n"

    def __enter__(self) -> PlainStream:
        return self

    def __exit__(self, *exc: Any) -> None:
        if not self._last.endswith("\n"):
            self._console.file.write("\n")

    def push(self, text: str) -> None:
        """Write `text`."""
        self._console.file.write(text)
        self._console.file.flush()
        self._last = text


@contextlib.contextmanager
def stopped_by_ctrl_c(answer: Answer) -> Iterator[None]:
    """The first Ctrl-C ends the answer at its next token; another one is a KeyboardInterrupt."""

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        answer.cancel()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def no_echo() -> Iterator[None]:
    """Keep keys that are pressed meanwhile out of the picture; they wait for the next prompt."""
    try:
        import termios

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError):  # Windows, or no terminal
        yield
        return
    silent = before.copy()
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
