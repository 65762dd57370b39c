#!/usr/bin/env python3
"""Let a server work for an hour on everything at once, and see whether anything grows.

    soak.py MODEL.gguf                        an hour, 16 clients
    soak.py MODEL.gguf --minutes 10 --seed 3

Clients send chats, completions, infills, schemas, adapters, embeddings, mistakes, and leave in the middle.
After a warm-up (a sixth of the time) memory has to be flat, file descriptors and threads have to stay as they
are, the time to the first token must not grow, and every answer has to end exactly once. The last line of the
output is one JSON document; the exit status is 1 if something is not so.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import gguf
import numpy as np
from rich.console import Console
from rich.table import Table

from bench import servers
from bench.client import BenchError
from bench.report import WIDTH, heading
from bench.servers import Settings, Spec, running
from bench.soaking import Clients
from codellama.files.loadable import read_model

MOST_SLOPE = 1.0  # MB an hour
MOST_SLOWER = 1.5
SAMPLE_S = 5.0
FEWEST_SAMPLES = 100  # behind the warm-up, for a verdict about growth
CACHE_MIB = 16  # of prompts: full long before the warm-up ends


@dataclass(frozen=True)
class Look:
    """The server's process at a moment: seconds since the start, MB of its own memory, and what it holds."""

    at: float
    memory_mb: float
    files: int
    threads: int


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--minutes", type=click.FloatRange(0.05), default=60, show_default=True)
@click.option("--clients", type=click.IntRange(1), default=16, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--slots", type=click.IntRange(1), default=8, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def main(model: Path, minutes: float, clients: int, seed: int, slots: int, threads: int) -> None:
    """Soak a server of MODEL, and say whether it is the same afterwards."""
    settings = Settings(
        model=model, threads=threads, slots=slots, ctx=1024, cells=4096, cache_ram=CACHE_MIB
    )
    servers.end_on_signals()
    with tempfile.TemporaryDirectory() as folder:
        adapters = [_adapter(model, Path(folder) / f"{i}.gguf", i) for i in range(2)]
        try:
            document = asyncio.run(_soak(settings, adapters, minutes * 60, clients, seed))
        except BenchError as error:
            raise click.ClickException(str(error)) from error
    _print(document)
    sys.exit(1 if document["failed"] else 0)


async def _soak(
    settings: Settings, adapters: Sequence[Path], seconds: float, n: int, seed: int
) -> dict[str, Any]:
    def make(port: int) -> Spec:
        spec = servers.codellama(settings, port, drafts=True)
        extra = ["--embeddings", "--lora-init-without-apply"]
        for path in adapters:
            extra += ["--lora", str(path)]
        return Spec(spec.name, (*spec.command, *extra), spec.environment)

    async with running(make) as server:
        clients = Clients(server.client.url, n, seed, len(adapters), embeddings=True)
        work = asyncio.create_task(clients.work())
        looks = await _watch(server.process.pid, seconds, work)
        clients.stop.set()
        await work
        alive = server.process.poll() is None
    described = asdict(settings) | {"model": settings.model.name, "clients": n, "seed": seed}
    document = heading("soak", described | {"minutes": seconds / 60}, servers.versions())
    figures = summary(looks, clients.tally.first, seconds)
    failed = problems(figures, clients.tally.wrong, alive)
    return document | {
        "requests": dict(sorted(clients.tally.ended.items())),
        "wrong": clients.tally.wrong,
        "figures": figures,
        "failed": failed,
    }


async def _watch(pid: int, seconds: float, work: asyncio.Task[None]) -> list[Look]:
    """A look every few seconds, for as long as the clients work."""
    begin = time.monotonic()
    looks: list[Look] = []
    while (at := time.monotonic() - begin) < seconds and not work.done():
        looks.append(look(pid, at))
        memory = f"{looks[-1].memory_mb:.1f} MB"
        print(f"\r{at / 60:6.1f} min  {memory}  ", end="", file=sys.stderr, flush=True)
        await asyncio.sleep(min(SAMPLE_S, seconds / 100))
    print(file=sys.stderr)
    return looks


def look(pid: int, at: float) -> Look:
    """What /proc says of a process. Raises BenchError if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError as error:
        raise BenchError(f"the server has ended after {at:.0f} seconds") from error
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    memory = int(lines["RssAnon"].split()[0]) * 1024 / 1e6
    return Look(at, memory, files, int(lines["Threads"]))


def summary(
    looks: Sequence[Look], first: Sequence[tuple[float, float]], seconds: float
) -> dict[str, float]:
    """The figures behind the warm-up: memory's slope in MB per hour, and early and late, which is the first
    and the second half: the median of files and threads, as what leaks stays and what a pool lends comes and
    goes, and the 99th percentile of seconds to the first token."""
    later = [look for look in looks if look.at >= seconds / 6] or list(looks)
    half = len(later) // 2
    slope = 0.0
    if len(later) > 1:
        hours = [look.at / 3600 for look in later]
        slope = statistics.linear_regression(hours, [look.memory_mb for look in later]).slope
    waits = [wait for _, wait in sorted(first)]
    waits = waits[len(waits) // 6 :]
    found = {
        "samples": float(len(later)),
        "memory_mb": statistics.median(look.memory_mb for look in later),
        "memory_slope": slope,
    }
    for when, looked, waited in (
        ("early", later[:half] or later, waits[: len(waits) // 2]),
        ("late", later[half:], waits[len(waits) // 2 :]),
    ):
        found[f"files_{when}"] = statistics.median_low(look.files for look in looked)
        found[f"threads_{when}"] = statistics.median_low(look.threads for look in looked)
        found[f"first_p99_{when}"] = _p99(waited)
    return found


def problems(figures: Mapping[str, float], wrong: Sequence[str], alive: bool) -> list[str]:
    """What is not as it must be. Growth is judged only where there are samples enough."""
    found = [] if alive else ["the server has ended"]
    if wrong:
        found.append(f"{len(wrong)} or more answers were wrong")
    if figures["samples"] < FEWEST_SAMPLES:
        return found
    if figures["memory_slope"] > MOST_SLOPE:
        found.append(f"memory grows by {figures['memory_slope']:.1f} MB an hour")
    for name, slack in (("files", 1.0), ("threads", 1.0), ("first_p99", MOST_SLOWER)):
        if figures[f"{name}_late"] > slack * figures[f"{name}_early"]:
            found.append(f"{name} grow: {figures[f'{name}_early']} to {figures[f'{name}_late']}")
    return found


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(0.99 * len(values))] if values else 0.0


def _adapter(model: Path, path: Path, seed: int) -> Path:
    """A LoRA adapter of random numbers that acts weakly on the first layer."""
    width = int(read_model(model).metadata["llama.embedding_length"])
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0)
    for name, shape in (("lora_a", (2, width)), ("lora_b", (width, 2))):
        values = rng.normal(0, 0.05, shape).astype(np.float32)
        writer.add_tensor(f"blk.0.attn_q.weight.{name}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _print(document: Mapping[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    ended = Table(title="requests by kind", title_justify="left")
    ended.add_column("kind")
    ended.add_column("ended", justify="right")
    for kind, count in document["requests"].items():
        ended.add_row(kind, f"{count:,}")
    figures = Table(title="behind the warm-up", title_justify="left")
    figures.add_column("figure")
    figures.add_column("value", justify="right")
    for name, value in document["figures"].items():
        figures.add_row(name, f"{value:,.4g}")
    console.print(ended, figures)
    for line in (*document["failed"], *document["wrong"]):
        console.print(line, style="red", markup=False)
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
