"""What a command imports: a command that needs little starts quickly.

Every row runs in an interpreter of its own, to the end of the command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from codellama.cli import COMMANDS
from rooms import OUTSIDE
from tests.live_server import DEADLINE_S, wait_until

HEAVY = {*OUTSIDE, "asyncio", "diskcache", "jinja2", "multiprocessing", "sqlite3", "torch"}
"""Packages from outside that this one imports, and the largest of those that they import."""

CLICK = {"click", "typing_extensions"}
LLAMA_CPP = {
    *("llama_cpp", "diskcache", "jinja2", "multiprocessing", "numpy", "sqlite3"),
    "typing_extensions",
}
"""What `import llama_cpp` brings along: its own model class, chat templates and disk cache."""
SERVER = {
    "asyncio",
    "fastapi",
    "llguidance",
    "multiprocessing",
    "pydantic",
    "pydantic_core",
    "starlette",
    "uvicorn",
}

MAY_IMPORT: dict[str, set[str]] = {
    "--help": CLICK,
    **{f"{name} --help": CLICK for name in COMMANDS},
    "models --json": CLICK,
    "models": CLICK | {"rich"},
    "inspect MODEL": CLICK | LLAMA_CPP,
    "tokenize MODEL x": CLICK | LLAMA_CPP,
    "complete MODEL x -n 1": CLICK | LLAMA_CPP,
    "chat MODEL -p x -n 1": CLICK | LLAMA_CPP,
    "plan MODEL": CLICK | LLAMA_CPP | {"gguf", "yaml"},
}
"""Command lines, and the heavy packages that each may import; MODEL is a GGUF."""

RUN = """
import sys
from codellama.cli import main
try:
    main(sys.argv[1:], prog_name="codellama")
finally:
    print("modules:", *sys.modules)
"""


def heavy_modules(stdout: str) -> set[str]:
    """Those of `HEAVY` that the interpreter had imported at its end."""
    listed = [line for line in stdout.splitlines() if line.startswith("modules:")]
    return HEAVY & set(listed[-1].split())


def python(*arguments: str) -> str:
    """The output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("line", MAY_IMPORT)
def test_a_command_imports_what_it_needs(
    line: str, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODELLAMA_MODELS", str(tmp_path))  # empty, whatever lies in the checkout
    arguments = [str(tiny_gguf) if word == "MODEL" else word for word in line.split()]
    assert heavy_modules(python(RUN, *arguments)) <= MAY_IMPORT[line]


def test_the_server_imports_what_it_needs(tiny_gguf: Path) -> None:
    command = [sys.executable, "-c", RUN, "serve", str(tiny_gguf), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None and server.stderr is not None
        url = server.stderr.readline().removeprefix("listening on ").strip()
        wait_until(lambda: httpx.get(url + "/health", timeout=DEADLINE_S).status_code == 200)
        os.kill(server.pid, signal.SIGTERM)
        assert heavy_modules(server.stdout.read()) <= CLICK | LLAMA_CPP | SERVER


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, codellama; print('modules:', *sys.modules)"
    assert heavy_modules(python(code)) == set()


def test_the_library_imports_what_it_needs() -> None:
    code = "import sys; from codellama import LLM; print('modules:', *sys.modules)"
    assert heavy_modules(python(code)) <= LLAMA_CPP
