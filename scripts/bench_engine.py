#!/usr/bin/env python3
"""Measure the engine inside this process: what Python adds to llama.cpp.

    bench_engine.py MODEL.gguf                  beside llama-batched-bench and llama-bench, if
                                                scripts/build_llama_tools has built them
    bench_engine.py MODEL.gguf --runs 3 --width 1 --width 8

Decode with 1, 2, 4 and 8 sequences, the prompt, and the share of a step that is spent outside
llama_decode, drawing tokens among it. The clock reads around the C function itself, and waits for a GPU
to finish, so whatever the engine does between two calls counts. llama.cpp's own programs decode random
tokens and draw nothing. The last line of the output is one JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bench import servers
from bench.client import BenchError
from bench.clock import Clock, Steps
from bench.report import Row, heading, publish, table

if TYPE_CHECKING:
    from codellama import LLM

OURS = "codellama"
WIDTHS = (1, 2, 4, 8)
SHORT = 19  # tokens of the prompts before decoding; not a likely width
LIMITS = {"outside_8": 3.0}  # per cent, on a model of 100 million parameters
FIRST_NORMAL = 259  # ids below are control pieces and bytes


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--width",
    "widths",
    type=click.IntRange(1),
    multiple=True,
    default=WIDTHS,
    show_default=True,
    help="Sequences at once; repeatable.",
)
@click.option("--tokens", type=click.IntRange(4), default=128, show_default=True, help="To decode.")
@click.option("--prompt", type=click.IntRange(1), default=2000, show_default=True, help="Tokens.")
@click.option(
    "--threads", type=click.IntRange(1), default=os.cpu_count(), show_default="one per core"
)
@click.option("--batch-size", type=int, default=512, show_default=True)
@click.option("--n-gpu-layers", type=int, default=0, show_default=True)
@click.option("--alone", is_flag=True, help="Leave llama.cpp's own programs out.")
@click.option("--quick", is_flag=True, help="Tiny sizes, to see that it works.")
def main(
    model: Path,
    runs: int,
    widths: tuple[int, ...],
    tokens: int,
    prompt: int,
    threads: int,
    batch_size: int,
    n_gpu_layers: int,
    alone: bool,
    quick: bool,
) -> None:
    """Measure the engine with MODEL, inside this process."""
    if quick:
        tokens, prompt = 100, 200
    settings = Settings(
        model, runs, tuple(sorted(set(widths))), tokens, prompt, threads, batch_size, n_gpu_layers
    )
    bench = EngineBench(settings)
    try:
        rows = bench.run(() if alone else servers.built("llama-batched-bench", "llama-bench"))
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    described = dataclasses.asdict(settings) | {"model": model.name}
    document = heading("engine", described, servers.versions())
    document["results"] = [row.to_json() for row in rows]
    publish(document, [table(f"{runs} runs, medians", rows)])


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured: `tokens` to decode with each of `widths` sequences, `prompt` tokens to read."""

    model: Path
    runs: int
    widths: tuple[int, ...]
    tokens: int
    prompt: int
    threads: int
    batch: int
    gpu_layers: int


class EngineBench:
    """One model, measured several times, ours and llama.cpp's programs in turn."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rng = random.Random(0)
        self._rows: dict[str, Row] = {}

    def run(self, programs: Sequence[str]) -> list[Row]:
        """All rows. Raises BenchError if a program fails."""
        from codellama import LLM

        s = self._settings
        most = max(s.widths)
        with (
            Clock() as clock,
            LLM(
                s.model,
                n_seq_max=most,
                n_ctx=s.prompt + s.tokens + SHORT,
                kv_cells=max(most * (s.tokens + SHORT), s.prompt + s.tokens) + 256,
                n_threads=s.threads,
                n_batch=s.batch,
                n_ubatch=s.batch,
                n_gpu_layers=s.gpu_layers,
                **_no_drafts(),
            ) as llm,
        ):
            self._decode(llm, clock, 1)  # touches the weights for the first time
            for run in range(s.runs):
                for width in s.widths:
                    self._add_steps(width, self._decode(llm, clock, width))
                rate = self._prompt(llm, clock)
                self._add("prompt", f"prompt of {s.prompt} tokens", "tokens/s", OURS, rate)
                self._run_programs(programs)
                print(f"run {run + 1} of {s.runs} done", file=sys.stderr, flush=True)
        return list(self._rows.values())

    def _decode(self, llm: LLM, clock: Clock, width: int) -> Steps:
        """Decode with `width` sequences; the steps in which all of them took part."""
        clock.reset()
        running = [
            llm.complete(
                self._ids(llm, SHORT),
                max_tokens=self._settings.tokens,
                temperature=0,
                ignore_eos=True,
            )
            for _ in range(width)
        ]
        for completion in running:
            completion.result()
        return clock.steps(width)

    def _prompt(self, llm: LLM, clock: Clock) -> float:
        """Tokens per second from the first llama_decode of a prompt to the end of the last."""
        clock.reset()
        count = self._settings.prompt
        llm.complete(self._ids(llm, count), max_tokens=1, temperature=0, ignore_eos=True).result()
        return float(count / clock.span())

    def _ids(self, llm: LLM, count: int) -> list[int]:
        last = llm.tokenizer.n_vocab - 2
        return [self._rng.randint(FIRST_NORMAL, last) for _ in range(count)]

    def _add_steps(self, width: int, steps: Steps) -> None:
        plural = "s" if width > 1 else ""
        name = f"{width} sequence{plural}"
        self._add(f"decode_{width}", f"decode, {name}", "tokens/s", OURS, steps.rate)
        self._add(f"outside_{width}", f"outside llama_decode, {name}", "%", OURS, steps.outside)

    def _add(self, key: str, title: str, unit: str, subject: str, value: float) -> None:
        better: Literal["more", "less"] = "less" if unit == "%" else "more"
        row = self._rows.setdefault(key, Row(key, title, unit, better, {}, limit=LIMITS.get(key)))
        row.values.setdefault(subject, []).append(value)

    def _run_programs(self, programs: Sequence[str]) -> None:
        if "llama-batched-bench" in programs:
            for width, rate in self._batched_bench().items():
                self._add(f"decode_{width}", "", "tokens/s", "llama.cpp", rate)
        if "llama-bench" in programs:
            self._add("prompt", "", "tokens/s", "llama.cpp", self._llama_bench())

    def _batched_bench(self) -> dict[int, float]:
        """Tokens per second by width."""
        s = self._settings
        cells = max(s.widths) * (s.tokens + SHORT) + 256
        widths = ",".join(map(str, s.widths))
        options = ["-c", str(cells), "-npp", str(SHORT), "-ntg", str(s.tokens), "-npl", widths]
        options += ["-tb", str(s.threads), "-kvu", "--output-format", "jsonl"]
        lines = self._program("llama-batched-bench", options).splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return {one["pl"]: one["speed_tg"] for one in found}

    def _llama_bench(self) -> float:
        """Tokens per second of a prompt."""
        options = ["-p", str(self._settings.prompt), "-n", "0", "-r", "1", "-o", "json"]
        return float(json.loads(self._program("llama-bench", options))[0]["avg_ts"])

    def _program(self, name: str, options: Sequence[str]) -> str:
        s = self._settings
        command = [str(servers.tool(name)), "-m", str(s.model), "-t", str(s.threads)]
        command += ["-b", str(s.batch), "-ub", str(s.batch)]
        command += ["-ngl", str(s.gpu_layers), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{name} ended with code {done.returncode}:\n{done.stderr[-1000:]}")
        return done.stdout


def _no_drafts() -> dict[str, Any]:
    """A step with drafts has more rows than sequences; the clock counts rows."""
    from codellama.params import ModelConfig

    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    return {"spec_type": "none"} if "spec_type" in fields else {}


if __name__ == "__main__":
    main()
