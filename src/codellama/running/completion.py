"""A running request as its caller sees it: iterate it, await it, collect it, cancel it.

The engine's thread hands deltas to whoever the request was submitted with, by default to the mailbox of a
`Completion`. The sync and the async iterators are two thin ways of taking them out. A whole answer is a
collected stream.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason, Timings, Usage
from codellama.errors import InvalidRequestError
from codellama.params import Message, Prompt, SamplingParams, ToolCall
from codellama.running.collected import Collected, likeliest, longest, total_usage
from codellama.running.mailbox import Mailbox
from codellama.running.tool_calls import AnswerReader, read_answer, words


@dataclass(frozen=True)
class Choice:
    """One finished answer. `stop` is the stop string or token id that ended it, if one did; `truncated`
    says that prompt and answer filled the context. `tool_calls` are not part of `text`."""

    index: int
    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    stop: str | int | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    truncated: bool = False
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Result:
    """All choices. `usage` counts the prompt once and the answers together; `timings` are those of
    the choice that took longest."""

    choices: tuple[Choice, ...]
    usage: Usage
    timings: Timings

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text


Deliver = Callable[[int, Delta], None]
"""Takes a choice's index and what is new in it."""


def delivery(mailbox: Mailbox[Any], first: int = 0) -> Deliver:
    """Puts what is new into `mailbox`, as (index, delta) with choices numbered from `first` on. The end of a
    choice is urgent."""

    def deliver(index: int, delta: Delta) -> None:
        last = delta.finish_reason is not None or delta.error is not None
        mailbox.put((first + index, delta), urgent=last)

    return deliver


def begin(deliver: Deliver, n: int, text: str) -> None:
    """Begin each of `n` choices with `text`."""
    if text:
        for index in range(n):
            deliver(index, Delta(text=text))


class Completion:
    """A running request with `n` choices.

    Iterating gives pieces of text (one choice only), for a `for` as well as an `async for` loop;
    `await` gives the `Result`, `events` everything as it comes. Leaving a loop early cancels the request.
    If the request fails, its error is raised from wherever the answer is being read.
    """

    def __init__(
        self,
        prompt: Prompt,
        n: int,
        mailbox: Mailbox[tuple[int, Delta]] | None,
        cancel: Callable[[], None],
        *,
        params: SamplingParams,
        scored: bool = False,
        keep: int | None = None,
        tasks: tuple[int, ...] = (),
    ) -> None:
        """`mailbox` is None if deltas go elsewhere; `cancel` ends the request.

        `params` are those that the request was made with. `scored` says that the prompt may have log
        probabilities, before the answers' own. If `keep` is not None, a result has only so many of the `n`
        choices, the likeliest. `tasks` are the engine's numbers of the choices.
        """
        self.id = uuid.uuid4().hex
        self.created = int(time.time())
        self.prompt = prompt
        self.params = params
        self.tasks = tasks
        self.n = n
        self._mailbox = mailbox
        self._cancel = cancel
        self._open = n  # choices whose end has not been read
        self._taken: deque[tuple[int, Delta]] = deque()  # out of the mailbox and not yet read
        self._keep = keep
        self._scored = scored
        self._result: Result | None = None

    @property
    def dropped(self) -> tuple[Message, ...]:
        """Turns of the dialog that the context had no room for."""
        return self.prompt.dropped

    def cancel(self) -> None:
        """End the request at the engine's next step; harmless if it has ended."""
        if self._open:
            self._cancel()

    def __repr__(self) -> str:
        if self._mailbox is None:
            state = "delivered elsewhere"
        elif self._open:
            state = "open: text() or result() waits for the answer"
        else:
            state = "ended"
        return f"<Completion {self.id}: n={self.n}, {state}>"

    # -- everything ---------------------------------------------------------------------------

    def events(self) -> Iterator[tuple[int, Delta]]:
        """(choice index, delta) as they come, until every choice has had its final delta."""
        mailbox = self._own_mailbox()
        try:
            while self._open:
                if not self._taken:
                    self._taken.extend(mailbox.take())
                yield self._next()
        finally:
            self.cancel()

    async def aevents(self) -> AsyncIterator[tuple[int, Delta]]:
        """The same for an event loop; an open stream costs no thread."""
        mailbox = self._own_mailbox()
        try:
            while self._open:
                if not self._taken:
                    self._taken.extend(await mailbox.atake())
                yield self._next()
        finally:
            self.cancel()

    def _own_mailbox(self) -> Mailbox[tuple[int, Delta]]:
        if self._mailbox is None:
            raise InvalidRequestError(
                "this request's deltas go to the {param} that it was submitted with",
                "deliver",
                "leave it out to read them here",
            )
        return self._mailbox

    def _next(self) -> tuple[int, Delta]:
        index, delta = self._taken.popleft()
        if delta.finish_reason is not None:
            self._open -= 1
        if delta.error is not None:
            raise delta.error
        return index, delta

    # -- text ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        self._need_one_choice(self.n, "use events() or result()")
        reader = AnswerReader.of(self.prompt, self.params)
        for _, delta in self.events():
            yield from words(reader, delta)

    async def __aiter__(self) -> AsyncIterator[str]:
        self._need_one_choice(self.n, "use events() or result()")
        reader = AnswerReader.of(self.prompt, self.params)
        async for _, delta in self.aevents():
            for text in words(reader, delta):
                yield text

    def text(self) -> str:
        """Wait for the end and return the text of the one choice. Raises InvalidRequestError if there
        are more."""
        self._need_one_choice(self._keep or self.n, "use result()")
        return self.result().text

    @staticmethod
    def _need_one_choice(n: int, remedy: str) -> None:
        if n != 1:
            raise InvalidRequestError("this request has {n} choices", "n", remedy, n=n)

    # -- all of it ----------------------------------------------------------------------------

    def blank(self, first: int = 0) -> list[Collected]:
        """A `Collected` for each choice, with nothing in it yet; numbered from `first` on."""
        usage = Usage(prompt_tokens=len(self.prompt.tokens))
        return [Collected(first + i, usage=usage) for i in range(self.n)]

    def collect(self) -> list[Collected]:
        """Wait for the end: all choices, in order. Nobody is woken before a choice has ended."""
        self._own_mailbox().hold()
        answers = self.blank()
        for index, delta in self.events():
            answers[index].add(delta)
        return answers

    def result(self) -> Result:
        """Wait for the end; asking again gives the same result."""
        if self._result is None:
            self._result = self._made_of(self.collect())
        return self._result

    async def aresult(self) -> Result:
        """The same for an event loop; so is `await` on the completion itself."""
        if self._result is None:
            self._own_mailbox().hold()
            answers = self.blank()
            async for index, delta in self.aevents():
                answers[index].add(delta)
            self._result = self._made_of(answers)
        return self._result

    def __await__(self) -> Generator[Any, None, Result]:
        """The result: `await llm.chat(...)`."""
        return self.aresult().__await__()

    def _made_of(self, answers: list[Collected]) -> Result:
        chosen = answers
        if self._keep is not None:
            chosen = likeliest(answers, self._keep, scored=self._scored)
        choices = tuple(
            _choice(i, answer, AnswerReader.of(self.prompt, self.params))
            for i, answer in enumerate(chosen)
        )
        return Result(choices, total_usage(answers, self.n), longest(answers))


def _choice(index: int, answer: Collected, reader: AnswerReader | None) -> Choice:
    if answer.finish_reason is None:
        raise InvalidRequestError("the stream has been read already", None, "collect it once")
    said = read_answer(reader, answer.text)
    return Choice(
        index=index,
        text=said.text,
        tokens=tuple(answer.tokens),
        finish_reason=answer.finish_reason,
        stop=answer.stop,
        logprobs=tuple(answer.logprobs),
        truncated=answer.truncated,
        tool_calls=said.calls,
    )
