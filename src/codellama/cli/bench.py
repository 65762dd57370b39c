"""`codellama bench`: how quick a model is on this machine: one stream and many, beside other programs too."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.options import (
    Decorator,
    json_option,
    measuring_options,
    model_argument,
    model_config,
)
from codellama.cli.options import threads as number_or_auto

if TYPE_CHECKING:
    from codellama.quality.speed import SpeedMeter, SpeedTest

# Not a moment longer than this process lives, however that ends.
_COMPUTE = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
_HEADER = (
    f"{'machine':<8} {'threads':>7} {'streams':>7} {'prompt, tokens/s':>17} {'answer, tokens/s':>17} "
    f"{'of bandwidth':>13}  in use"
)
_FORMULA = (
    "of bandwidth: bytes read for a token x tokens/s / bandwidth; a step reads all weights once"
)
_STREAMS = (1, 4, 16)


@dataclass
class BenchRow:
    """Tokens per second of prompts and answers, all streams together, a value a run, beside `busy` programs.

    `threads` is what was asked for, `used` what the answers' steps computed with in the end, `why` in words.
    `bytes_per_token` are read for each token of an answer, which is `of_bandwidth` of what the devices can
    read; None where that is not known.
    """

    busy: int
    threads: int | str
    streams: int
    prompt: list[float] = field(default_factory=list)
    answer: list[float] = field(default_factory=list)
    used: int = 0
    why: str = ""
    bytes_per_token: int = 0
    of_bandwidth: float | None = None

    def __str__(self) -> str:
        machine = f"{self.busy} busy" if self.busy else "quiet"
        prompt, answer = statistics.median(self.prompt), statistics.median(self.answer)
        share = "" if self.of_bandwidth is None else f"{100 * self.of_bandwidth:.1f} %"
        return (
            f"{machine:<8} {self.threads!s:>7} {self.streams:>7} {prompt:>17.1f} {answer:>17.1f} "
            f"{share:>13}  {self.used} ({self.why})"
        )


@dataclass(frozen=True)
class BenchResult:
    """What a bench found: `rows`, seconds of loading, and bytes.

    `bandwidth` is that of main memory in bytes a second, as `doctor` measures it. `peak_memory_bytes` is the
    most main memory of this process, with the model in it `loads` times, None where nobody tells.
    `device_bytes` are those planned for each other device.
    """

    model: str
    settings: Mapping[str, Any]
    rows: Sequence[BenchRow]
    load_s: float
    loads: int
    peak_memory_bytes: int | None
    device_bytes: Mapping[str, int]
    bandwidth: float

    def __str__(self) -> str:
        from codellama.devices.sizes import size_text

        peak = "not known" if self.peak_memory_bytes is None else size_text(self.peak_memory_bytes)
        times = f", the model being loaded {self.loads} times" if self.loads > 1 else ""
        memory = [f"peak memory {peak}{times}"]
        memory += [f"{name} {size_text(nbytes)}" for name, nbytes in self.device_bytes.items()]
        lines = [_HEADER, *map(str, self.rows)]
        lines.append(f"loaded in {self.load_s:.2f} s; {', '.join(memory)}")
        lines.append(f"main memory is read at {self.bandwidth / 1e9:.1f} GB/s")
        return "\n".join([*lines, _FORMULA])


def _number(short: str, long: str, name: str, default: int, help: str) -> Decorator:
    return click.option(
        short, long, name, type=click.IntRange(1), default=default,
        show_default=True, show_envvar=True, help=help,
    )  # fmt: skip


@click.command("bench")
@model_argument
@click.option(
    "--streams",
    "streams",
    type=click.IntRange(min=1, max=256),
    multiple=True,
    default=_STREAMS,
    show_default=True,
    show_envvar=True,
    help="How many requests at once. Repeatable.",
)
@click.option(
    "--busy",
    "busy",
    type=click.IntRange(min=1, max=4096),
    multiple=True,
    show_envvar=True,
    help="Also beside so many programs that compute all the time. Repeatable.",
)
@click.option(
    "-t",
    "--threads",
    "threads",
    type=number_or_auto,
    multiple=True,
    metavar="NUMBER|auto",
    show_envvar=True,
    help="CPU threads. Repeatable. [default: one per core; with --busy also auto and 1]",
)
@_number("-p", "--prompt", "n_prompt", 512, "Tokens of a prompt.")
@_number("-n", "--tokens", "n_tokens", 128, "Tokens of an answer.")
@_number("-b", "--batch-size", "n_batch", 2048, "Tokens per step.")
@_number("-ub", "--ubatch-size", "n_ubatch", 512, "Tokens per llama.cpp micro-batch.")
@_number("-r", "--runs", "runs", 5, "How often each row is measured.")
@json_option
@measuring_options
def command(
    model: str,
    streams: tuple[int, ...],
    busy: tuple[int, ...],
    threads: tuple[int | str, ...],
    n_prompt: int,
    n_tokens: int,
    n_batch: int,
    n_ubatch: int,
    runs: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure how quickly MODEL reads prompts and writes answers.

    Sizes and settings are llama-bench's by default, so that numbers compare: a prompt of 512 tokens, and
    128 tokens behind a single one. Runs alternate between the rows, and a row has their median. With --busy
    the machine is also measured beside other programs, which are started for that.
    """
    from codellama.cli.loading import model_file
    from codellama.quality.speed import SpeedTest

    numbers = threads or _numbers(beside=bool(busy))
    test = SpeedTest(n_prompt, n_tokens, n_batch, n_ubatch, max(streams))
    configs = {t: model_config(options, **{**test.config(), "n_threads": t}) for t in numbers}
    path = model_file(model)
    rows = [BenchRow(b, t, s) for b in (0, *busy) for t in numbers for s in streams]
    with ExitStack() as undo:
        meters = {
            t: undo.enter_context(closing(_open(path, test, config)))
            for t, config in configs.items()
        }
        _measure(rows, meters, runs)
        result = _result(path, meters, rows, test, options["rpc"] or ())
    click.echo(json.dumps(asdict(result)) if as_json else str(result))


def _numbers(*, beside: bool) -> list[int | str]:
    """The numbers of threads to compare: beside other programs also what is chosen while it runs, and one."""
    from codellama.devices.processors import choose_threads, this_processors

    n = choose_threads(this_processors()).n
    return list(dict.fromkeys(("auto", n, 1))) if beside else [n]


def _open(path: Path, test: SpeedTest, config: Mapping[str, Any]) -> SpeedMeter:
    from codellama.cli.loading import left_by_ctrl_c
    from codellama.cli.outputs import progress_bar
    from codellama.quality.speed import SpeedMeter

    with left_by_ctrl_c(), progress_bar(f"loading {path.name}") as progress:
        return SpeedMeter(path, test, progress, **config)


def _measure(rows: Sequence[BenchRow], meters: Mapping[int | str, SpeedMeter], runs: int) -> None:
    """Fill the rows, behind a run that warms up."""
    for run in range(runs + 1):
        for row in rows:
            meter = meters[row.threads]
            with _programs(row.busy):
                prompt, answer = meter.prompts(row.streams), meter.answers(row.streams)
            status = meter.llm.status().threads
            row.used, row.why = status.n, status.why
            if run:
                row.prompt.append(prompt)
                row.answer.append(answer)


@contextmanager
def _programs(n: int) -> Iterator[None]:
    """So many programs that compute all the time."""
    running = [subprocess.Popen([sys.executable, "-c", _COMPUTE]) for _ in range(n)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
        for program in running:
            program.wait()


def _result(
    path: Path,
    meters: Mapping[int | str, SpeedMeter],
    rows: list[BenchRow],
    test: SpeedTest,
    rpc: Sequence[str],
) -> BenchResult:
    """The rows with their share of the bandwidth, which is measured now that nothing else runs."""
    from codellama.devices.facts import memory_bandwidth
    from codellama.devices.machine import this_machine
    from codellama.devices.placement import CPU
    from codellama.devices.reading import bandwidth_share, bytes_read
    from codellama.files.loadable import read_model
    from codellama.system import peak_memory_bytes

    peak = peak_memory_bytes()  # before anything else takes memory
    first = next(iter(meters.values()))
    plan = first.llm.plan.model
    machine = this_machine(rpc)
    bandwidths = {gpu.name: gpu.bandwidth for gpu in machine.gpus}
    bandwidths[CPU] = memory_bandwidth(machine)
    read = bytes_read(plan, read_model(path), filled=(test.n_tokens + 1) / 2)
    for row in rows:
        row.bytes_per_token = sum(device.of_step(row.streams) for device in read) // row.streams
        rate = statistics.median(row.answer)
        row.of_bandwidth = bandwidth_share(read, bandwidths, row.streams, rate)
    return BenchResult(
        model=path.name,
        settings=asdict(test),
        rows=rows,
        load_s=first.load_s,
        loads=len(meters),
        peak_memory_bytes=peak,
        device_bytes={p.device: p.nbytes for p in plan.placements if p.device != CPU},
        bandwidth=bandwidths[CPU],
    )
