"""A conversation on a terminal: what is asked, shown, noted and kept; the commands act on this.

Ctrl-C while an answer is written stops the answer and keeps what was said; an error is one line and the
conversation goes on.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from codellama.cli import spelled
from codellama.cli.attachments import Attachment, with_question
from codellama.cli.code_blocks import CodeBlock, code_blocks
from codellama.cli.streams import printable, silent, speeds
from codellama.cli.waiting import texts
from codellama.engine.request import FinishReason, Timings, Usage
from codellama.errors import CodeLlamaError, ContextLengthError
from codellama.params import Message
from codellama.session import Answer, Session

if TYPE_CHECKING:
    from codellama.cli.keeper import Keeper
    from codellama.params import SamplingOptions

STOPPED = "stopped; /regen answers again"


class Writer(Protocol):
    """Shows an answer as it comes, as a context manager."""

    def push(self, text: str) -> None:
        """Add text."""

    def __enter__(self) -> Writer: ...

    def __exit__(self, *exc: Any) -> None: ...


class Talk:
    """One `session`, shown on `console` by `writer`, drawn with `sampling`, written down by `keeper`."""

    def __init__(
        self,
        session: Session,
        console: Console,
        writer: Callable[[Console], Writer],
        sampling: SamplingOptions,
        keeper: Keeper | None = None,
    ) -> None:
        """Without `keeper`, nothing is written down."""
        self.session = session
        self.console = console
        self.sampling = sampling
        self.keeper = keeper
        self.attached: list[Attachment] = []  # to the next question
        self.begun: str | None = None  # the last question, to be changed and asked again
        self._writer = writer
        self._answers = 0
        self._tokens = 0
        self._usage = Usage()
        self._timings = Timings()

    # -- asking -------------------------------------------------------------------------------

    def ask(self, text: str) -> None:
        """Ask with what is attached, or in the place of the question that was to be changed."""
        question = with_question(self.attached, text)
        if self.begun is None:
            asked = self.answer(lambda: self.session.ask(question, **self.sampling), question)
        else:
            self.begun = None
            asked = self.answer(lambda: self.session.replace(question, **self.sampling), question)
        if asked:
            self.attached.clear()

    def regen(self) -> None:
        """Answer the last question again."""
        question = self.session.question or ""
        self.answer(lambda: self.session.regen(**self.sampling), question)

    def answer(self, ask: Callable[[], Answer], question: str) -> bool:
        """Show and keep the answer that `ask` gives; False if the question was refused."""
        try:
            answer = ask()
        except CodeLlamaError as error:
            self.error(self._words(error, question))
            return False
        try:
            with stopped_by_ctrl_c(answer), silent():
                self._show(answer)
        except CodeLlamaError as error:
            self.error(spelled(error))
        except KeyboardInterrupt:  # a second Ctrl-C, before the engine has seen the first
            self.note(STOPPED)
        else:
            self._count(answer)
        self.keep()
        return True

    def _show(self, answer: Answer) -> None:
        if answer.dropped:
            self.note(f"the context has no room for the oldest {answer.dropped} messages")
        if self.keeper is not None:
            self.keeper.begin(answer)
        with contextlib.closing(texts(answer.events(), answer.n_prompt, self.console)) as pieces:
            first = next(pieces, "")
            with self._writer(self.console) as writer:
                self._push(writer, first)
                for text in pieces:
                    self._push(writer, text)

    def _push(self, writer: Writer, text: str) -> None:
        if self.keeper is not None:
            self.keeper.say(text)
        writer.push(printable(text))

    def keep(self) -> None:
        """Write down what was said."""
        if self.keeper is None:
            return
        try:
            self.keeper.save(self.session)
        except OSError as error:
            self.error(f"the conversation cannot be saved: {error.strerror}")

    def _words(self, error: CodeLlamaError, question: str) -> str:
        messages = self.session.messages
        grown = any(message["role"] == "assistant" for message in messages)
        if not (grown and isinstance(error, ContextLengthError)):
            return spelled(error)
        alone = [m for m in messages if m["role"] == "system"] + [_user(question)]
        n_alone = len(self.session.llm.chat_prompt(alone).tokens)
        if n_alone >= error.n_ctx:
            return f"the question alone has {n_alone} tokens and the context holds {error.n_ctx}: shorten it"
        return (
            f"the conversation has {error.n_prompt} tokens with this question and the context holds "
            f"{error.n_ctx}: /reset starts over, /undo takes back the last question with its answer"
        )

    # -- telling ------------------------------------------------------------------------------

    def _count(self, answer: Answer) -> None:
        self._usage, self._timings = answer.usage, answer.timings
        self._answers += 1
        self._tokens += self._usage.completion_tokens
        used, n_ctx = self._usage.total_tokens, self.session.llm.n_ctx
        blocks = len(self.blocks())
        code = f", {blocks} code block{'s' * (blocks > 1)} (/copy, /write)" if blocks else ""
        self.note(
            f"{self._usage.completion_tokens} tokens, {self._timings.decode_per_second:.1f} tokens/s, "
            f"context {used} of {n_ctx}{code}"
        )
        if answer.finish_reason is FinishReason.CANCELLED:
            self.note(STOPPED)
        elif answer.finish_reason is FinishReason.LENGTH and used >= n_ctx:
            self.error(f"the context is full, {used} of {n_ctx} tokens: /reset starts over")
        elif answer.finish_reason is FinishReason.LENGTH:
            self.note("cut off by --max-tokens")
        self.console.print()

    def stats(self) -> None:
        """Show tokens and speeds so far."""
        self.note(f"answers: {self._answers}, tokens in all: {self._tokens}")
        if self._answers:
            self.note(f"last answer: {speeds(self._usage, self._timings)}")
        self.note(f"context: {self._usage.total_tokens} of {self.session.llm.n_ctx} tokens used")
        threads = self.session.llm.status().threads
        self.note(f"threads: {threads.n} ({threads.why}); {threads.changes} changes")

    def forget_figures(self) -> None:
        """Another conversation begins."""
        self._usage = Usage()

    def last_answer(self) -> str:
        """The text of the last answer; empty without one."""
        messages = self.session.messages
        return messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else ""

    def blocks(self) -> list[CodeBlock]:
        """The code blocks of the last answer."""
        return code_blocks(self.last_answer())

    def note(self, text: str) -> None:
        """A line of the program's own."""
        self.console.print(text, style="dim", markup=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """What went wrong, in one line."""
        self.console.print(f"Error: {text}", style="red", markup=False, soft_wrap=True)


def _user(text: str) -> Message:
    return Message(role="user", content=text)


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
