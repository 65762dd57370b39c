#!/usr/bin/env python3
"""Run llama.cpp's own server tests against `codellama serve`, and beside it against llama-server.

    llama_server_suite.py                 both, with the source that is pinned
    llama_server_suite.py test_basic.py   these files only

The tests are copied out of llama.cpp's source when this runs. Models are stand-ins, options are translated
(see `server_suite`). A test applies if llama-server passes it with the same models; its results are kept in
the work folder until --again. Printed are a table, the failures, and one line of JSON. Tests that are marked
slow download models, and are left out by the suite itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import click

from server_suite.changes import CASES_LEFT_OUT, LEFT_OUT, copy_tests, count_cases
from server_suite.models import make_models, named_in

ROOT = Path(__file__).parents[1]
PEER = ROOT / ".llama-tools" / "bin" / "llama-server"
SHIM = ROOT / "scripts" / "server_suite" / "shim.py"
TIMEOUT_S = 600

Outcomes = dict[str, str]
"""passed, failed or skipped, by file and case."""


def run(
    work: Path, tests: Path, python: str, files: tuple[str, ...], server: str, jobs: int
) -> Outcomes:
    """Run the copied tests against one server."""
    report = work / ("peer.xml" if server else "ours.xml")
    binary = work / "server"
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SHIM}" "$@"\n')
    binary.chmod(0o755)
    environment = os.environ | {
        "LLAMA_SERVER_BIN_PATH": str(binary),
        "SUITE_SERVER": server,
        "PYTHONPATH": f"{ROOT / 'src'}",
        "OMP_WAIT_POLICY": "passive",
    }
    names = [f"unit/{name}" for name in files] or ["unit"]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    command += [f"--timeout={TIMEOUT_S}", f"-n{jobs}", "--dist=loadfile", f"--junitxml={report}"]
    command += [f"--deselect=unit/{case}" for case in CASES_LEFT_OUT]
    subprocess.run([*command, *names], cwd=tests, env=environment, check=False)
    return read(report)


def read(report: Path) -> Outcomes:
    """The outcomes in a JUnit report."""
    found: Outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        if "classname" not in case.attrib:  # a run that was interrupted
            continue
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "passed"
        outcome = "skipped" if "skipped" in tags else outcome
        name = case.attrib["classname"].rpartition(".")[2]
        found[f"{name}::{case.attrib['name']}"] = outcome
    return found


def table(ours: Outcomes, peers: Outcomes) -> str:
    """A row for each file: cases that ran, that apply, that pass and that fail."""
    rows: dict[str, Counter[str]] = {}
    for case, outcome in sorted(ours.items()):
        for name in (case.partition("::")[0], "all"):
            row = rows.setdefault(name, Counter())
            row["run"] += 1
            if peers[case] == "passed" and outcome != "skipped":
                row["applicable"] += 1
                row[outcome] += 1
    rows["all"] = rows.pop("all", Counter())
    lines = ["| file | run | applicable | pass | fail |", "|---|---:|---:|---:|---:|"]
    for name, row in rows.items():
        numbers = [row[key] for key in ("run", "applicable", "passed", "failed")]
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


@click.command()
@click.argument("files", nargs=-1)
@click.option("--again", is_flag=True, help="Run llama-server again.")
@click.option("-n", "--jobs", default=2, show_default=True, help="Tests at once.")
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path.home() / ".cache" / "codellama-runtime" / "llama-server-suite",
    show_default=True,
    help="Folder for models, the copied tests and reports.",
)
def main(files: tuple[str, ...], again: bool, jobs: int, work: Path) -> None:
    """Run llama.cpp's server tests against `codellama serve`."""
    scripts = ROOT / "scripts"
    source = Path(_said_by(str(scripts / "llama_cpp_source"))) / "vendor" / "llama.cpp"
    python = _said_by(str(scripts / "tool_venv"), "llama-server-suite")
    models = make_models(work / "models", source / "models" / "ggml-vocab-llama-spm.gguf")
    tests, n_changes = copy_tests(source, work)
    help_text = work / "help.txt"
    help_text.write_text(_said_by(sys.executable, "-m", "codellama", "serve", "--help"))
    dropped = work / "dropped.txt"
    dropped.unlink(missing_ok=True)
    os.environ["SUITE_MODELS"] = named_in(models)
    os.environ["SUITE_HELP"], os.environ["SUITE_DROPPED"] = str(help_text), str(dropped)
    if PEER.exists() and (again or not (work / "peer.xml").exists()):
        run(work, tests, python, (), str(PEER), jobs)
    ours = run(work, tests, python, files, "", jobs)
    peers = (
        read(work / "peer.xml") if (work / "peer.xml").exists() else dict.fromkeys(ours, "passed")
    )
    ours = {case: outcome for case, outcome in ours.items() if case in peers}
    click.echo(table(ours, peers))
    failed = [c for c, outcome in ours.items() if outcome == "failed" and peers[c] == "passed"]
    click.echo("\n".join(["", *failed, ""]))
    counts = Counter(o for case, o in ours.items() if peers[case] == "passed" and o != "skipped")
    options = Counter(dropped.read_text().split()) if dropped.exists() else Counter[str]()
    summary = {
        "run": len(ours),
        "applicable": counts.total(),
        "passed": counts["passed"],
        "failed": counts["failed"],
        "left_out": count_cases(source),
        "left_out_because": LEFT_OUT | CASES_LEFT_OUT,
        "changes": n_changes,
        "options_dropped": dict(options),
    }
    click.echo(json.dumps(summary))


def _said_by(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
