#!/usr/bin/env python3
"""Make the 70B's GGUF at full size through the real command, from a stand-in for the hub, and run one.

    prove_70b.py --work FOLDER                    Q4_K_M, then TQ1_0 loaded and asked
    prove_70b.py --work FOLDER --type Q2_K        another type, where disk or time are short
    prove_70b.py --work FOLDER --quick            a model of a few megabytes, to see that it works

A stand-in for the Hugging Face hub on loopback serves a checkpoint of CodeLlama-70b-Instruct's shape and
size, 29 shards of made-up weights with their hashes. `codellama pull 70b-instruct` streams it, while
every connection breaks after two gigabytes, and is killed once and interrupted once; the same command
goes on each time. Rows of every tensor of the result are then made again from the weights and compared.
At last a type that fits the memory is made, loaded with all layers and asked. The folder needs room for
the first output and two shards. Figures: a table, and one JSON document as the last line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.report import WIDTH, heading
from make_random_model import made_up, pieces_of
from stand_ins.check import compare_rows
from stand_ins.checkpoint import CODELLAMA_70B, SHARD_BYTES, TINY, MadeUpCheckpoint
from stand_ins.hub import FakeHub, serve
from stand_ins.watch import Peaks, watching

REPOSITORY = "codellama/CodeLlama-70b-Instruct-hf"
LINE_BYTES = 2 * 10**9  # after so many a connection breaks
QUESTION = "def fibonacci(n):"
ANSWER_TOKENS = 16
POLL_S = 0.2


@dataclasses.dataclass(frozen=True)
class Interruption:
    """A signal for the command when the hub has begun to send this shard (a number from 1)."""

    shard: int
    signal: signal.Signals


@dataclasses.dataclass
class Conversion:
    """What making one type took: seconds and processor seconds per attempt, peaks over all of them."""

    type: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu_seconds: list[float] = dataclasses.field(default_factory=list)
    endings: list[str] = dataclasses.field(default_factory=list)
    peaks: Peaks = dataclasses.field(default_factory=Peaks)
    nbytes: int = 0
    planned_bytes: int = 0
    planned_disk: int = 0
    planned_seconds: float = 0
    sent_bytes: int = 0
    breaks: int = 0

    def to_json(self, weight_bytes: int) -> dict[str, Any]:
        """As one JSON object; `rate` is bytes of the checkpoint per second of all attempts."""
        document = dataclasses.asdict(self)
        document["rate"] = round(weight_bytes / sum(self.seconds))
        return document


@click.command()
@click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="A folder."
)
@click.option("--type", "type_name", default="Q4_K_M", show_default=True, help="The first type.")
@click.option("--run-type", default="TQ1_0", show_default=True, help="The type that is loaded.")
@click.option(
    "--vocab",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="GGUF to take the pieces from. [default: made up]",
)
@click.option("--threads", type=click.IntRange(1), default=os.cpu_count(), show_default=True)
@click.option("--skip-first", is_flag=True, help="Only the type that is loaded.")
@click.option("--quick", is_flag=True, help="A tiny model.")
def main(
    work: Path,
    type_name: str,
    run_type: str,
    vocab: Path | None,
    threads: int,
    skip_first: bool,
    quick: bool,
) -> None:
    """Prove the way from the hub to an answer at the size of the 70B."""
    work.mkdir(parents=True, exist_ok=True)
    # Started in the background, a process ignores Ctrl-C, and so would the commands it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    checkpoint = make_checkpoint(vocab, quick)
    say(f"hashing {len(checkpoint.shards)} shards, {checkpoint.weight_bytes / 1e9:.2f} GB")
    checkpoint.hash_all(threads)
    n_shards = len(checkpoint.shards)
    interruptions = [
        Interruption(max(1, n_shards // 3), signal.SIGKILL),
        Interruption(max(2, 2 * n_shards // 3), signal.SIGINT),
    ]
    results: dict[str, Any] = {}
    with serve({REPOSITORY: checkpoint.files}) as hub:
        hub.drop_after = checkpoint.weight_bytes // 10 if quick else LINE_BYTES
        proof = Proof(checkpoint, hub, work, threads)
        if not skip_first:
            results["converted"] = proof.convert(type_name, interruptions, keep=False)
        results["loaded"] = proof.convert(run_type, [], keep=True)
    path = work / f"codellama-70b-instruct.{run_type}.gguf"
    results["answer"] = ask(path)
    for leftover in work.glob(f"{path.name}*"):
        leftover.unlink()
    publish(checkpoint, results, {"threads": threads, "quick": quick})


def make_checkpoint(vocab: Path | None, quick: bool) -> MadeUpCheckpoint:
    """The checkpoint that the hub serves."""
    shape = TINY if quick else CODELLAMA_70B
    pieces = pieces_of(vocab, shape.vocab) if vocab else made_up(shape.vocab)
    return MadeUpCheckpoint(shape, pieces.of_tokenizer, 2 * 10**6 if quick else SHARD_BYTES)


class Proof:
    """Conversions of one checkpoint on one hub, in one folder."""

    def __init__(
        self, checkpoint: MadeUpCheckpoint, hub: FakeHub, work: Path, threads: int
    ) -> None:
        self.checkpoint = checkpoint
        self.hub = hub
        self.work = work
        self.threads = threads
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "CODELLAMA_"))
        } | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def convert(
        self, type_name: str, interruptions: Sequence[Interruption], *, keep: bool
    ) -> dict[str, Any]:
        """Make one type, with these interruptions; check the result; delete it unless `keep`."""
        done = Conversion(type_name)
        path = self.work / f"codellama-70b-instruct.{type_name}.gguf"
        plan = json.loads(self._output("plan", REPOSITORY, "--type", type_name, "--json"))
        done.planned_bytes = plan["outputs"][0]["bytes"]
        done.planned_disk, done.planned_seconds = plan["peak_disk_bytes"], plan["seconds"]
        self.hub.sent.clear()
        self.hub.drops = lines = 10**6
        for interruption in (*interruptions, None):
            self._attempt(done, path, interruption)
        done.sent_bytes = sum(self.hub.sent[name] for name in self.checkpoint.shards)
        done.breaks = lines - self.hub.drops
        done.nbytes = path.stat().st_size
        say(f"{type_name}: verifying")
        self._output("verify", str(path))
        rows, tensors = compare_rows(path, self.checkpoint)
        say(f"{type_name}: {rows} rows of {tensors} tensors are as they must be")
        for leftover in [] if keep else list(self.work.glob(f"{path.name}*")):
            leftover.unlink()
        return done.to_json(self.checkpoint.weight_bytes) | {
            "compared_rows": rows,
            "compared_tensors": tensors,
        }

    def _output(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "codellama", *arguments]
        return subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    def _attempt(self, done: Conversion, path: Path, interruption: Interruption | None) -> None:
        command = [sys.executable, "-m", "codellama", "pull", "70b-instruct"]
        command += ["--type", done.type, "-o", str(path), "--threads", str(self.threads), "--json"]
        begun = time.monotonic()
        process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL)
        try:
            with watching(process.pid, self.work) as peaks:
                status, usage = self._wait(process, interruption)
        finally:
            process.kill()
        code = process.returncode = os.waitstatus_to_exitcode(status)
        done.seconds.append(round(time.monotonic() - begun, 1))
        done.cpu_seconds.append(round(usage.ru_utime + usage.ru_stime, 1))
        done.peaks = done.peaks.join(peaks)
        ending = "finished" if code == 0 else f"code {code}"
        done.endings.append(interruption.signal.name if interruption and code else ending)
        say(f"{done.type}: {done.endings[-1]} after {done.seconds[-1]:.0f} s, {peaks}")
        if (code == 0) != (interruption is None):
            raise click.ClickException(f"codellama pull ended with {code}, {interruption}")

    def _wait(self, process: subprocess.Popen[bytes], interruption: Interruption | None) -> Any:
        """Wait for the end; status and resources. Sends the signal when its shard has begun to come."""
        names = list(self.checkpoint.shards)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                return status, usage
            if interruption and self.hub.sent[names[interruption.shard - 1]] > SHARD_BYTES // 10**4:
                process.send_signal(interruption.signal)
                interruption = None
            time.sleep(POLL_S)


def ask(path: Path) -> dict[str, Any]:
    """Load the model through the command, with all its layers, and have it write something."""
    command = [sys.executable, "-m", "codellama", "complete", str(path), QUESTION, "--json"]
    command += ["--max-tokens", str(ANSWER_TOKENS), "--temperature", "0", "--ctx-size", "512"]
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with watching(process.pid) as peaks:
        text, _ = process.communicate()
    seconds = time.monotonic() - begun
    if process.returncode:
        raise click.ClickException(f"codellama complete ended with {process.returncode}")
    answer: dict[str, Any] = json.loads(text)
    if answer["completion_tokens"] < 1:
        raise click.ClickException(f"no token came: {answer}")
    return {
        "seconds": round(seconds, 1),
        "peaks": dataclasses.asdict(peaks),
        "file_bytes": path.stat().st_size,
        "answer": answer,
    }


def publish(
    checkpoint: MadeUpCheckpoint, results: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """A table for people, then the JSON document."""
    conversions = {name: result for name, result in results.items() if name != "answer"}
    table = Table("figure", *conversions, title="the 70B", title_justify="left")
    figures: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "type": lambda r: r["type"],
        "checkpoint, GB": lambda r: f"{checkpoint.weight_bytes / 1e9:.2f}",
        "file, bytes": lambda r: f"{r['nbytes']:,}",
        "planned, bytes": lambda r: f"{r['planned_bytes']:,}",
        "attempts": lambda r: ", ".join(r["endings"]),
        "seconds": lambda r: f"{sum(r['seconds']):,.0f}",
        "processor seconds": lambda r: f"{sum(r['cpu_seconds']):,.0f}",
        "rate, MB/s": lambda r: f"{r['rate'] / 1e6:,.1f}",
        "memory, MB": lambda r: f"{r['peaks']['anonymous'] / 1e6:,.0f}",
        "disk, GB": lambda r: f"{r['peaks']['disk'] / 1e9:.2f}",
        "sent, GB": lambda r: f"{r['sent_bytes'] / 1e9:.2f}",
        "broken lines": lambda r: str(r["breaks"]),
    }
    for title, figure in figures.items():
        table.add_row(title, *(figure(result) for result in conversions.values()))
    Console(width=WIDTH).print(table)
    document = heading("70b", settings, {})
    document["checkpoint_bytes"] = checkpoint.weight_bytes
    document["shards"] = len(checkpoint.shards)
    print(json.dumps(document | dict(results)), flush=True)


def say(text: str) -> None:
    """A line on stderr with the hour."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
