#!/usr/bin/env python3
"""Measure what an engine in a process of its own costs, beside the same engine in this process.

    bench_isolated.py MODEL.gguf
    bench_isolated.py MODEL.gguf --runs 20 --streams 8 --tokens 128

Both models are loaded at once and asked in turn, first the one and then the other by turns. A run lasts from
the first request to the last token that has come; all deltas come as a server takes them, on the thread that
brings them. Beside that the processor time is told that a token takes on its way through the pipe, in both
processes together, which needs no quiet machine. The last line of the output is one JSON document.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import click

from bench.report import Row, heading, publish, table
from bench.servers import versions
from codellama import LLM, SamplingParams
from codellama.engine.request import Delta
from codellama.running.child import Outbox
from codellama.running.records import read_record

HERE = "in this process"
KINDS = {"in its own": True, HERE: False}


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--runs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--streams", type=click.IntRange(1), default=8, show_default=True)
@click.option("--tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--threads", type=click.IntRange(1), show_default="as planned")
def main(model: Path, runs: int, streams: int, tokens: int, threads: int | None) -> None:
    """Print tokens per second of both, and the ratio of each pair of runs."""
    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    loaded = {
        kind: LLM(
            model,
            isolate=isolate,
            n_seq_max=streams,
            n_ctx=512,
            spec_type="none",
            n_threads=threads or "auto",
        )
        for kind, isolate in KINDS.items()
    }
    for run in range(-1, runs):  # the first one warms up
        for kind in sorted(KINDS, reverse=run % 2 == 1):
            speed = measured(loaded[kind], params, streams)
            if run >= 0:
                found[kind].append(speed)
    for llm in loaded.values():
        llm.close()
    relayed_us = 1e6 * relayed(streams)
    row = Row("speed", f"{streams} streams", "tokens/s", "more", found, {HERE: 0.99})
    settings = {"model": model.name, "streams": streams, "tokens": tokens, "runs": runs}
    document = heading("isolated", settings | {"threads": threads}, versions())
    publish(
        document | {"results": [row.to_json()], "relayed_us": relayed_us},
        [table(f"{runs} runs, medians", [row])],
    )
    click.echo(f"relaying a token takes {relayed_us:.1f} microseconds of processor time", err=True)


def measured(llm: LLM, params: SamplingParams, streams: int) -> float:
    """Tokens per second of so many streams at once, from the first to the last token."""
    ended = threading.Semaphore(0)
    times: list[float] = []

    def deliver(index: int, delta: Delta) -> None:
        times.extend([time.perf_counter()] * len(delta.tokens))
        if delta.finish_reason is not None:
            ended.release()

    for number in range(streams):
        prompt = llm.complete_prompt(f"def f{number}(x):\n    return x")
        llm.generate(prompt, params=params, deliver=deliver)
    for _ in range(streams):
        ended.acquire()
    return (len(times) - 1) / (times[-1] - times[0])


def relayed(streams: int, steps: int = 3000) -> float:
    """Seconds of processor time that a token takes from one process to the other, with so many in a step."""
    reads, writes = os.pipe()
    taken: list[float] = []

    def take() -> None:
        with os.fdopen(reads, "rb") as file:
            while (record := read_record(file)) is not None:
                for _, _, delta in record[1]:
                    Delta(*delta)
        taken.append(time.thread_time())

    reader = threading.Thread(target=take)
    reader.start()
    with os.fdopen(writes, "wb") as file:
        outbox, delta = Outbox(file), Delta(" word", (1234,))
        began = time.thread_time()
        for _ in range(steps):
            for key in range(streams):
                outbox.put(key, 0, delta)
            outbox.flush()
        given = time.thread_time() - began
    reader.join()
    return (given + taken[0]) / steps / streams


if __name__ == "__main__":
    main()
