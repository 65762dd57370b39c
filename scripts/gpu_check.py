#!/usr/bin/env python3
"""Check on a machine with a GPU what a machine without one cannot: memory and speed as measured.

    gpu_check.py -o gpu_check.json              on this machine's GPUs, in about ten minutes
    gpu_check.py --dry-run -o gpu_check.json    with RPC servers on loopback for GPUs, to see that it works

In this order, and each result is written at once. Devices as seen. A small F32 model, whose answers on the
GPU must be those on the CPU, by layers, split and cache. A curve of 0 to all layers of a random model of 1.1
billion parameters: planned beside measured memory, tokens a second, llama-bench with the same settings, and
the bandwidth limit. Then the same for the largest of Code Llama's shapes that fits, in a file of holes: zeros
are read as fast as weights. llama-bench is run if `scripts/build_llama_tools` has made it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from codellama import LLM
from codellama.devices.doctor import diagnose, facts_json
from codellama.devices.facts import gather
from codellama.devices.machine import Machine, this_machine
from codellama.devices.placement import CPU
from codellama.params import Layers
from codellama.variants import find
from codellama.weights.planned import planned_header
from make_random_model import SHAPES as RANDOM
from stand_ins.accounting import with_vocabulary, write_shaped
from stand_ins.workers import workers

ROOT = Path(__file__).parents[1]
BENCH = ROOT / ".llama-tools" / "bin" / "llama-bench"
PROMPT, ANSWER = 512, 64
OFFLOADS: tuple[dict[str, Any], ...] = (
    {"n_gpu_layers": 1},
    {"n_gpu_layers": 2},
    {"n_gpu_layers": "all"},
    {"n_gpu_layers": "all", "tensor_split": (1, 0)},
    {"n_gpu_layers": "all", "split_mode": "none"},
    {"n_gpu_layers": "all", "offload_kqv": False},
    {"n_gpu_layers": 2, "type_k": "q8_0", "flash_attn": "on"},
)


class Report:
    """What has been found so far, in a file that is written anew with each result."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        self._begun = time.monotonic()

    def add(self, name: str, result: Any) -> None:
        """Keep a result under this name, and say it in a line."""
        self._found[name] = result
        self._found["seconds"] = round(time.monotonic() - self._begun, 1)
        self._path.write_text(json.dumps(self._found, indent=1))
        click.echo(f"{self._found['seconds']:7.1f} s  {name}: {json.dumps(result)[:160]}")

    def __str__(self) -> str:
        return json.dumps(self._found)


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A JSON file.")
@click.option("--dry-run", is_flag=True, help="RPC servers on loopback for GPUs, small models.")
@click.option("--repeat", default=3, show_default=True, help="Runs of each speed; the best counts.")
def main(output: Path, dry_run: bool, repeat: int) -> None:
    """Check offload on this machine's GPUs."""
    report = Report(output)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codellama-")))
        rpc = stack.enter_context(workers(2)) if dry_run else []
        facts = gather(rpc)
        report.add("devices", facts_json(facts, diagnose(facts)))
        machine = replace(this_machine(rpc), bandwidth=facts.machine.bandwidth)
        if not machine.gpus:
            raise click.ClickException("llama.cpp sees no GPU; --dry-run needs none")
        report.add("offload", list(offloads(folder, rpc, len(machine.gpus))))
        size = "100m" if dry_run else "1.1b"
        model = random_model(folder, size)
        total = RANDOM[size].layers + 1
        layers = sorted({0, 1, total // 4, total // 2, 3 * total // 4, total - 1, total})
        for n in layers if not dry_run else (0, total // 2, total):
            report.add(f"{size} with {n} layers", measured(model, n, rpc, machine, repeat))
        largest = "tiny" if dry_run else largest_shape(machine)
        if largest != "tiny":
            path = write_shaped(
                with_vocabulary(planned_header(_variant(largest), "Q4_K_M")), folder / "large.gguf"
            )
            report.add(f"{largest} Q4_K_M", measured(path, "auto", rpc, machine, repeat))
    click.echo(str(report))


def offloads(folder: Path, rpc: Sequence[str], n_gpus: int) -> Iterator[dict[str, Any]]:
    """Whether the answers on the GPUs are those of the CPU, for each way of placing a small F32 model."""
    sys.path.insert(0, str(ROOT))
    from tests.tiny_model import write

    model = write(folder / "tiny.gguf", head_dim=64)
    for options in OFFLOADS:
        if "tensor_split" in options and n_gpus < 2:
            continue
        kept = {name: options[name] for name in ("type_k", "flash_attn") if name in options}
        alone, local = answer(model, n_gpu_layers=0, **kept)
        tokens, logprobs = answer(model, rpc=rpc, **options)
        worst = max(abs(a - b) for a, b in zip(local, logprobs, strict=False))
        yield {"options": str(options), "same": tokens == alone, "logprob_off": round(worst, 6)}


def answer(model: Path, **options: Any) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log probabilities."""
    options = {"flash_attn": "off", **options}
    with LLM(model, n_ctx=256, n_seq_max=1, n_threads=1, **options) as llm:
        result = llm.complete("def f(x):", max_tokens=24, temperature=0, logprobs=0).result()
    drawn = result.choices[0].logprobs
    assert drawn is not None
    return [one.token for one in drawn], [one.logprob for one in drawn]


def measured(
    model: Path, layers: Layers, rpc: Sequence[str], machine: Machine, repeat: int
) -> dict[str, Any]:
    """Planned and measured memory of each device, tokens a second, and what llama-bench says."""
    before = {gpu.name: gpu.free_bytes for gpu in this_machine(rpc).gpus}
    with LLM(model, n_gpu_layers=layers, rpc=rpc, n_ctx=1024, n_seq_max=1, spec_type="none") as llm:
        plan = llm.plan.model
        prompt = [300 + i % 1000 for i in range(PROMPT)]
        llm.complete(prompt, max_tokens=ANSWER, temperature=0, ignore_eos=True).result()
        after = {gpu.name: gpu.free_bytes for gpu in this_machine(rpc).gpus}
        rates = [speeds(llm, prompt) for _ in range(repeat)]
        count = plan.weights.n_gpu_layers
    decode = max(rate[1] for rate in rates)
    gpus = {gpu.name: gpu.bandwidth for gpu in machine.gpus}
    limit = sum(
        p.weights / (gpus.get(p.device) or machine.bandwidth or 1.0)
        for p in plan.placements
        if p.layers
    )
    return {
        "layers": count,
        "memory": [
            {
                "device": p.device,
                "planned": p.nbytes,
                "measured": before.get(p.device, 0) - after.get(p.device, 0),
            }
            for p in plan.placements
            if p.device != CPU
        ],
        "prompt_tokens_per_second": round(max(rate[0] for rate in rates), 2),
        "tokens_per_second": round(decode, 2),
        "expected": asdict(plan.expected) if plan.expected else None,
        "of_bandwidth": round(decode * limit, 3),
        "llama_bench": bench(model, count) if not rpc else "not with RPC servers",
    }


def speeds(llm: LLM, prompt: list[int]) -> tuple[float, float]:
    """Tokens a second of a prompt that nothing is cached of, and of an answer behind it."""
    fresh = [(token + os.urandom(1)[0]) % 1000 + 300 for token in prompt]
    begun = time.perf_counter()
    llm.complete(fresh, max_tokens=1, temperature=0, ignore_eos=True).result()
    read = time.perf_counter()
    llm.complete(fresh, max_tokens=ANSWER, temperature=0, ignore_eos=True).result()
    ended = time.perf_counter()
    return len(prompt) / (read - begun), ANSWER / (ended - read)


def bench(model: Path, layers: int) -> Any:
    """llama-bench with the same settings; why not, if it cannot be run."""
    if not BENCH.is_file():
        return "not built"
    command = [str(BENCH), "-m", str(model), "-ngl", str(layers), "-p", str(PROMPT)]
    command += ["-n", str(ANSWER), "-r", "3", "-o", "json"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if found.returncode:
        return found.stderr[-300:]
    return {
        f"p{row['n_prompt']} n{row['n_gen']}": row["avg_ts"] for row in json.loads(found.stdout)
    }


def random_model(folder: Path, size: str) -> Path:
    """A random model of this size, Q4_K_M."""
    path = folder / f"random-{size}.gguf"
    script = Path(__file__).with_name("make_random_model.py")
    command = [sys.executable, str(script), "--size", size, "-o", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def largest_shape(machine: Machine) -> str:
    """The largest published shape whose Q4_K_M leaves the GPUs two gigabytes, and fits the main memory to be
    read from."""
    room = sum(gpu.free_bytes for gpu in machine.gpus) - 2 * 2**30
    for name in ("70b-instruct", "34b-instruct", "13b-instruct", "7b-instruct"):
        nbytes = _variant(name).parameters * 4.85 / 8
        if nbytes <= min(room, machine.room):
            return name
    return "tiny"


def _variant(name: str) -> Any:
    variant = find(name)
    assert variant is not None, name
    return variant


if __name__ == "__main__":
    main()
