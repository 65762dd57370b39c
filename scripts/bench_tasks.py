#!/usr/bin/env python3
"""Measure how fast multiple choice is scored: in the harness's process, beside its `gguf` model over HTTP.

    bench_tasks.py MODEL.gguf --questions 40 --runs 3

Both get the same questions: examples that all share, a question, four answers. The `gguf` model sends each
answer with its whole question to /v1/completions and reads log probabilities of the prompt, once from
`codellama serve` and once from llama-server. Where a server gives none, as llama-server of llama-cpp-python
0.3.36, its time is shown all the same. Runs are interleaved. It needs the extra `lm-eval`. The last line of
the output is one JSON document.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench import servers
from bench.client import BenchError
from bench.servers import Settings, running
from bench.texts import Texts

IN_PROCESS, OVER_HTTP, LLAMA_SERVER = "in process", "gguf, codellama serve", "gguf, llama-server"
ANSWERS = 4


def questions(count: int, shared_tokens: int) -> list[Any]:
    """The harness's requests: `ANSWERS` for each of `count` questions behind the same examples."""
    from lm_eval.api.instance import Instance

    texts = Texts()
    shots = texts.prompt(shared_tokens, "shots")
    return [
        Instance(
            "loglikelihood",
            {},
            (
                f"{shots}\nQuestion: {texts.prompt(20, 'question', i)}\nAnswer:",
                " " + texts.prompt(6, "answer", i, j),
            ),
            i,
        )
        for i in range(count)
        for j in range(ANSWERS)
    ]


async def measured(model: Path, requests: list[Any], runs: int, threads: int) -> dict[str, Any]:
    """Seconds of each run of each way, and how far the likelihoods are apart at most."""
    from lm_eval.models.gguf import GGUFLM

    from codellama.quality.harness import HarnessModel

    settings = Settings(model, threads, slots=4, ctx=1024, cells=4096)
    ours = HarnessModel(str(model), max_length=1024, n_threads=threads)
    ways: dict[str, Callable[[], Any]] = {
        IN_PROCESS: partial(ours.loglikelihood, requests, disable_tqdm=True)
    }
    seconds: dict[str, list[float]] = {}
    answers: dict[str, list[float]] = {}
    async with (
        running(partial(servers.codellama, settings)) as first,
        running(partial(servers.llama_server, settings)) as second,
    ):
        for name, server in ((OVER_HTTP, first), (LLAMA_SERVER, second)):
            remote = GGUFLM(base_url=server.client.url)
            way: Callable[[], Any] = partial(remote.loglikelihood, requests, disable_tqdm=True)
            ways[name] = way
        for _ in range(runs):
            for name, score in ways.items():
                began = time.perf_counter()
                found = await asyncio.to_thread(score)
                seconds.setdefault(name, []).append(time.perf_counter() - began)
                answers[name] = [value for value, _ in found]
    ours.close()
    return {"seconds": seconds, "apart": apart(answers)}


def apart(answers: dict[str, list[float]]) -> dict[str, float]:
    """The largest difference of each way's likelihoods from the first one's, if it gave them."""
    first = next(iter(answers.values()))
    return {
        name: max(abs(a - b) for a, b in zip(first, values, strict=True))
        for name, values in list(answers.items())[1:]
        if len(values) == len(first)
    }


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--questions", "count", default=40, show_default=True, help="Questions of a run.")
@click.option("--shared", default=300, show_default=True, help="Tokens that they share.")
@click.option("--runs", default=3, show_default=True, help="Interleaved runs of each way.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
def main(model: Path, count: int, shared: int, runs: int, threads: int) -> None:
    """Score multiple choice on MODEL in process and over HTTP."""
    servers.end_on_signals()
    logging.disable(logging.WARNING)  # the harness tells of every answer without likelihoods
    try:
        found = asyncio.run(measured(model, questions(count, shared), runs, threads))
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    ours = found["seconds"][IN_PROCESS]
    click.echo("| way | seconds | answers/s | times slower |\n|---|---:|---:|---:|")
    for name, taken in found["seconds"].items():
        ratio = median(b / a for a, b in zip(ours, taken, strict=True))
        rate = count * ANSWERS / median(taken)
        click.echo(f"| {name} | {median(taken):.2f} | {rate:.1f} | {ratio:.1f} |")
    click.echo(json.dumps({"model": model.name, "questions": count, "shared": shared, **found}))


if __name__ == "__main__":
    main()
