#!/usr/bin/env python3
"""Measure what a JSON schema costs a server, codellama's beside llama-server.

    bench_schema.py MODEL.gguf                     beside llama-server, if scripts/build_llama_tools built it
    bench_schema.py MODEL.gguf --runs 3 --alone    ours only

Processor time of the whole server for each token, with schemas and without; the first token under a schema
that the server has never seen; and how a plain stream fares beside three constrained ones. Answers are
drawn at temperature 1, so a model of random weights is the worst case: nearly every token has to be drawn
twice. The smaller the model, the more a schema weighs. llama-server is left out where a schema has 1,000
choices: it gave no answer in 200 seconds. The last line of the output is one JSON document.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench import servers
from bench.client import Answer, BenchError
from bench.report import Row, heading, publish, table
from bench.servers import Running, Settings, Spec, running

OURS = "codellama"
STREAMS = 8
TICK_S = 1 / os.sysconf("SC_CLK_TCK")  # the system counts processor time in these
Json = dict[str, Any]
Make = Callable[[int], Spec]


def sections(salt: object = "") -> Json:
    """An object of 60 objects, 33 kB as JSON; another one for each `salt`."""
    properties = {f"section_{i:02}": _section(f"{salt}{i}") for i in range(60)}
    return _closed(properties)


def _section(name: str) -> Json:
    label = {"type": "string", "maxLength": 24, "description": f"a short label of section {name}"}
    choice = {"enum": ["low", "middle", "high", f"like section {name}", None]}
    parts = {
        "label": label,
        "enabled": {"type": "boolean", "description": "whether the section takes part at all"},
        "weight": {"type": "integer", "minimum": 0, "maximum": 100},
        "choice": choice,
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4},
        "ratio": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
    }
    return _closed(parts)


def _closed(properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def choices(count: int = 1000, least: int = 200) -> Json:
    """A list of at least `least` out of `count` strings, so that an answer is long."""
    texts = [f"choice number {i} of many" for i in range(count)]
    return {"type": "array", "items": {"enum": texts}, "minItems": least}


@dataclass(frozen=True)
class Figure:
    """A row of the table: what its value should stay below, and whether llama-server can show it."""

    title: str
    unit: str
    limit: float | None = None
    both: bool = True


FIGURES = {
    "plain_1": Figure("1 stream, no schema", "ms/token"),
    "plain_8": Figure("8 streams, no schema", "ms/token"),
    "sections_1": Figure("1 stream, 33 kB of schema", "ms/token"),
    "sections_8": Figure("8 streams, 33 kB of schema", "ms/token"),
    "choices_1": Figure("1 stream, 1,000 choices", "ms/token", both=False),
    "choices_8": Figure("8 streams, 1,000 choices", "ms/token", both=False),
    "sections_cost": Figure("33 kB of schema ÷ none, 8 streams", "×", 1.15),
    "choices_cost": Figure("1,000 choices ÷ none, 1 stream", "×", 1.2, both=False),
    "very_first": Figure("first token under a server's very first schema", "ms"),
    "first": Figure("first token under a new schema of 33 kB", "ms"),
    "beside_sections": Figure("slowdown beside three with 33 kB of schema", "×"),
    "beside_choices": Figure("slowdown beside three with 1,000 choices", "×", 1.5, both=False),
}


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--tokens", type=click.IntRange(8), default=256, show_default=True, help="An answer.")
@click.option(
    "--threads", type=click.IntRange(1), default=os.cpu_count(), show_default="one per core"
)
@click.option("--alone", is_flag=True, help="Leave llama-server out.")
def main(model: Path, runs: int, tokens: int, threads: int, alone: bool) -> None:
    """Measure codellama with MODEL, beside llama-server."""
    settings = Settings(model=model, threads=threads, slots=STREAMS, ctx=1024, cells=8192)
    makes: list[Make] = [partial(servers.codellama, settings)]
    if not alone and servers.built("llama-server"):
        makes.append(partial(servers.llama_server, settings))
    rows: dict[str, Row] = {}
    servers.end_on_signals()
    try:
        for run in range(runs):
            asyncio.run(_run(makes, run, tokens, rows))
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    described = asdict(settings) | {"model": model.name, "runs": runs, "tokens": tokens}
    document = heading("schema", described, servers.versions())
    document["results"] = [row.to_json() for row in rows.values()]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows.values():
        groups.setdefault(tuple(row.values), []).append(row)
    publish(document, [table(f"{runs} runs, medians", group) for group in groups.values()])


async def _run(makes: Sequence[Make], run: int, tokens: int, rows: dict[str, Row]) -> None:
    """New processes, measured one after the other, each first in its turn."""
    turn = run % len(makes)
    async with AsyncExitStack() as stack:
        started = [
            await stack.enter_async_context(running(make))
            for make in (*makes[turn:], *makes[:turn])
        ]
        for server in sorted(started, key=lambda server: server.spec.name != OURS):
            subject = server.spec.name
            found = await Measured(server, run, tokens).figures()
            for key, value in found.items():
                figure = FIGURES[key]
                row = Row(key, figure.title, figure.unit, "less", {}, limit=figure.limit)
                rows.setdefault(key, row).values.setdefault(subject, []).append(value)
                print(f"run {run + 1}, {subject}: {key} {value:.4g}", file=sys.stderr, flush=True)


class Measured:
    """One run with one server."""

    def __init__(self, server: Running, run: int, tokens: int) -> None:
        self._server = server
        self._run = run
        self._tokens = tokens
        self._both = server.spec.name == OURS

    async def figures(self) -> dict[str, float]:
        """All figures that this server can show."""
        forms: dict[str, Json | None] = {"plain": None, "sections": sections()}
        if self._both:
            forms["choices"] = choices()
        await self._stream(None, 0)
        very_first = await self._stream({"type": "boolean"}, 0)
        fresh = await self._stream(sections(f"{self._run} "), 0)
        found = {"very_first": 1000 * very_first.first, "first": 1000 * fresh.first}
        for name, schema in forms.items():
            await self._stream(schema, 0)  # compiles it
            for streams in (1, STREAMS):
                found[f"{name}_{streams}"] = await self._cost(schema, streams)
        found["sections_cost"] = found["sections_8"] / found["plain_8"]
        beside_plain = await self._beside(None)
        found["beside_sections"] = beside_plain / await self._beside(forms["sections"])
        if self._both:
            found["choices_cost"] = found["choices_1"] / found["plain_1"]
            found["beside_choices"] = beside_plain / await self._beside(forms["choices"])
        return {key: found[key] for key in FIGURES if key in found}

    async def _cost(self, schema: Json | None, streams: int) -> float:
        """Milliseconds of the server's processor time for each token."""
        before = self._processor_s()
        answers = await asyncio.gather(*(self._stream(schema, i) for i in range(streams)))
        tokens = sum(answer.completion_tokens for answer in answers)
        return 1000 * max(self._processor_s() - before, TICK_S) / tokens

    async def _beside(self, schema: Json | None) -> float:
        """Tokens per second of a plain stream while three others with `schema` are written."""
        plain, *_ = await asyncio.gather(
            self._stream(None, 0), *(self._stream(schema, i) for i in (1, 2, 3))
        )
        return plain.decode_rate

    async def _stream(self, schema: Json | None, index: int) -> Answer:
        form: Json = {"ignore_eos": True} if schema is None else {"json_schema": schema}
        return await self._server.client.stream(
            "completions",
            prompt=f"{self._run} {index} write it down:",
            max_tokens=self._tokens,
            temperature=1,
            seed=100 * self._run + index,
            **form,
        )

    def _processor_s(self) -> float:
        seconds = self._server.processor_s()
        if seconds is None:
            raise BenchError("this system does not tell the processor time of a process")
        return seconds


if __name__ == "__main__":
    main()
