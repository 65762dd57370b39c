#!/usr/bin/env python3
"""Measure a server on a busy machine: codellama's beside llama-server, both at their defaults.

    bench_busy.py MODEL.gguf                       all cases but the compiler
    bench_busy.py MODEL.gguf --fixed 1 --fixed 2   also codellama with so many threads, whatever happens
    bench_busy.py MODEL.gguf --case compiler --build FOLDER --seconds 300
                                                   beside a compiler; FOLDER is a configured CMake build

llama-server comes from scripts/build_llama_tools, a model of random weights from
scripts/make_random_model.py. Runs are interleaved, each with new processes; the table has medians, and
codellama's value ÷ the others'. The last line is one JSON document with every value.

Nothing else may run meanwhile: what is measured is how the servers share the machine.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import click

from bench import disturbing, servers
from bench.cases import calibrate
from bench.client import Answer, BenchError, Client
from bench.report import Row, heading, publish, table
from bench.servers import Running, Settings, Spec, running
from bench.texts import Texts

CLIENTS = 8
PROMPT = 2000
TOKENS = 48  # of an answer; so many are sure to end in every phase
QUOTA = 1.5
Make = Callable[[int], Spec]
Measure = Callable[[Client, "Work"], Awaitable[dict[str, float]]]


@dataclass(frozen=True)
class Work:
    """What a measurement needs: prompts, seconds to go on for, and a number that no other has."""

    texts: Texts
    seconds: float
    run: int


@dataclass(frozen=True)
class Case:
    """`measure` while `disturbance` goes on; `wanted` of the first figure, ours ÷ llama-server's.

    `confined` is "core" or "quota" if the servers get less of the machine.
    """

    title: str
    measure: Measure
    disturbance: Callable[[], AbstractAsyncContextManager[None]]
    wanted: float
    confined: str = ""


async def answers(client: Client, work: Work, clients: int = 1) -> dict[str, float]:
    """Tokens per second of `clients` at once, all seconds together and in the worst of them."""
    end = time.perf_counter() + work.seconds
    began = time.perf_counter()
    got = await asyncio.gather(*(_one(client, work, n, end) for n in range(clients)))
    ended = max(answer.ended for one in got for answer in one)
    tokens = sum(answer.completion_tokens for one in got for answer in one)
    moments = [moment for one in got for answer in one for moment in answer.arrivals]
    counts = [0] * max(1, int(min(ended, end) - began))
    for moment in moments:
        second = int(moment - began)
        if second < len(counts):
            counts[second] += 1
    return {"rate": tokens / (ended - began), "worst": float(min(counts))}


async def _one(client: Client, work: Work, number: int, end: float) -> list[Answer]:
    done: list[Answer] = []
    while time.perf_counter() < end:
        prompt = work.texts.prompt(16, work.run, number, len(done))
        done.append(
            await client.stream(
                "completions", prompt=prompt, max_tokens=TOKENS, temperature=0, ignore_eos=True
            )
        )
    return done


async def prompts(client: Client, work: Work) -> dict[str, float]:
    """Tokens per second of prompts, one after the other."""
    rates = []
    for number in range(2):
        prompt = work.texts.prompt(PROMPT, work.run, "long", number)
        answer = await client.stream("completions", prompt=prompt, max_tokens=1, temperature=0)
        rates.append(answer.prompt_tokens / answer.first)
    return {"rate": sum(rates) / len(rates)}


many = partial(answers, clients=CLIENTS)
CASES: dict[str, Case] = {
    "quiet": Case("quiet, 1 client", answers, disturbing.nothing, 1.0),
    "quiet_many": Case(f"quiet, {CLIENTS} clients", many, disturbing.nothing, 1.0),
    "busy": Case("a core kept busy, 1 client", answers, disturbing.busy, 1.8),
    "busy_many": Case(f"a core kept busy, {CLIENTS} clients", many, disturbing.busy, 1.5),
    "busy_prompt": Case(f"a core kept busy, prompt of {PROMPT}", prompts, disturbing.busy, 1.5),
    "pulse": Case(
        f"busy for {disturbing.PULSE_S:.0f} s, free as long",
        answers,
        disturbing.coming_and_going,
        1.4,
    ),
    "affinity": Case("confined to one core", answers, disturbing.nothing, 1.3, "core"),
    "quota": Case(f"a quota of {QUOTA} cores", answers, disturbing.nothing, 1.3, "quota"),
}
COMPILER = "compiler"


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--case", "names", multiple=True, type=click.Choice([*CASES, COMPILER]))
@click.option("--runs", type=click.IntRange(1), default=7, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=3.0, show_default=True)
@click.option("--fixed", multiple=True, type=click.IntRange(1), help="Ours with so many threads.")
@click.option("--build", type=click.Path(exists=True, path_type=Path), help="What is compiled.")
@click.option("--alone", is_flag=True, help="Without llama-server.")
@click.option("--most-seconds", default=86400.0, help="No run is begun after these.")
def main(
    model: Path,
    names: tuple[str, ...],
    runs: int,
    seconds: float,
    fixed: tuple[int, ...],
    build: Path | None,
    alone: bool,
    most_seconds: float,
) -> None:
    """Measure codellama with MODEL beside llama-server while the machine is disturbed."""
    settings = Settings(model=model, threads=None, slots=CLIENTS, ctx=4096, cells=8192)
    cases = {name: CASES[name] for name in names or CASES if name in CASES}
    if COMPILER in names:
        if build is None:
            raise click.UsageError(f"{COMPILER} needs --build")
        compiling = partial(disturbing.compiling, build, os.cpu_count() or 1)
        cases[COMPILER] = Case("beside a compiler, 1 client", answers, compiling, 1.0)
    makes: list[Make] = [partial(servers.codellama, settings, name="codellama")]
    if not alone:
        makes.append(partial(servers.llama_server, settings))
    for n in fixed:
        again = replace(settings, threads=n)
        makes.append(partial(servers.codellama, again, name=f"{n} threads"))
    servers.end_on_signals()
    bench = Bench(makes, seconds)
    try:
        asyncio.run(bench.run(cases, runs, most_seconds))
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    document = heading(
        "busy",
        asdict(settings) | {"model": model.name, "runs": bench.done, "seconds": seconds},
        servers.versions(),
    )
    document["results"] = [row.to_json() for row in bench.rows.values()]
    publish(document, [table(f"{bench.done} runs, medians", list(bench.rows.values()))])


class Bench:
    """The rows measured so far, and how to measure more."""

    def __init__(self, makes: list[Make], seconds: float) -> None:
        self._makes = makes
        self._seconds = seconds
        self._texts = Texts(0)
        self.done = 0  # runs
        self.rows: dict[str, Row] = {}

    async def run(self, cases: dict[str, Case], runs: int, most_s: float) -> None:
        """All cases, and in each the servers in turn, with another one first each time. No run is begun
        after so many seconds."""
        began = time.monotonic()
        while self.done < runs and time.monotonic() - began < most_s:
            turn = self.done % len(self._makes)
            makes = [*self._makes[turn:], *self._makes[:turn]]
            for confined in dict.fromkeys(case.confined for case in cases.values()):
                some = {key: case for key, case in cases.items() if case.confined == confined}
                with ExitStack() as undo:
                    words = _confinement(confined, undo)
                    await self._group([partial(_prefixed, make, words) for make in makes], some)
            self.done += 1

    async def _group(self, makes: Sequence[Make], cases: dict[str, Case]) -> None:
        """Servers of new processes, of which one at a time has work, through `cases`."""
        async with AsyncExitStack() as stack:
            started = [await stack.enter_async_context(running(make)) for make in makes]
            for server in started:
                await self._warm_up(server.client)
            for key, case in cases.items():
                for server in started:
                    await self._measure(key, case, server)

    async def _warm_up(self, client: Client) -> None:
        self._texts = await calibrate(client, self._texts)
        for warm in range(3):
            prompt = self._texts.prompt(16, "warm", warm)
            await client.whole(
                "completions", prompt=prompt, max_tokens=64, temperature=0, ignore_eos=True
            )

    async def _measure(self, key: str, case: Case, server: Running) -> None:
        seconds = self._seconds * (4 if key == "pulse" else 1)
        async with case.disturbance():
            work = Work(self._texts, seconds, self.done)
            found = await case.measure(server.client, work)
        self._note(key, case, server.spec.name, found)
        values = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        print(f"{key} run {self.done + 1}, {server.spec.name}: {values}", file=sys.stderr)

    def _note(self, key: str, case: Case, subject: str, found: dict[str, float]) -> None:
        subjects: dict[str, list[float]] = {make(0).name: [] for make in self._makes}
        for figure, value in found.items():
            title = case.title if figure == "rate" else f"{case.title}: {figure} second"
            wanted = {"llama-server": case.wanted} if figure == "rate" else {}
            if key == COMPILER:
                wanted = {"llama-server": 3.0} if figure == "worst" else {}
            row = self.rows.setdefault(
                f"{key}_{figure}",
                Row(f"{key}_{figure}", title, "tokens/s", "more", dict(subjects), wanted),
            )
            row.values[subject] = [*row.values[subject], value]


def _confinement(kind: str, undo: ExitStack) -> tuple[str, ...]:
    """The words before a server's command line."""
    if kind == "core":
        return disturbing.one_core()
    return undo.enter_context(disturbing.quota(QUOTA)) if kind == "quota" else ()


def _prefixed(make: Make, words: tuple[str, ...], port: int) -> Spec:
    spec = make(port)
    return replace(spec, command=(*words, *spec.command))


if __name__ == "__main__":
    main()
