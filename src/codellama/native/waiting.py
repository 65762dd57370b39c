"""How long llama.cpp's threads spin when they wait for each other, before they sleep.

All threads of a step meet hundreds of times. GNU's OpenMP lets who comes first spin for some milliseconds.
That is right as long as no other program needs a processor; else the spinning thread uses up its turn while
the one that it waits for has none. A spin of half a millisecond covers the meetings of a quiet machine, the
Python between two steps, and the turn that an event loop or a client takes. It is shorter than another
program's turn. Behind it the thread sleeps, and the system wakes it before others. The figures are in
scripts/bench/README.md.
"""

from __future__ import annotations

import importlib
import os

SPINS = 50_000
"""Rounds of a spin, of some ten nanoseconds each; GNU's own are 300,000."""

_NAME = "GOMP_SPINCOUNT"
_WISHES = (_NAME, "OMP_WAIT_POLICY")


def load_llama_cpp() -> None:
    """Load llama.cpp with these spins, unless the environment says how threads wait.

    OpenMP reads its environment once, when it is loaded. What is set for that is taken back, so that programs
    that this process starts do not inherit it.
    """
    decided = any(name in os.environ for name in _WISHES)
    if not decided:
        os.environ[_NAME] = str(SPINS)
    try:
        importlib.import_module("llama_cpp")
    finally:
        if not decided:
            del os.environ[_NAME]
