#!/usr/bin/env python3
"""Measure what an engine in a process of its own costs, beside the same engine in this process.

    bench_isolated.py MODEL.gguf
    bench_isolated.py MODEL.gguf --runs 20 --streams 8 --tokens 128

Both models are loaded at once and asked in turn, first the one and then the other by turns. A run lasts from
the first request to the last token that has come; all deltas come as a server takes them, on the thread that
brings them. The last line of the output is one JSON document.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from pathlib import Path

import click

from codellama import LLM, SamplingParams
from codellama.engine.request import Delta

KINDS = {"in this process": False, "in its own": True}


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
    here, apart = found.values()
    ratios = [b / a for a, b in zip(here, apart, strict=True)]
    for kind, speeds in found.items():
        click.echo(f"{kind:<16} {statistics.median(speeds):8.1f} tokens/s")
    ratio = statistics.median(ratios)
    click.echo(f"{'ratio':<16} {ratio:8.4f}   ({min(ratios):.4f} to {max(ratios):.4f})")
    click.echo(json.dumps({"model": model.name, "streams": streams, "ratio": ratio, "runs": found}))


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


if __name__ == "__main__":
    main()
