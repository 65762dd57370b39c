"""A running request as its caller sees it: iterate it, await it, collect it, cancel it.

The engine's thread puts deltas into a mailbox; the sync and the async iterators are two thin ways of
taking them out. A whole answer is a collected stream: there is no other path.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason, Timings, Usage
from codellama.errors import InvalidRequestError
from codellama.params import Message, Prompt


@dataclass(frozen=True)
class Choice:
    """One finished answer. `stop` is the stop string or token id that ended it, if one did; `truncated`
    says that prompt and answer filled the context."""

    index: int
    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    stop: str | int | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    truncated: bool = False


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


def mean_logprob(n_tokens: int, logprobs: Sequence[TokenLogprob], first: int = 0) -> float:
    """Log probability per token of an answer, by which candidates are ranked; nothing ranks last.

    `n_tokens` count from number `first` on: a scored prompt's come before them, a stop token's after.
    """
    counted = logprobs[first : first + n_tokens]
    return sum(entry.logprob for entry in counted) / n_tokens if n_tokens else -math.inf


Deliver = Callable[[int, Delta], None]
"""Takes a choice's index and what is new in it."""


class Mailbox:
    """Deltas from the engine's thread to one consumer, waiting in a thread or in an event loop.

    A consumer that wants whole answers clears `eager`: it is then woken for the end of each choice
    only, and takes no time from the decoding threads before.
    """

    def __init__(self) -> None:
        self.eager = True
        self._deliver: Deliver | None = None
        self._items: deque[tuple[int, Delta]] = deque()
        self._arrived = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None

    def put(self, index: int, delta: Delta) -> None:
        """Called by the engine's thread."""
        with self._arrived:
            if self._deliver is not None:
                self._deliver(index, delta)
                return
            self._items.append((index, delta))
            if not self.eager and delta.finish_reason is None:
                return
            self._arrived.notify()
            if self._loop is not None and self._wake is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake.set)
                self._wake = None  # once is enough: it takes all there is

    def forward(self, deliver: Deliver) -> None:
        """Hand everything to `deliver` from now on, and first what has come."""
        with self._arrived:
            while self._items:
                deliver(*self._items.popleft())
            self._deliver = deliver

    def get(self) -> tuple[int, Delta]:
        """The next delta; blocks."""
        with self._arrived:
            while not self._items:
                self._arrived.wait()
            return self._items.popleft()

    async def aget(self) -> tuple[int, Delta]:
        """The next delta, for the running event loop."""
        while True:
            with self._arrived:
                if self._items:
                    return self._items.popleft()
                self._loop = asyncio.get_running_loop()
                self._wake = wake = asyncio.Event()
            await wake.wait()


class Completion:
    """A running request with `n` choices.

    Iterating gives pieces of text (one choice only), for a `for` as well as an `async for` loop;
    `events` gives everything. Leaving a loop early cancels the request. If the request fails, its
    error is raised from wherever the answer is being read.
    """

    def __init__(
        self,
        prompt: Prompt,
        n: int,
        mailbox: Mailbox,
        cancel: Callable[[], None],
        echo: str | None = None,
        keep: int | None = None,
    ) -> None:
        """`cancel` ends the request; `echo` is text that every choice begins with, None if the prompt is
        neither shown nor scored. A result has the `keep` likeliest of the `n` choices, by default all
        as they are."""
        self.id = uuid.uuid4().hex
        self.created = int(time.time())
        self.prompt = prompt
        self.n = n
        self._mailbox = mailbox
        self._cancel = cancel
        self._open = n
        self._keep = keep
        self._n_scored = 0 if echo is None else len(prompt.tokens)
        self._echo = [Delta(text=echo)] * n if echo else []
        self._collected: Result | None = None

    @property
    def dropped(self) -> tuple[Message, ...]:
        """Turns of the dialog that the context had no room for."""
        return self.prompt.dropped

    def cancel(self) -> None:
        """End the request at the engine's next step; harmless if it has ended."""
        if self._open:
            self._cancel()

    def only_whole(self) -> None:
        """Say that nobody reads the answers before they are whole: cheaper for the engine."""
        self._mailbox.eager = False

    def forward(self, deliver: Deliver) -> None:
        """Hand every event to `deliver` as it comes, instead of its being read here; on the engine's
        thread, so it must be quick. Errors come as a final delta with `error`."""
        for index, delta in self._echoes():
            deliver(index, delta)

        def count(index: int, delta: Delta) -> None:
            if delta.finish_reason is not None:
                self._open -= 1
            deliver(index, delta)

        self._mailbox.forward(count)

    # -- everything ---------------------------------------------------------------------------

    def events(self) -> Iterator[tuple[int, Delta]]:
        """(choice index, delta) as they come, until every choice has had its final delta."""
        try:
            yield from self._echoes()
            while self._open:
                yield self._take(*self._mailbox.get())
        finally:
            self.cancel()

    async def aevents(self) -> AsyncIterator[tuple[int, Delta]]:
        """The same for an event loop; an open stream costs no thread."""
        try:
            for event in self._echoes():
                yield event
            while self._open:
                yield self._take(*await self._mailbox.aget())
        finally:
            self.cancel()

    def _echoes(self) -> Iterator[tuple[int, Delta]]:
        echoes, self._echo = self._echo, []
        yield from enumerate(echoes)

    def _take(self, index: int, delta: Delta) -> tuple[int, Delta]:
        if delta.finish_reason is not None:
            self._open -= 1
        if delta.error is not None:
            raise delta.error
        return index, delta

    # -- text ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        self._need_one_choice()
        for _, delta in self.events():
            if delta.text:
                yield delta.text

    async def __aiter__(self) -> AsyncIterator[str]:
        self._need_one_choice()
        async for _, delta in self.aevents():
            if delta.text:
                yield delta.text

    def _need_one_choice(self) -> None:
        if self.n != 1:
            raise InvalidRequestError(
                "this request has {n} choices: use events() or result()", "n", n=self.n
            )

    # -- all of it ----------------------------------------------------------------------------

    def result(self) -> Result:
        """Wait for the end; asking again gives the same result."""
        if self._collected is None:
            self.only_whole()
            builder = _Builder(self.n)
            for index, delta in self.events():
                builder.add(index, delta)
            self._collected = self._best(builder.result())
        return self._collected

    async def aresult(self) -> Result:
        """The same for an event loop."""
        if self._collected is None:
            self.only_whole()
            builder = _Builder(self.n)
            async for index, delta in self.aevents():
                builder.add(index, delta)
            self._collected = self._best(builder.result())
        return self._collected

    def _best(self, result: Result) -> Result:
        if self._keep is None:
            return result
        ranked = sorted(
            result.choices,
            key=lambda c: mean_logprob(len(c.tokens), c.logprobs, self._n_scored),
            reverse=True,
        )
        kept = (replace(choice, index=i) for i, choice in enumerate(ranked[: self._keep]))
        return replace(result, choices=tuple(kept))

    def text(self) -> str:
        """Wait for the end and return the text of the first choice."""
        return self.result().text


class _Builder:
    """Deltas to a `Result`."""

    def __init__(self, n: int) -> None:
        self._texts: list[list[str]] = [[] for _ in range(n)]
        self._tokens: list[list[int]] = [[] for _ in range(n)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(n)]
        self._finals: list[Delta | None] = [None] * n

    def add(self, index: int, delta: Delta) -> None:
        self._texts[index].append(delta.text)
        self._tokens[index] += delta.tokens
        self._logprobs[index] += delta.logprobs
        if delta.finish_reason is not None:
            self._finals[index] = delta

    def result(self) -> Result:
        choices = []
        usage, timings = Usage(), Timings()
        for index, final in enumerate(self._finals):
            if final is None or final.finish_reason is None:
                raise InvalidRequestError("the stream has been read already: collect it once")
            choices.append(
                Choice(
                    index=index,
                    text="".join(self._texts[index]),
                    tokens=tuple(self._tokens[index]),
                    finish_reason=final.finish_reason,
                    stop=final.stop,
                    logprobs=tuple(self._logprobs[index]),
                    truncated=final.truncated,
                )
            )
            if final.usage is not None:
                more = final.usage.completion_tokens
                usage = usage if index else replace(final.usage, completion_tokens=0)
                usage = replace(usage, completion_tokens=usage.completion_tokens + more)
            if final.timings is not None:
                timings = max(timings, final.timings, key=lambda t: t.prompt_s + t.decode_s)
        return Result(tuple(choices), usage, timings)
