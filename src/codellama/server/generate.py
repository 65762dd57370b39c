"""One HTTP request's way through the model: submit, collect or stream, cancel when the client leaves.

A streamed and a whole answer are fed by the same events. A waiting or streaming request costs a few
tasks and no thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

from codellama.compat.replies import Json
from codellama.engine.request import Delta, FinishReason
from codellama.errors import EngineDeadError, InvalidRequestError
from codellama.protocol.dialects import Dialect, dialect_of
from codellama.protocol.errors import status_and_type
from codellama.running.collected import Collected
from codellama.running.completion import delivery
from codellama.running.intake import check_count
from codellama.running.mailbox import Mailbox
from codellama.server.access import note_answers
from codellama.server.guard import path_of
from codellama.server.serving import Serving
from codellama.server.streams import DONE, MEDIA_TYPES, PINGS, EventStream, frames

if TYPE_CHECKING:
    from codellama.params import Prompt, SamplingOptions, SamplingParams
    from codellama.running.completion import Completion
    from codellama.running.language_model import LanguageModel, TextTokenizer

log = logging.getLogger(__name__)

# Of a stream with more than 200 tokens a second, the tokens of so much time are written together: nobody sees
# it, and each write takes time from the threads that decode. Every token still is an event of its own.
TOGETHER_S = 0.01
CLIENT_CLOSED_REQUEST = 499  # nginx's number; nobody is left to read it


class Renderer(Protocol):
    """How a dialect writes its answers (see `codellama.compat.replies`)."""

    @property
    def ends_with_done(self) -> bool: ...
    def head(self, index: int) -> list[Json]: ...
    def chunks(self, answer: Collected, delta: Delta) -> list[Json]: ...
    def tail(self, answers: Sequence[Collected]) -> list[Json]: ...
    def failure(self, body: Json) -> list[Json]: ...
    def whole(self, answers: Sequence[Collected]) -> Any: ...


class GenerationRequest(Protocol):
    """A request body that asks for text (see `codellama.protocol`)."""

    stream: bool

    def default_to(self, defaults: SamplingOptions, verbose: bool) -> None: ...
    @property
    def echo(self) -> bool: ...
    @property
    def candidates(self) -> int: ...
    @property
    def reports(self) -> bool: ...
    def prompts(self, llm: LanguageModel) -> list[Prompt]: ...
    def sampling(self, tokenizer: TextTokenizer) -> SamplingParams: ...
    def respell(self, error: InvalidRequestError) -> None: ...
    def reply(self, llm: LanguageModel, completions: Sequence[Completion]) -> Renderer: ...


class ClientGone(Exception):
    """The client has closed the connection."""


@dataclass(frozen=True)
class Job:
    """A submitted request: a completion per prompt, an answer per choice, and where news of them comes."""

    completions: Sequence[Completion]
    answers: list[Collected]
    reply: Renderer
    mailbox: Mailbox[News]
    stream: bool


async def generate(
    request: GenerationRequest, http: Request, serving: Serving, ping_interval: float
) -> Response:
    """Answer `request`, whole or as a stream."""
    # Tokenizing and compiling a grammar take milliseconds that other streams should not wait for.
    job = await run_in_threadpool(submit, request, serving.llm())
    note_answers(http.scope, job.completions[0].id, job.answers, request.candidates)
    if request.stream:
        dialect = dialect_of(path_of(http.scope))
        return EventStream(
            lambda receive: _frames(job, dialect, serving, receive, ping_interval),
            MEDIA_TYPES[dialect.framing],
        )
    try:
        async with aclosing(events(job, serving, http.receive, ping_interval)) as feed:
            async for news in feed:
                for index, delta in news:
                    job.answers[index].add(delta)
    except ClientGone:
        return client_gone()
    return JSONResponse(job.reply.whole(job.answers))


def submit(request: GenerationRequest, llm: LanguageModel) -> Job:
    """Check the request and hand all its prompts to the engine, or none."""
    mailbox: Mailbox[News] = Mailbox()
    if not request.stream:
        mailbox.hold()  # nobody reads before an answer has ended
    completions: list[Completion] = []
    answers: list[Collected] = []
    try:
        params = request.sampling(llm.tokenizer)
        prompts, n = request.prompts(llm), request.candidates
        check_count(n * len(prompts), llm.config)
        for prompt in prompts:
            deliver = delivery(mailbox, len(answers))
            completion = llm.generate(
                prompt,
                n=n,
                params=params,
                echo=request.echo,
                deliver=deliver,
                reports=request.reports,
            )
            completions.append(completion)
            answers += completion.blank(len(answers))
        reply = request.reply(llm, completions)
    except BaseException as error:
        for completion in completions:
            completion.cancel()
        if isinstance(error, InvalidRequestError):
            request.respell(error)
        raise
    return Job(completions, answers, reply, mailbox, request.stream)


async def events(
    job: Job, serving: Serving, receive: Receive, ping_interval: float
) -> AsyncGenerator[list[tuple[int, Delta]], None]:
    """(answer index, delta) of all completions, as many as have come.

    Of a stream, what comes quickly one after the other may come together, and nothing comes after every
    silent `ping_interval`. Of a whole answer nothing comes before a choice has ended.

    Raises what a completion raises, and ClientGone. Closing it cancels what is still running.
    """
    mailbox = job.mailbox
    watch = asyncio.create_task(_watch(receive, mailbox))
    silence = _Silence(mailbox, ping_interval if job.stream else None)
    pace = _Pace()
    serving.running.update(job.completions)
    left = len(job.answers)
    try:
        while left:
            news, failure = _read(await mailbox.atake())
            left -= sum(delta.finish_reason is not None for _, delta in news)
            silence.broken()
            if news or failure is None:
                yield news
            if failure is not None:
                raise failure
            if job.stream and pace.is_quick(len(news)):
                mailbox.hold(TOGETHER_S)
    finally:
        silence.close()
        mailbox.close()
        if left:
            for completion in job.completions:
                completion.cancel()
        serving.running.difference_update(job.completions)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


def _read(items: list[News]) -> tuple[list[tuple[int, Delta]], BaseException | None]:
    """The events among `items` up to a failure, and the failure, if there is one. Raises ClientGone."""
    news: list[tuple[int, Delta]] = []
    for item in items:
        if isinstance(item, ClientGone):
            raise item
        if isinstance(item, _Silence):
            continue
        failure = _failure(item[1])
        if failure is not None:
            return news, failure
        news.append(item)
    return news, None


def _failure(delta: Delta) -> BaseException | None:
    """What ends an answer before its time, if this does."""
    if delta.error is None and delta.finish_reason is FinishReason.CANCELLED:
        return cut_short()
    return delta.error


class _Pace:
    """How quickly events come, by the event loop's clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()

    def is_quick(self, n: int) -> bool:
        """Whether the `n` events since the last call would be several in `TOGETHER_S`."""
        last, self._last = self._last, self._loop.time()
        return 2 * (self._last - last) < TOGETHER_S * n


class _Silence:
    """Puts itself into a mailbox when nothing has come for `interval` seconds (None: never).

    One timer that is set anew only when it goes off: cheaper than a time limit on every wait.
    """

    def __init__(self, mailbox: Mailbox[News], interval: float | None) -> None:
        self._mailbox = mailbox
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._timer = self._loop.call_later(interval, self._check) if interval else None

    def broken(self) -> None:
        """Something has come."""
        self._since = self._loop.time()

    def _check(self) -> None:
        assert self._interval is not None, "there is a timer"
        left = self._since + self._interval - self._loop.time()
        if left <= 0:
            self._mailbox.put(self, urgent=True)
            left = self._interval
        self._timer = self._loop.call_later(left, self._check)

    def close(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()


News = tuple[int, Delta] | ClientGone | _Silence


async def _frames(
    job: Job, dialect: Dialect, serving: Serving, receive: Receive, ping_interval: float
) -> AsyncGenerator[bytes, None]:
    """The stream's bytes. An error after the first of them can only be one more event."""
    reply, answers, framing = job.reply, job.answers, dialect.framing
    try:
        head = frames(framing, (chunk for answer in answers for chunk in reply.head(answer.index)))
        if head:
            yield head
        async with aclosing(events(job, serving, receive, ping_interval)) as feed:
            async for news in feed:
                chunks: list[Json] = []
                for index, delta in news:
                    answers[index].add(delta)
                    chunks += reply.chunks(answers[index], delta)
                sent = frames(framing, chunks) or (b"" if news else PINGS[framing])
                if sent:
                    yield sent
        tail = frames(framing, reply.tail(answers)) + (DONE if reply.ends_with_done else b"")
        if tail:
            yield tail
    except ClientGone:
        return
    except Exception as error:
        if status_and_type(error)[0] == 500:
            log.exception("a streamed answer failed")
        yield frames(framing, reply.failure(dialect.error_body(error)[1]))


async def _watch(receive: Receive, mailbox: Mailbox[News]) -> None:
    """Put ClientGone into the mailbox when the client closes the connection."""
    await disconnected(receive)
    mailbox.put(ClientGone(), urgent=True)


async def disconnected(receive: Receive) -> None:
    """Wait until the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def client_gone() -> Response:
    """The response that nobody reads."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def cut_short() -> EngineDeadError:
    """Why an answer that was cancelled ended."""
    return EngineDeadError("the answer was cut short: the server is stopping")
