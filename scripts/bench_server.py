#!/usr/bin/env python3
"""Measure an OpenAI server, or codellama's against others on the same model with the same settings.

    bench_server.py --url http://127.0.0.1:8080          any server that is running
    bench_server.py MODEL.gguf --against llama-server    both are started here
    bench_server.py MODEL.gguf --against llama-server --against llama_cpp.server \\
        --drafts --edit-model DEMO.gguf                  everything

llama-server comes from scripts/build_llama_tools, models of random weights from
scripts/make_random_model.py. Runs are interleaved, each with new processes; the table shows the medians
and, for every other server, the median of codellama's value ÷ its value, with what was wanted.
`--against codellama` shows the noise of the machine. The last line of the output is one JSON document with
every value.

Prompts differ from run to run, so nothing is cached that the case does not share itself. All answers
but the edits are greedy with a fixed number of tokens; tokens are counted by the servers.

On a machine with a GPU: `CODELLAMA_BACKEND=cuda scripts/build_llama_tools`, then `--n-gpu-layers 99`.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench import servers
from bench.cases import CASES, FULL, QUICK, SERVING, Sizes, Work, calibrate
from bench.client import BenchError, Client
from bench.report import Row, heading, publish, table
from bench.servers import Settings, Spec, running
from bench.texts import Texts

OURS, PLAIN = "codellama", "codellama, no drafts"
MEMORY_MB = 150  # that Python and its packages may need beyond llama-server
Make = Callable[[int], Spec]


@click.command()
@click.argument("model", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--url", help="Measure the server at this address instead of starting any.")
@click.option("--api-key", help="Its key.")
@click.option(
    "--against",
    multiple=True,
    type=click.Choice(["llama-server", "llama_cpp.server", "codellama"]),
    help="The server to compare with; repeatable.",
)
@click.option("--runs", type=click.IntRange(1), default=7, show_default=True)
@click.option(
    "--case", "cases", multiple=True, type=click.Choice(SERVING), help="Only this; repeatable."
)
@click.option("--drafts", is_flag=True, help="Measure drafts against none, too.")
@click.option(
    "--edit-model",
    type=click.Path(exists=True, path_type=Path),
    help="A model that can edit code, for --drafts where text matters.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=os.cpu_count(), show_default="one per core"
)
@click.option("--slots", type=click.IntRange(1), default=16, show_default=True)
@click.option("--ctx-size", type=int, default=4096, show_default=True, help="Tokens per request.")
@click.option("--cells", type=int, default=32768, show_default=True, help="Tokens for all of them.")
@click.option("--batch-size", type=int, default=512, show_default=True)
@click.option("--n-gpu-layers", type=int, default=0, show_default=True)
@click.option(
    "--flash-attn",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Not for llama_cpp.server.",
)
@click.option(
    "--cache-ram", type=int, default=0, show_default=True, help="MiB for prompts out of the slots."
)
@click.option(
    "--seed",
    type=int,
    default=lambda: int(time.time()),
    show_default="the time",
    help="Seed of the prompts; a server that keeps prompts should not see one twice.",
)
@click.option("--quick", is_flag=True, help="Tiny sizes, to see that it works.")
def main(
    model: Path | None,
    url: str | None,
    api_key: str | None,
    against: tuple[str, ...],
    runs: int,
    cases: tuple[str, ...],
    drafts: bool,
    edit_model: Path | None,
    threads: int,
    slots: int,
    ctx_size: int,
    cells: int,
    batch_size: int,
    n_gpu_layers: int,
    flash_attn: str,
    cache_ram: int,
    seed: int,
    quick: bool,
) -> None:
    """Measure the server at --url, or codellama with MODEL --against others."""
    if (url is None) == (model is None):
        raise click.UsageError("give either MODEL or --url")
    if model is not None and not against and not drafts:
        raise click.UsageError(
            "MODEL needs --against or --drafts: what should it be compared with?"
        )
    bench = Bench(QUICK if quick else FULL, runs, seed)
    names = cases or SERVING
    if url is not None:
        work = bench.one(url, api_key, names)
        settings: dict[str, Any] = {"url": url}
    else:
        assert model is not None
        common = Settings(
            model=model,
            threads=threads,
            slots=slots,
            ctx=ctx_size,
            cells=cells,
            batch=batch_size,
            gpu_layers=n_gpu_layers,
            cache_ram=cache_ram,
            flash_attn=flash_attn,
        )
        work = bench.all(common, against, names, drafts, edit_model)
        settings = asdict(common) | {"model": model.name}
    servers.end_on_signals()
    try:
        asyncio.run(work)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    bench.publish(settings)


class Bench:
    """The rows measured so far, and how to measure more."""

    def __init__(self, sizes: Sizes, runs: int, seed: int) -> None:
        self._sizes = sizes
        self._runs = runs
        self._seed = seed
        self._texts = Texts(seed)
        self._rows: list[Row] = []

    async def one(self, url: str, api_key: str | None, names: Sequence[str]) -> None:
        """Measure the server at `url`."""
        async with Client(url, api_key=api_key) as client:
            if not await client.ready():
                raise BenchError(f"nothing answers at {url}, or it has no model yet")
            rows: dict[str, Row] = {}
            await self._warm_up([(url, client)])
            for run in range(self._runs):
                await self._measure([(url, client)], names, run, rows)
            self._rows += rows.values()

    async def all(
        self,
        settings: Settings,
        against: Sequence[str],
        names: Sequence[str],
        drafts: bool,
        edit_model: Path | None,
    ) -> None:
        """Measure ours against others, and drafts against none."""
        ours = partial(servers.codellama, settings)
        if "llama-server" in against:
            await self._against_llama_server(ours, settings, names)
        if "llama_cpp.server" in against:
            theirs = partial(servers.llama_cpp_server, settings)
            rows = await self._group([ours, theirs], ["clients_whole"])
            self._rows += _wanting(rows, {"llama_cpp.server": 3.0})
        if "codellama" in against:
            again = partial(servers.codellama, settings, name="codellama again")
            self._rows += await self._group([ours, again], names)
        if drafts:
            await self._drafting(settings, edit_model, against)

    async def _against_llama_server(
        self, ours: Make, settings: Settings, names: Sequence[str]
    ) -> None:
        makes: list[Make] = [ours, partial(servers.llama_server, settings)]
        rows = await self._group(makes, names, memory=True)
        wanted = {m.key: m.wanted for name in names for m in CASES[name].metrics}
        for row in rows:
            goal = wanted.get(row.key)
            row.wanted = {} if goal is None else {"llama-server": goal}
        self._rows += rows
        if "choices" in names:
            self._rows.append(_one_request_for_many(rows, self._sizes))

    async def _drafting(
        self, settings: Settings, edit_model: Path | None, against: Sequence[str]
    ) -> None:
        def both(settings: Settings) -> list[Make]:
            return [
                partial(servers.codellama, settings, drafts=True),
                partial(servers.codellama, settings, name=PLAIN),
            ]

        self._rows += _wanting(await self._group(both(settings), ["noise"]), {PLAIN: 0.97})
        if edit_model is None:
            return
        settings = replace(settings, model=edit_model, slots=1, ctx=1024, cells=1024)
        makes: list[Make] = both(settings)
        if "llama-server" in against:
            makes.append(partial(servers.llama_server, settings))
            makes += [
                partial(servers.llama_server, settings, drafts=mode) for mode in servers.NGRAM_MODES
            ]
        (row,) = await self._group(makes, ["edits"])
        row.wanted = {PLAIN: 1.8}
        modes = {m: row.medians[m] for m in servers.NGRAM_MODES if m in row.values}
        if modes:
            row.wanted[max(modes, key=lambda mode: modes[mode])] = 1.0
        self._rows.append(row)

    async def _group(
        self, makes: Sequence[Make], names: Sequence[str], memory: bool = False
    ) -> list[Row]:
        """Start servers and measure them in turn; with `memory` also what they needed at most.

        Every run has new processes, and another one that is started first: of two that run the same
        program the first is a few percent slower, whichever the program.
        """
        rows: dict[str, Row] = {}
        peaks: dict[str, list[float]] = {}
        for run in range(self._runs):
            turn = run % len(makes)
            async with AsyncExitStack() as stack:
                started = [
                    await stack.enter_async_context(running(make))
                    for make in (*makes[turn:], *makes[:turn])
                ]
                pairs = [(server.spec.name, server.client) for server in started]
                await self._warm_up(pairs)
                await self._measure(pairs, names, run, rows)
                for server in started:
                    peak = server.peak_mb()
                    if peak is not None:
                        peaks.setdefault(server.spec.name, []).append(peak)
        return list(rows.values()) + (_memory(peaks) if memory else [])

    async def _warm_up(self, clients: Sequence[tuple[str, Client]]) -> None:
        for _, client in clients:
            self._texts = await calibrate(client, self._texts)

    async def _measure(
        self,
        clients: Sequence[tuple[str, Client]],
        names: Sequence[str],
        run: int,
        rows: dict[str, Row],
    ) -> None:
        """One run of the cases, whose figures are added to `rows`."""
        work = Work(self._texts, self._sizes, run)
        for name in names:
            case = CASES[name]
            for m in (metric.titled(self._sizes) for metric in case.metrics):
                rows.setdefault(m.key, Row(m.key, m.title, m.unit, m.better, {}))
            for subject, client in clients:
                try:
                    figures = await case.measure(client, work)
                except BenchError as error:
                    raise BenchError(f"{name}, {subject}: {error}") from error
                for key, value in figures.items():
                    rows[key].values.setdefault(subject, []).append(value)
                _say(name, run, subject, figures)

    def publish(self, settings: dict[str, Any]) -> None:
        """Print the tables and the JSON document."""
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in self._rows:
            groups.setdefault(tuple(row.values), []).append(row)
        tables = [table(f"{self._runs} runs, medians", rows) for rows in groups.values()]
        settings |= {"runs": self._runs, "seed": self._seed, "sizes": asdict(self._sizes)}
        document = heading("server", settings, servers.versions())
        document["results"] = [row.to_json() for row in self._rows]
        publish(document, tables)


def _wanting(rows: list[Row], wanted: dict[str, float]) -> list[Row]:
    for row in rows:
        row.wanted = wanted
    return rows


def _one_request_for_many(rows: Sequence[Row], sizes: Sizes) -> Row:
    """Our one request with n answers against llama-server's n requests."""
    by_key = {row.key: row for row in rows}
    return Row(
        "choices_of_requests",
        f"n={sizes.choices} here, {sizes.choices} requests there",
        "s",
        "less",
        {
            OURS: by_key["choices"].values[OURS],
            "llama-server": by_key["requests"].values["llama-server"],
        },
        {"llama-server": 0.4},
    )


def _memory(peaks: dict[str, list[float]]) -> list[Row]:
    """What the servers needed at most; nothing where the system does not tell."""
    if len(peaks) < 2:
        return []
    limit = statistics.median(peaks["llama-server"]) + MEMORY_MB
    return [Row("memory", "peak memory", "MB", "less", peaks, limit=limit)]


def _say(case: str, run: int, subject: str, figures: dict[str, float]) -> None:
    values = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
    print(f"{case} run {run + 1}, {subject}: {values}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
