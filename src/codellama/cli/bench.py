"""`codellama bench`: how quick a model is on this machine, quiet and beside other programs."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.options import Decorator, json_option, model_argument
from codellama.cli.options import threads as number_or_auto

if TYPE_CHECKING:
    from codellama.llm import LLM

# Not a moment longer than this process lives, however that ends.
_COMPUTE = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
_HEADER = (
    f"{'machine':<16} {'threads':>8} {'prompt, tokens/s':>18} {'answer, tokens/s':>18}  in use"
)


@dataclass
class BenchRow:
    """Tokens per second of prompts and answers, one value a run, beside `busy` programs.

    `threads` is what was asked for, `used` what the answers' steps computed with in the end, `why` in words.
    """

    busy: int
    threads: int | str
    prompt: list[float] = field(default_factory=list)
    answer: list[float] = field(default_factory=list)
    used: int = 0
    why: str = ""

    def __str__(self) -> str:
        machine = f"{self.busy} busy" if self.busy else "quiet"
        prompt, answer = statistics.median(self.prompt), statistics.median(self.answer)
        return f"{machine:<16} {self.threads!s:>8} {prompt:>18.1f} {answer:>18.1f}  {self.used} ({self.why})"


def _number(short: str, long: str, name: str, default: int, help: str) -> Decorator:
    return click.option(
        short, long, name, type=click.IntRange(1), default=default,
        show_default=True, show_envvar=True, help=help,
    )  # fmt: skip


@click.command("bench")
@model_argument
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
    help="CPU threads. Repeatable. [default: auto, the number that it begins with, and 1]",
)
@_number("-p", "--prompt", "n_prompt", 256, "Tokens of the prompt.")
@_number("-n", "--tokens", "n_tokens", 64, "Tokens of the answer.")
@_number("-r", "--runs", "runs", 3, "How often each row is measured.")
@json_option
def command(
    model: str,
    busy: tuple[int, ...],
    threads: tuple[int | str, ...],
    n_prompt: int,
    n_tokens: int,
    runs: int,
    as_json: bool,
) -> None:
    """Measure how quickly MODEL reads prompts and writes answers.

    Runs alternate between the rows, and a row has their median. With --busy the machine is also measured
    beside other programs, which are started for that.
    """
    numbers = threads or _numbers()
    rows = [BenchRow(n, t) for n in (0, *busy) for t in numbers]
    with ExitStack() as undo:
        models = {t: undo.enter_context(_open(model, t, n_prompt + n_tokens)) for t in numbers}
        for run in range(runs + 1):
            for row in rows:
                with _programs(row.busy):
                    _measure(models[row.threads], row, n_prompt, n_tokens, warm_up=not run)
    if as_json:
        click.echo(json.dumps(_document(model, n_prompt, n_tokens, rows)))
    else:
        click.echo("\n".join([_HEADER, *map(str, rows)]))


def _numbers() -> list[int | str]:
    """The numbers of threads to compare: what is chosen while it runs, and fixed ones."""
    from codellama.devices.processors import choose_threads, this_processors

    return list(dict.fromkeys(("auto", choose_threads(this_processors()).n, 1)))


def _open(model: str, threads: int | str, n_ctx: int) -> LLM:
    from codellama.cli.loading import open_model

    return open_model(model, {"n_threads": threads, "n_ctx": n_ctx, "spec_type": "none"})


def _measure(llm: LLM, row: BenchRow, n_prompt: int, n_tokens: int, *, warm_up: bool) -> None:
    n_vocab = llm.tokenizer.n_vocab
    ids = range(n_vocab // 4, n_vocab // 2)  # text in every vocabulary of these models
    answer = llm.complete(
        random.choices(ids, k=n_prompt),
        max_tokens=n_tokens,
        temperature=0,
        ignore_eos=True,
        cache_prompt=False,
    ).result()
    status = llm.status().threads
    row.used, row.why = status.n, status.why
    if not warm_up:
        row.prompt.append(answer.timings.prompt_per_second)
        row.answer.append(answer.timings.decode_per_second)


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


def _document(model: str, n_prompt: int, n_tokens: int, rows: Sequence[BenchRow]) -> dict[str, Any]:
    return {
        "model": model,
        "n_prompt": n_prompt,
        "n_tokens": n_tokens,
        "rows": [asdict(row) for row in rows],
    }
