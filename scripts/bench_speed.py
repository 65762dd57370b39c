#!/usr/bin/env python3
"""Measure `codellama bench` beside llama-bench and llama-batched-bench: the same sizes, model and threads.

    bench_speed.py MODEL.gguf --runs 5

llama-bench has one stream, llama-batched-bench several. Each run asks all of them for one measurement of
everything, in turn. Answers begin behind a single token. Both of llama.cpp's programs decode without drawing
tokens; ours draws them, and has its engine and Python around that. The last line of the output is one JSON
document.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench import servers
from bench.client import BenchError
from bench.report import Row, heading, publish, table

OURS, THEIRS = "codellama bench", "llama.cpp"
STREAMS = (1, 4, 16)


def said_by(command: Sequence[str]) -> str:
    """What a program prints. Raises BenchError if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{command[0]} ended with code {done.returncode}:\n{done.stderr[-1000:]}")
    return done.stdout


def ours(model: Path, prompt: int, tokens: int, threads: int) -> dict[str, float]:
    """Tokens per second by what was measured, of `codellama bench`."""
    command = [sys.executable, "-m", "codellama", "bench", str(model), "-p", str(prompt)]
    command += ["-n", str(tokens), "-t", str(threads), "-r", "1", "--json"]
    command += [word for streams in STREAMS for word in ("--streams", str(streams))]
    found: dict[str, float] = {}
    for row in json.loads(said_by(command))["rows"]:
        found[f"answer_{row['streams']}"] = row["answer"][0]
        if row["streams"] == 1:
            found["prompt"] = row["prompt"][0]
    return found


def theirs(model: Path, prompt: int, tokens: int, threads: int) -> dict[str, float]:
    """The same of llama.cpp's programs, each of which warms up first."""
    common = ["-m", str(model), "-t", str(threads)]
    single = [str(servers.tool("llama-bench")), *common, "-r", "1", "-o", "json"]
    single += ["-p", str(prompt), "-n", str(tokens)]
    rows: list[dict[str, Any]] = json.loads(said_by(single))
    found = {"prompt" if row["n_prompt"] else "answer_1": float(row["avg_ts"]) for row in rows}
    cells = max(STREAMS) * (tokens + 1) + 256
    widths = ",".join(str(streams) for streams in STREAMS if streams > 1)
    many = [
        str(servers.tool("llama-batched-bench")),
        *common,
        "-tb",
        str(threads),
        "-c",
        str(cells),
    ]
    many += ["-b", "2048", "-ub", "512", "-npp", "1", "-ntg", str(tokens), "-npl", widths, "-kvu"]
    lines = said_by([*many, "--output-format", "jsonl"]).splitlines()
    for row in (json.loads(line) for line in lines if line.startswith("{")):
        found[f"answer_{row['pl']}"] = float(row["speed_tg"])
    return found


def titles(prompt: int, tokens: int) -> dict[str, str]:
    """What each measurement is called."""
    found = {"prompt": f"prompt of {prompt} tokens, 1 stream"}
    for streams in STREAMS:
        plural = "s" if streams > 1 else ""
        found[f"answer_{streams}"] = f"answers of {tokens} tokens, {streams} stream{plural}"
    return found


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--runs", default=5, show_default=True, help="Interleaved runs of each.")
@click.option("--prompt", default=512, show_default=True, help="Tokens of a prompt.")
@click.option("--tokens", default=128, show_default=True, help="Tokens of an answer.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
def main(model: Path, runs: int, prompt: int, tokens: int, threads: int) -> None:
    """Measure MODEL with `codellama bench` and with llama.cpp's own programs."""
    rows = {
        key: Row(key, title, "tokens/s", "more", {OURS: [], THEIRS: []})
        for key, title in titles(prompt, tokens).items()
    }
    try:
        for run in range(runs):
            for name, measure in ((OURS, ours), (THEIRS, theirs)):
                for key, rate in measure(model, prompt, tokens, threads).items():
                    rows[key].values[name].append(rate)
            click.echo(f"run {run + 1} of {runs} done", err=True)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    described = {"prompt": prompt, "tokens": tokens, "threads": threads, "runs": runs}
    settings = {"model": model.name, **described}
    document = heading("speed", settings, servers.versions())
    document["results"] = [row.to_json() for row in rows.values()]
    publish(document, [table(f"{runs} runs, medians", list(rows.values()))])


if __name__ == "__main__":
    main()
