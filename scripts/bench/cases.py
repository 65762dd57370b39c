"""What is measured of a server: each case does some requests and returns its figures.

All are greedy and go on to their `max_tokens` whatever the model says, but for the edits. Every run of
a case has prompts of its own, so no cache knows them.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from bench.client import Answer, BenchError, Client, Recording, total_rate
from bench.texts import Texts, edit

GREEDY: Mapping[str, Any] = {"temperature": 0, "ignore_eos": True}
RANDOM: Mapping[str, Any] = {
    "temperature": 1,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "ignore_eos": True,
}
HEAD_START = 4  # writes of a stream before something else disturbs it


@dataclass(frozen=True)
class Sizes:
    """How much of everything, in tokens and requests."""

    short: int = 32
    long: int = 2000
    shared: int = 1000
    tail: int = 16
    answer: int = 128
    brief: int = 32
    stream: int = 1024
    edit: int = 200
    clients: int = 8
    sharers: int = 16
    choices: int = 8
    edits: int = 6


FULL = Sizes()
QUICK = Sizes(
    short=16, long=300, shared=100, tail=8, answer=16, brief=4, stream=2400, edit=16, clients=3,
    sharers=4, choices=3, edits=1,
)  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """A figure of a case; `title` may hold names of `Sizes` in braces.

    `wanted` is what codellama's ÷ llama-server's should reach, if anything.
    """

    key: str
    title: str
    unit: str
    better: Literal["more", "less"]
    wanted: float | None = None

    def titled(self, sizes: Sizes) -> Metric:
        """The metric with the sizes written into its title."""
        return replace(self, title=self.title.format(**asdict(sizes)))


@dataclass(frozen=True)
class Work:
    """What a case needs to know: its prompts, its sizes, and which run this is."""

    texts: Texts
    sizes: Sizes
    run: int

    def prompt(self, tokens: int, *key: object) -> str:
        """Text that only this run of this case has."""
        return self.texts.prompt(tokens, self.run, *key)


Measure = Callable[[Client, Work], Awaitable[dict[str, float]]]


@dataclass(frozen=True)
class Case:
    """Some requests and the figures that come of them."""

    name: str
    metrics: tuple[Metric, ...]
    measure: Measure


async def decode(client: Client, work: Work) -> dict[str, float]:
    """One client, one stream."""
    prompt = work.prompt(work.sizes.short, "decode")
    answer = await client.stream(
        "completions", prompt=prompt, max_tokens=work.sizes.answer, **GREEDY
    )
    return {"decode": answer.decode_rate}


async def prompt(client: Client, work: Work) -> dict[str, float]:
    """One long prompt, one token."""
    text = work.prompt(work.sizes.long, "prompt")
    answer = await client.whole("completions", prompt=text, max_tokens=1, **GREEDY)
    return {"prompt": answer.prompt_tokens / answer.seconds}


async def clients_streamed(client: Client, work: Work) -> dict[str, float]:
    """Several clients with different prompts, answers streamed."""
    return {"clients_streamed": total_rate(await _clients(client.stream, work, "streamed"))}


async def clients_whole(client: Client, work: Work) -> dict[str, float]:
    """Several clients with different prompts, answers in one piece."""
    return {"clients_whole": total_rate(await _clients(client.whole, work, "whole"))}


async def _clients(send: Callable[..., Awaitable[Answer]], work: Work, name: str) -> list[Answer]:
    sizes = work.sizes
    prompts = [work.prompt(sizes.short, name, i) for i in range(sizes.clients)]
    return await asyncio.gather(
        *(send("completions", prompt=p, max_tokens=sizes.answer, **GREEDY) for p in prompts)
    )


async def sharing(client: Client, work: Work) -> dict[str, float]:
    """Clients that arrive together and share a beginning nobody has seen."""
    sizes = work.sizes
    beginning = work.prompt(sizes.shared, "sharing")
    prompts = [f"{beginning} {work.prompt(sizes.tail, 'tail', i)}" for i in range(sizes.sharers)]
    answers = await asyncio.gather(
        *(client.stream("completions", prompt=p, max_tokens=sizes.brief, **GREEDY) for p in prompts)
    )
    return {
        "sharing_first": statistics.median(answer.first for answer in answers),
        "sharing_total": max(a.ended for a in answers) - min(a.sent for a in answers),
    }


async def choices(client: Client, work: Work) -> dict[str, float]:
    """Several answers to one cold prompt: in one request, and in as many requests at once."""
    sizes = work.sizes
    body: dict[str, Any] = {"max_tokens": sizes.brief, **GREEDY}
    text = work.prompt(sizes.shared, "choices")
    together = await client.whole("completions", prompt=text, n=sizes.choices, **body)
    text = work.prompt(sizes.shared, "requests")
    apart = await asyncio.gather(
        *(client.whole("completions", prompt=text, **body) for _ in range(sizes.choices))
    )
    return {
        "choices": together.seconds,
        "requests": max(a.ended for a in apart) - min(a.sent for a in apart),
    }


async def gap(client: Client, work: Work) -> dict[str, float]:
    """The longest silence of a stream while a long prompt is being read."""
    sizes = work.sizes
    recording = Recording()
    text = work.prompt(sizes.short, "stream")
    stream = asyncio.create_task(
        client.stream("completions", recording, prompt=text, max_tokens=sizes.stream, **GREEDY)
    )
    try:
        await _grown(stream, recording, HEAD_START)
        before = len(recording.chunks) - 1
        text = work.prompt(sizes.long, "disturbance")
        await client.whole("completions", prompt=text, max_tokens=1, **GREEDY)
        await _grown(stream, recording, len(recording.chunks) + 1)
        moments = [moment for moment, _ in recording.chunks[before:]]
    finally:
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
    return {"gap": 1000 * max(b - a for a, b in zip(moments, moments[1:], strict=False))}


async def _grown(stream: asyncio.Task[Answer], recording: Recording, chunks: int) -> None:
    while len(recording.chunks) < chunks:
        if stream.done():
            stream.result()  # raises what went wrong, if anything did
            raise BenchError(
                "a stream ended before the long prompt was read: its answer is too short"
            )
        await asyncio.sleep(0.005)


async def edits(client: Client, work: Work) -> dict[str, float]:
    """Chats that ask for a function with a small change, one after the other.

    As many before them are not counted: who drafts learns from them what a step costs on this machine
    and how answers go here, and a server is not started anew for every few edits.
    """
    answers = []
    for i in range(2 * work.sizes.edits):
        messages = [{"role": "user", "content": edit(i, work.run)}]
        body: dict[str, Any] = {"messages": messages, "max_tokens": work.sizes.edit}
        answers.append(await client.stream("chat/completions", temperature=0, **body))
    counted = answers[work.sizes.edits :]
    tokens = sum(a.completion_tokens - 1 for a in counted)
    return {"edits": tokens / sum(max(a.ended - a.arrivals[0], 1e-9) for a in counted)}


async def noise(client: Client, work: Work) -> dict[str, float]:
    """An answer drawn at random, which nobody can guess ahead."""
    text = work.prompt(work.sizes.short, "noise")
    body: dict[str, Any] = {"max_tokens": work.sizes.answer, "seed": work.run, **RANDOM}
    answer = await client.stream("completions", prompt=text, **body)
    return {"noise": answer.decode_rate}


def _case(measure: Measure, *metrics: Metric) -> Case:
    return Case(measure.__name__, metrics, measure)


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        _case(decode, Metric("decode", "1 client, decode", "tokens/s", "more", 1.0)),
        _case(prompt, Metric("prompt", "prompt of {long} tokens", "tokens/s", "more", 1.0)),
        _case(
            clients_streamed,
            Metric("clients_streamed", "{clients} clients, streamed", "tokens/s", "more", 1.0),
        ),
        _case(
            clients_whole,
            Metric("clients_whole", "{clients} clients, whole answers", "tokens/s", "more", 1.0),
        ),
        _case(
            sharing,
            Metric(
                "sharing_first",
                "{sharers} sharing {shared}: first token, median",
                "s",
                "less",
                0.15,
            ),
            Metric(
                "sharing_total",
                "{sharers} sharing {shared}: total, {brief} tokens each",
                "s",
                "less",
                0.35,
            ),
        ),
        _case(
            choices,
            Metric("choices", "n={choices} of a {shared}-token prompt, total", "s", "less", 1.0),
            Metric("requests", "{choices} requests with one {shared}-token prompt", "s", "less"),
        ),
        _case(gap, Metric("gap", "longest gap while {long} tokens arrive", "ms", "less", 1.0)),
        _case(edits, Metric("edits", "code edits, greedy", "tokens/s", "more")),
        _case(noise, Metric("noise", "nothing to draft", "tokens/s", "more")),
    )
}
SERVING = ("decode", "prompt", "clients_streamed", "clients_whole", "sharing", "choices", "gap")
"""The cases that need no special model or options."""


async def calibrate(client: Client, texts: Texts) -> Texts:
    """`texts` with the number of words that makes a token of the server's model."""
    sample = texts.sample()
    answer = await client.whole("completions", prompt=sample, max_tokens=1, temperature=0)
    return texts.calibrated(answer.prompt_tokens)
