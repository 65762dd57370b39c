"""The benchmarks run on the tiny model and end with a line of JSON; nothing is timed here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codellama.llm import LLM
from tests.live_server import running

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".llama-tools" / "bin"
SMALL = ["--quick", "--runs", "2", "--threads", "1"]
KEYS = {
    "decode", "prompt", "clients_streamed", "clients_whole", "sharing_first", "sharing_total",
    "choices", "requests", "gap",
}  # fmt: skip


def bench(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def document(script: str, *arguments: str) -> dict[str, Any]:
    done = bench(script, *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert {"benchmark", "date", "machine", "versions", "settings", "results"} <= set(found)
    return found


def results(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    rows = {row["key"]: row for row in found["results"]}
    assert len(rows) == len(found["results"])
    for row in rows.values():
        for values in row["values"].values():
            assert len(values) == 2
            assert min(values) >= 0
    return rows


def test_a_server_that_is_running(tiny_gguf: Path) -> None:
    with running(lambda: LLM(tiny_gguf, n_seq_max=4, n_threads=1)) as live:
        found = document("bench_server.py", "--url", live.url, "--quick", "--runs", "2")
    rows = results(found)
    assert set(rows) == KEYS
    assert all(row["ratios"] == {} for row in rows.values())


def test_ours_against_ours(tiny_gguf: Path) -> None:
    options = ["--against", "codellama", "--ctx-size", "1024", "--cells", "4096", *SMALL]
    found = document("bench_server.py", str(tiny_gguf), *options)
    rows = results(found)
    assert set(rows) == KEYS
    assert all(row["ratios"]["codellama again"] > 0 for row in rows.values())


def test_how_long_a_start_takes(tiny_gguf: Path) -> None:
    options = ["--runs", "2", "--threads", "1", "--ctx-size", "256"]
    rows = results(document("bench_start.py", str(tiny_gguf), *options))
    commands = ("--help", "chat --help", "serve --help", "serve")
    assert set(rows) == {f"{name} {kind}" for name in commands for kind in ("wall", "processor")}
    assert rows["--help wall"]["limit"] == 0.15
    assert rows["serve wall"]["wanted"] == {"llama-server": 3.0}


def test_drafts_against_none(tiny_gguf: Path) -> None:
    options = ["--drafts", "--edit-model", str(tiny_gguf), *SMALL]
    options += ["--ctx-size", "1024", "--cells", "4096"]
    rows = results(document("bench_server.py", str(tiny_gguf), *options))
    assert set(rows) == {"edits", "noise"}
    assert rows["edits"]["wanted"] == {"codellama, no drafts": 1.8}
    assert rows["noise"]["wanted"] == {"codellama, no drafts": 0.97}


@pytest.mark.skipif(
    not (TOOLS / "llama-server").is_file(), reason="scripts/build_llama_tools has not been run"
)
def test_ours_against_llama_server(tiny_gguf: Path) -> None:
    options = ["--against", "llama-server", "--ctx-size", "1024", "--cells", "4096", *SMALL]
    found = document("bench_server.py", str(tiny_gguf), *options)
    rows = results(found)
    assert set(rows) == KEYS | {"choices_of_requests", "memory"}
    assert rows["sharing_first"]["wanted"] == {"llama-server": 0.15}
    theirs = rows["memory"]["medians"]["llama-server"]
    assert rows["memory"]["limit"] == pytest.approx(theirs + 150, abs=1)


def test_the_engine(tiny_gguf: Path) -> None:
    options = [
        "--quick",
        "--runs",
        "2",
        "--threads",
        "1",
        "--width",
        "1",
        "--width",
        "3",
        "--alone",
    ]
    rows = results(document("bench_engine.py", str(tiny_gguf), *options))
    per_width = {f"{name}_{width}" for name in ("decode", "outside") for width in (1, 3)}
    assert set(rows) == per_width | {"prompt"}
    for width in (1, 3):
        (outside,) = rows[f"outside_{width}"]["medians"].values()
        assert 0 < outside < 100


@pytest.mark.skipif(
    not (TOOLS / "llama-batched-bench").is_file(),
    reason="scripts/build_llama_tools has not been run",
)
def test_the_command_beside_llama_bench(tiny_gguf: Path) -> None:
    options = ["--runs", "2", "--threads", "1", "--prompt", "32", "--tokens", "8"]
    rows = results(document("bench_speed.py", str(tiny_gguf), *options))
    assert set(rows) == {"prompt", "answer_1", "answer_4", "answer_16"}
    assert all(set(row["ratios"]) == {"llama.cpp"} for row in rows.values())


def test_what_a_schema_costs(tiny_gguf: Path) -> None:
    options = ["--runs", "2", "--threads", "1", "--tokens", "16", "--alone"]
    rows = results(document("bench_schema.py", str(tiny_gguf), *options))
    costs = {f"{name}_{n}" for name in ("plain", "sections", "choices") for n in (1, 8)}
    ratios = {"beside_sections", "beside_choices"}
    assert set(rows) == costs | ratios | {"sections_cost", "choices_cost", "first", "very_first"}


def test_what_a_schema_costs_the_engines_thread(tiny_gguf: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.json"
    more.write_text('[{"type": "boolean"}, {"not": {"pattern": "(a)\\\\1"}}]')
    options = ["--answers", "2", "--tokens", "8", "--schemas", str(more)]
    found = document("bench_masks.py", str(tiny_gguf), *options)
    rows = {row["schema"]: row for row in found["results"]}
    assert "schema 0" in rows and "schema 1" not in rows, "what is refused is not measured"
    assert rows["different integers"]["tokens"] > 8
    assert all(0 < row["median"] <= row["99 %"] <= row["worst"] for row in rows.values())
    assert found["worst"] == max(row["worst"] for row in rows.values())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give either MODEL or --url"),
        (["--url", "http://127.0.0.1:9"], 1, "nothing answers at http://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: list[str], code: int, message: str) -> None:
    done = bench("bench_server.py", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system has no /proc")
def test_no_server_outlives_a_bench_that_is_ended(tiny_gguf: Path) -> None:
    script = str(ROOT / "scripts" / "bench_server.py")
    command = [sys.executable, script, str(tiny_gguf), "--against", "codellama", "--quick"]
    command += ["--runs", "1000", "--threads", "1", "--ctx-size", "1024", "--cells", "4096"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first figures: both servers are there
        children = _children(process.pid)
        process.terminate()
        process.stderr.read()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert len(children) == 2
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(i) for task in tasks.iterdir() for i in (task / "children").read_text().split()]


def test_the_proof_of_the_70b_in_small(tmp_path: Path) -> None:
    done = bench("prove_70b.py", "--work", str(tmp_path), "--quick", "--threads", "2")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    converted = found["converted"]
    assert converted["endings"] == ["SIGKILL", "SIGINT", "finished"]
    assert converted["nbytes"] == converted["planned_bytes"]
    assert converted["peaks"]["disk"] <= converted["planned_disk"] + 2**20
    assert converted["compared_tensors"] == found["loaded"]["compared_tensors"] == 57
    assert converted["breaks"] > 0
    assert found["answer"]["answer"]["completion_tokens"] >= 1
    assert os.listdir(tmp_path) == []


@pytest.mark.reference
def test_the_weights_benchmark_in_small(tmp_path: Path) -> None:
    if not (TOOLS / "llama-quantize").is_file():
        pytest.skip("no llama-quantize: run scripts/build_llama_tools")
    found = document(
        "bench_weights.py", "--work", str(tmp_path), "--quick", "--runs", "2", "--no-bytes"
    )
    keys = {row["key"] for row in found["results"]}
    assert keys == {
        "seconds", "quantize", "several", "per_weight", "cpu_seconds", "memory", "written",
    }  # fmt: skip
    assert all(len(row["values"]["codellama"]) == 2 for row in found["results"])
    assert {"Q4_K", "Q4_K with importance", "IQ4_XS"} <= {row["key"] for row in found["arithmetic"]}
    assert {"f32 to Q4_K", "SHA-256 for the manifest"} <= {row["key"] for row in found["steps"]}
    assert os.listdir(tmp_path) == []


def test_a_short_soak(tiny_gguf: Path) -> None:
    done = bench("soak.py", str(tiny_gguf), "--minutes", "0.1", "--clients", "6", "--slots", "3")
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == found["wrong"] == []
    assert sum(found["requests"].values()) > 10
    assert found["figures"]["memory_mb"] > 10


def test_a_busy_machine(tiny_gguf: Path) -> None:
    """Beside a program that computes, and confined to one core; the programs are gone afterwards."""
    cases = ("--case", "busy", "--case", "affinity", "--fixed", "1", "--alone")
    found = document("bench_busy.py", str(tiny_gguf), *cases, "--runs", "2", "--seconds", "0.2")
    rows = results(found)
    assert set(rows) == {"busy_rate", "busy_worst", "affinity_rate", "affinity_worst"}
    for row in rows.values():
        assert set(row["values"]) == {"codellama", "1 threads"}
    assert rows["busy_rate"]["medians"]["codellama"] > 0
    assert found["settings"]["runs"] == 2
