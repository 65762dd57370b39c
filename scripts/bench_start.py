#!/usr/bin/env python3
"""Measure how long a command takes to begin: help texts, and a server until it has its model.

    bench_start.py                 the demo model
    bench_start.py MODEL.gguf

llama-server comes from scripts/build_llama_tools; without it only ours is measured. Runs are
interleaved, each with new processes. The table shows medians, what was wanted, and for the server the
median of codellama's value ÷ llama-server's. The last line of the output is one JSON document.

Ready means that /health answers 200. Processor time is that of the whole process, of all its threads, until
then. Both servers' threads spin while they wait for each other, so on a machine that is busy with
something else all processor times grow: set OMP_WAIT_POLICY=passive there.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import click

from bench import servers
from bench.client import BenchError
from bench.report import Row, heading, publish, table
from bench.servers import Settings, Spec, running
from codellama.models import resolve_model

OURS = "codellama"
HELPS = (("--help",), ("chat", "--help"), ("serve", "--help"))
HELP_S = 0.15
SERVER_RATIO = 3.0
POLL_S = 0.002
Make = Callable[[int], Spec]


@click.command()
@click.argument("model", default="demo")
@click.option("--runs", type=click.IntRange(1), default=7, show_default=True)
@click.option(
    "--threads", type=click.IntRange(1), default=os.cpu_count(), show_default="one per core"
)
@click.option("--slots", type=click.IntRange(1), default=4, show_default=True)
@click.option("--ctx-size", type=int, default=1024, show_default=True, help="Tokens per request.")
def main(model: str, runs: int, threads: int, slots: int, ctx_size: int) -> None:
    """Measure the start of commands, and of the server with MODEL."""
    settings = Settings(
        model=resolve_model(model),
        threads=threads,
        slots=slots,
        ctx=ctx_size,
        cells=ctx_size * slots,
    )
    # Compiled modules are kept, as they are for everybody who does not forbid it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    servers.end_on_signals()
    try:
        rows = [*_helps(runs), *asyncio.run(_servers(settings, runs))]
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    given = asdict(settings) | {"model": settings.model.name, "runs": runs}
    document = heading("start", given, servers.versions())
    document["results"] = [row.to_json() for row in rows]
    publish(document, [table(f"{runs} runs, medians", rows)])


def _helps(runs: int) -> list[Row]:
    """The help texts: wall and processor time of the whole process."""
    rows: dict[str, Row] = {}
    for run in range(runs + 1):
        for arguments in HELPS:
            wall, processor = _timed(*arguments)
            if run:  # the first one compiles and fills the file cache
                _add(rows, " ".join(arguments), OURS, wall, processor)
    for row in rows.values():
        row.limit = HELP_S
    return list(rows.values())


def _timed(*arguments: str) -> tuple[float, float]:
    """Wall and processor seconds of a command of ours. Raises BenchError if it fails."""
    command = [sys.executable, "-m", "codellama", *arguments]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchError(f"ended with code {process.returncode}: {' '.join(command)}")
    return wall, usage.ru_utime + usage.ru_stime


async def _servers(settings: Settings, runs: int) -> list[Row]:
    """The servers, from the start of the process until the model is there."""
    makes: list[Make] = [partial(servers.codellama, settings)]
    if servers.built("llama-server"):
        makes.append(partial(servers.llama_server, settings))
    rows: dict[str, Row] = {}
    for run in range(runs + 1):
        for make in makes:
            start = time.perf_counter()
            async with running(make, POLL_S) as server:
                wall = time.perf_counter() - start
                processor = server.processor_s()
            if run:
                _add(rows, "serve", server.spec.name, wall, processor)
    for row in rows.values():
        row.wanted = {"llama-server": SERVER_RATIO}
    return list(rows.values())


def _add(
    rows: dict[str, Row], title: str, subject: str, wall: float, processor: float | None
) -> None:
    """Add a run's figures to the rows of what was started; no processor time where nobody tells."""
    figures: dict[str, Any] = {"wall": wall, "processor": processor}
    for kind, value in figures.items():
        if value is None:
            continue
        key = f"{title} {kind}"
        row = rows.setdefault(key, Row(key, f"codellama {title}, {kind}", "s", "less", {}))
        row.values.setdefault(subject, []).append(value)


if __name__ == "__main__":
    main()
