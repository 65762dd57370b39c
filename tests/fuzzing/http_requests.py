"""The process that sends mutated requests: `python -m tests.fuzzing.http_requests SEED COUNT FOLDER ...`.

`codellama serve MODEL --lora LORA` runs beside it. Each case begins with a body of a real client and is
changed: odd values, missing fields, foreign ones that /openapi.json describes, deep and long ones, broken
bytes, other methods and types; some clients leave early. A case may be answered or refused. An error 500, an
error event of that kind, a traceback in the log and the end of the process are failures. What the process has
open and how large it is are compared between the end of the first fifth and the end. The result is JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import httpx

from tests.fuzzing.client_bodies import BODIES
from tests.fuzzing.constraints import SCHEMAS, TEXTS

CLIENTS = 6
ALLOWED = {200, 400, 404, 405, 413, 415, 501, 503}
PATIENCE_S = 20.0  # for one answer; a mutated one may have no end but ours
GETS = ["/health", "/v1/models", "/metrics", "/lora-adapters", "/tokenizer_info", "/openapi.json"]
DEEP: Any = "x"
for _ in range(60):
    DEEP = [DEEP]
ODD: list[Any] = [
    *(0, 1, -1, 2, 7, 100, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 10**299),
    *(0.0, -0.0, 0.5, 1e-320, -1e9, 3e38, 1e39, 1e300, True, False, None, "", "x", "é😀", "\0"),
    *("</s><step><s>", "\ud800", "x" * 3000, "-1", "NaN", [], {}, [[]], [{}], {"a": {}}, DEEP),
    *([0] * 300, ["x"] * 300, [[5, 1]] * 50, {"type": "object"}, {"$ref": "#"}, "root ::= root"),
    *(SCHEMAS[0], SCHEMAS[4], *TEXTS["regex"], *TEXTS["lark"], *TEXTS["gbnf"], "(" * 300),
]

CACHE_MIB = 16
"""Of prompts, so that it is full long before ten thousand requests have come."""


def main() -> None:
    """Run the cases that the command line names."""
    seed, count, folder, model, lora = sys.argv[1:]
    with (Path(folder) / "server.log").open("w+b") as log:
        result = Run(int(seed), int(count)).run(model, lora, log)
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    if "Traceback" in said or "rror: " in said:
        result["failures"].append({"log": said[-3000:]})
    sys.stdout.write(json.dumps(result) + "\n")


class Run:
    """One server and the cases that are sent to it."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        self.fields: list[str] = []
        self.lock = threading.Lock()

    def run(self, model: str, lora: str, log: Any) -> dict[str, Any]:
        """All cases; what came of them."""
        options = "--port 0 -c 1024 --parallel 4 -t 1 --timeout 2 --embeddings --max-queue 64"
        options += f" --cache-ram {CACHE_MIB}"
        command = [sys.executable, "-m", "codellama", "serve", model, "--lora", lora]
        with subprocess.Popen([*command, *options.split()], stderr=log) as server:
            try:
                self.url = _url(log.name)
                return self._cases(server)
            finally:
                server.kill()

    def _cases(self, server: subprocess.Popen[bytes]) -> dict[str, Any]:
        api = httpx.get(self.url + "/openapi.json", timeout=60).json()
        schemas = api["components"]["schemas"].values()
        self.fields = sorted({name for s in schemas for name in s.get("properties", ())})
        early = self.count // 5
        started = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self._attempt, range(early)))
        before = self._use(server.pid)
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self._attempt, range(early, self.count)))
        if server.poll() is not None:
            self.failures.append({"ended": server.returncode})
            return self._result({}, {}, started)
        return self._result(before, self._use(server.pid), started)

    def _result(
        self, before: dict[str, int], after: dict[str, int], started: float
    ) -> dict[str, Any]:
        return {
            "cases": sum(self.counts.values()),
            "counts": dict(sorted(self.counts.items())),
            "failures": self.failures[:20],
            "before": before,
            "after": after,
            "seconds": round(time.monotonic() - started, 1),
        }

    def _use(self, pid: int) -> dict[str, int]:
        """What the server has open, once it is idle."""
        for _ in range(200):
            if "requests_processing 0" in httpx.get(self.url + "/metrics", timeout=60).text:
                break
            time.sleep(0.1)
        time.sleep(1)
        status = Path(f"/proc/{pid}/status").read_text()
        rows = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        return {
            "files": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": int(rows["Threads"]),
            "kib": int(rows["VmRSS"].split()[0]),
        }

    def _attempt(self, number: int) -> None:
        case = make_case(Random(f"{self.seed} {number}"), self.fields)
        try:
            outcome = self._send(case)
        except httpx.HTTPError as error:
            outcome = f"broken: {error!r}"
        bad = outcome.startswith(("5", "broken")) and outcome not in ("501", "503")
        with self.lock:
            self.counts[f"{case['path']} {outcome}"] += 1
            if bad or (outcome.isdecimal() and int(outcome) not in ALLOWED):
                self.failures.append({"case": number, "outcome": outcome, **_printable(case)})

    def _send(self, case: dict[str, Any]) -> str:
        deadline = time.monotonic() + case["patience"]
        with (
            httpx.Client(base_url=self.url, timeout=PATIENCE_S * 3) as client,
            client.stream(
                case["method"], case["path"], content=case["content"], headers=case["headers"]
            ) as response,
        ):
            body = b""
            for piece in response.iter_bytes():
                body += piece
                if time.monotonic() > deadline:
                    return "left"
        if any(f'"{kind}"'.encode() in body for kind in ("server_error", "api_error")):
            return "500 event"
        if response.status_code >= 400 and case["method"] != "HEAD":
            error = json.loads(body)["error"]
            assert error if isinstance(error, str) else error["message"]
        return str(response.status_code)


def make_case(rng: Random, fields: list[str]) -> dict[str, Any]:
    """One request."""
    path, body = rng.choice(BODIES)
    case: dict[str, Any] = {
        "method": "POST", "path": path, "headers": {"content-type": "application/json"},
        "patience": rng.choice([PATIENCE_S, PATIENCE_S, PATIENCE_S, 0.05]),
    }  # fmt: skip
    if rng.random() < 0.03:
        method = rng.choice(["GET", "HEAD", "PUT", "OPTIONS"])
        return case | {"method": method, "path": rng.choice(GETS), "content": b""}
    body = json.loads(json.dumps(body))
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        body = mutated(body, rng, fields)
    try:
        content = json.dumps(body).encode()
    except RecursionError:
        content = b"[" * 5000
    if rng.random() < 0.08:
        content = _broken(content, rng)
    if rng.random() < 0.02:
        case["headers"] = {"content-type": rng.choice(["text/plain", "", "application/json; x"])}
    return case | {"content": content}


def mutated(value: Any, rng: Random, fields: list[str]) -> Any:
    """The value with one change somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        change = rng.random()
        if change < 0.6:
            return {**value, key: mutated(value[key], rng, fields)}
        if change < 0.7:
            return {k: v for k, v in value.items() if k != key}
        if change < 0.95 and fields:
            return {**value, rng.choice(fields): rng.choice(ODD)}
        return {**value, key + rng.choice(["", "s", "_", "\0"]): rng.choice(ODD)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(value[at], rng, fields), *value[at + 1 :]] * rng.choice(
            [1, 1, 5]
        )
    return rng.choice(ODD)


def _broken(content: bytes, rng: Random) -> bytes:
    at = rng.randint(0, len(content))
    pieces = [b"NaN", b"-Infinity", b"1e999", b"\xff", b'"', b"}", b"[" * 200, b"\\u", b"9" * 400]
    return rng.choice([content[:at], content[:at] + rng.choice(pieces) + content[at:]])


def _printable(case: dict[str, Any]) -> dict[str, str]:
    return {"path": case["path"], "content": case["content"][:2000].decode("utf-8", "replace")}


def _url(log: str) -> str:
    for _ in range(600):
        said = Path(log).read_text("utf-8", "replace")
        if "listening on " in said:
            url = said.partition("listening on ")[2].split()[0]
            if _ready(url):
                return url
        time.sleep(0.1)
    raise SystemExit(f"no server: {said}")


def _ready(url: str) -> bool:
    try:
        return httpx.get(url + "/health", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
