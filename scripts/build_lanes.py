#!/usr/bin/env python3
"""Compile the quantizers in lanes to `src/codellama/kernels/_lanes.so`, where the package looks for them.

The package's build runs this (scripts/build_hook.py); run it yourself after a change of the sources, or
in a second working tree. CXX names another compiler than c++, g++ or clang++.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent / "src" / "codellama" / "kernels"
LIBRARY = KERNELS / "_lanes.so"
COMPILERS = ("c++", "g++", "clang++")

PLAIN = ("-std=gnu++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti")
WARNINGS = ("-Wall", "-Wextra", "-Wno-psabi", "-Wno-ignored-attributes")
EXACT = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
"""Without fused multiply-add, for the bytes of ggml; square roots are vectors where nobody reads errno."""

INSTRUCTIONS = {
    4: (),
    8: ("-mavx2",),
    16: ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
}
"""By number of lanes; `dispatch.cpp` asks the processor for just these. Those of x86-64 beyond 4 lanes."""


def main() -> None:
    """Build, or say in one line why not."""
    try:
        build()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"build_lanes: {reason(error)}")


def build() -> None:
    """Compile and link; the library is replaced in one step, so a process that has it open keeps it.

    Raises:
        OSError: there is no compiler.
        CalledProcessError: it failed; `stderr` has what it said.
    """
    compiler = find_compiler()
    widths = [4, 8, 16] if platform.machine().lower() in ("x86_64", "amd64") else [4]
    with tempfile.TemporaryDirectory(dir=KERNELS) as folder:
        objects = []
        for lanes in widths:
            names = (f"-DLANES={lanes}", f"-DENCODE=codellama_encode_{lanes}")
            objects.append(Path(folder, f"{lanes}.o"))
            options = (*EXACT, *names, *INSTRUCTIONS[lanes])
            compile_one(compiler, "encode.cpp", objects[-1], options)
        objects.append(Path(folder, "dispatch.o"))
        compile_one(compiler, "dispatch.cpp", objects[-1], ())
        made = Path(folder, LIBRARY.name)
        run([*compiler, "-shared", *map(str, objects), "-o", str(made)])
        os.replace(made, LIBRARY)


def find_compiler() -> list[str]:
    """The command of the C++ compiler. Raises OSError."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return named
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise OSError(f"no C++ compiler ({', '.join(COMPILERS)})")


def compile_one(compiler: list[str], name: str, target: Path, options: tuple[str, ...]) -> None:
    """One source to one object file."""
    source = str(KERNELS / "lanes" / name)
    run([*compiler, *PLAIN, *WARNINGS, *options, "-c", source, "-o", str(target)])


def run(command: list[str]) -> None:
    """Raises CalledProcessError."""
    subprocess.run(command, check=True, capture_output=True, text=True)


def reason(error: Exception) -> str:
    """What went wrong, with the compiler's own words."""
    if not isinstance(error, subprocess.CalledProcessError):
        return str(error)
    return "\n".join([f"{error.cmd[0]} failed", *error.stderr.splitlines()[:20]])


if __name__ == "__main__":
    main()
