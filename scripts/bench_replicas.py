"""Throughput of two replicas against one: tokens a second of 16 clients that stream at the same time.

    scripts/bench_replicas.py MODEL [--clients 16] [--tokens 96] [--rounds 2] [--share CORES]

Needs the extra ray. A replica computes with one thread, so two of them need two processors; what Ray and the
front take comes on top. Where there are no more than two, `--share 0.5` gives each replica so much of one by
a control group, so that the rest is left to Ray, the front and the clients.

In each round every server is started in turn and measured twice. The table has medians, the last line is
JSON. The plain server with one thread tells what the front and Ray cost.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx

from bench.disturbing import limited
from bench.report import Row, heading, publish, table
from bench.servers import versions

ONE = "one replica"
SERVERS = {"two replicas": ["--replicas", "2"], ONE: ["--replicas", "1"], "no replica": []}
REPEATS = 2
SLOTS = 8
READY_S = 300.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--share", type=float)
    args = parser.parse_args()
    servers = {name: words for name, words in SERVERS.items() if words or args.share is None}
    speeds: dict[str, list[float]] = {}
    for round_number in range(args.rounds):
        for name, options in servers.items():
            found = measured(args, options)
            speeds.setdefault(name, []).extend(found)
            print(f"round {round_number + 1}: {name}: {found} tokens/s", file=sys.stderr)
    row = Row("speed", f"{args.clients} clients", "tokens/s", "more", speeds, {ONE: 1.7})
    document = heading("replicas", vars(args), versions())
    publish(
        document | {"results": [row.to_json()]}, [table(f"{args.rounds} rounds, medians", [row])]
    )


def measured(args: argparse.Namespace, options: list[str]) -> list[float]:
    """Tokens a second of a server with these options, each time that it was measured."""
    command = [sys.executable, "-m", "codellama", "serve", args.model, "--port", "0"]
    command += ["--threads", "1"]
    command += ["--parallel", str(SLOTS), "--no-access-log", "--spec-type", "none", *options]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = stack.enter_context((folder / "log").open("w"))
        process = subprocess.Popen(command, stderr=log)
        try:
            url = address(process, folder / "log")
            if args.share is not None:
                confine(args.share, stack)
            streamed(url, args.clients, 4)
            return [streamed(url, args.clients, args.tokens) for _ in range(REPEATS)]
        finally:
            process.terminate()
            process.wait(90)


def confine(share: float, stack: ExitStack) -> None:
    """Give each replica so much of a core, and no more."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.joinpath("cmdline").read_bytes().startswith(b"ray::ServeReplica"):
                group = stack.enter_context(limited(share))
                group.joinpath("cgroup.procs").write_text(process.name)


def address(process: subprocess.Popen[bytes], log: Path) -> str:
    """The server's address, when its model is ready."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"listening on (\S+)", log.read_text())
        if found and httpx.get(found[1] + "/health", timeout=READY_S).status_code == 200:
            return found[1]
        time.sleep(0.1)
    sys.exit(log.read_text())


def streamed(url: str, clients: int, tokens: int) -> float:
    """Tokens a second of so many clients that stream `tokens` each, with prompts of their own."""
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        written = sum(
            pool.map(lambda i: stream(url, f"Question {i}: why?", tokens), range(clients))
        )
    return written / (time.perf_counter() - began)


def stream(url: str, text: str, tokens: int) -> int:
    """Stream one answer; how many tokens it had."""
    ask = {"prompt": text, "n_predict": tokens, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", url + "/completion", json=ask, timeout=READY_S) as answer:
        *_, last = (line for line in answer.iter_lines() if line.startswith("data: "))
    predicted: int = json.loads(last.removeprefix("data: "))["tokens_predicted"]
    return predicted


if __name__ == "__main__":
    main()
