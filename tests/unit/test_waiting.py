"""How threads wait: what OpenMP is told when llama.cpp is loaded, seen in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from codellama.native.waiting import SPINS

LOAD = (
    "import os, codellama.native.library as lib; lib.library();"
    "print([n for n in os.environ if n.startswith(('GOMP', 'OMP_WAIT'))])"
)


def told(**environment: str) -> tuple[str, str]:
    """What OpenMP says of its spins, and which names are left in the environment."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**clean, "OMP_DISPLAY_ENV": "verbose", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not lines:
        pytest.skip("this llama.cpp was not built with GNU's OpenMP")
    return lines[0].split("'")[1], done.stdout.strip()


def test_threads_spin_briefly_and_nobody_inherits_it() -> None:
    assert told() == (str(SPINS), "[]")


def test_what_the_environment_says_holds() -> None:
    assert told(GOMP_SPINCOUNT="77") == ("77", "['GOMP_SPINCOUNT']")
    spins, names = told(OMP_WAIT_POLICY="passive")
    assert (spins, names) == ("0", "['OMP_WAIT_POLICY']")
