"""Containerfile, unit and workflow: what they name is there, and other programs read them without a word."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "scripts" / "deploy"
INSTRUCTIONS = {
    *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "RUN", "STOPSIGNAL", "USER"),
    *("VOLUME", "WORKDIR"),
}


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Containerfile with their continued lines joined."""
    text = (DEPLOY / "Containerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined]


def test_the_containerfile_says_only_what_it_declared() -> None:
    found = instructions()
    assert {name for name, _ in found} <= INSTRUCTIONS
    declared = {rest.split("=")[0] for name, rest in found if name == "ARG"}
    used = {
        v
        for name, rest in found
        if name in ("FROM", "RUN")
        for v in re.findall(r"\$\{(\w+)\}", rest)
    }
    assert used == declared
    stages = [rest for name, rest in found if name == "FROM"]
    assert len(stages) == 2
    assert all(":latest" not in rest for _, rest in found)
    assert [rest for name, rest in found if name == "USER"] == ["1000:1000"], "not as root"


def test_the_containers_command_is_one_of_ours() -> None:
    from codellama.cli import main

    found = dict(instructions())
    words = re.findall(r'"([^"]*)"', found["CMD"])
    command = main.get_command(None, words[0])  # type: ignore[arg-type]
    assert command is not None
    flags = {flag for param in command.params for flag in param.opts}
    assert {word for word in words if word.startswith("--")} <= flags


def test_the_unit_is_read_without_a_word(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    text = (DEPLOY / "codellama.service").read_text("utf-8")
    assert "/opt/codellama/.venv/bin/codellama serve" in text
    unit = tmp_path / "codellama.service"
    unit.write_text(text.replace("/opt/codellama/.venv/bin/codellama", sys.executable))
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "codellama.service" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_workflow_runs_what_is_there_on_three_systems() -> None:
    workflow: dict[str, Any] = yaml.safe_load(
        (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    )
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    runs = " ".join(step.get("run", "") for step in steps)
    for script in re.findall(r"scripts/\S+", runs):
        assert (ROOT / script).is_file(), script
    systems = {name.split("-")[0] for name in workflow["jobs"]["wheel"]["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "macos", "windows"}
    pinned = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", use) for use in pinned)


def test_no_module_but_one_asks_for_what_only_posix_has() -> None:
    modules = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
    calls = {
        "fdatasync",
        "fork",
        "pread",
        "preadv",
        "pwrite",
        "pwritev",
        "sched_getaffinity",
        "sysconf",
    }
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "os":
                names += [node.attr] if node.attr in calls else []
            found += [f"{path.name}: {name}" for name in names if name in modules | calls]
    assert {entry.partition(":")[0] for entry in found} == {"system.py"}, found
