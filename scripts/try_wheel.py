#!/usr/bin/env python3
"""Builds the sdist, from it the wheel, installs that into a bare environment and tries the command there.

This is what `pip install`, pipx and uvx do; it works the same on Linux, macOS and Windows. Prints how long
each part took. Needs `hatchling`, and for the dependencies the package index.

    scripts/try_wheel.py [--links FOLDER] [--keep FOLDER]

--links names a folder with a wheel of llama-cpp-python, which is built otherwise (minutes); --keep is where
the sdist and the wheel stay.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist and the wheel made from it, in `folder`."""
    hatch(ROOT, folder, "sdist")
    (sdist,) = folder.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch, filter="data")
        (source,) = Path(scratch).iterdir()
        hatch(source, folder, "wheel")
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def hatch(source: Path, folder: Path, target: str) -> None:
    """Build one target. Raises CalledProcessError."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, stdout=subprocess.DEVNULL)


def clean() -> dict[str, str]:
    """The environment without what would let the checkout be found."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CODELLAMA_MODELS")}


def bare_environment(folder: Path) -> Path:
    """A new environment with nothing but pip; its folder of programs."""
    venv.create(folder, with_pip=True)
    return folder / ("Scripts" if os.name == "nt" else "bin")


def install(programs: Path, wheel: Path, *options: str) -> None:
    """Install with pip. Raises CalledProcessError."""
    python = programs / "python"
    command = [str(python), "-m", "pip", "install", "-q", *options, str(wheel)]
    subprocess.run(command, check=True, env=clean())


def try_it(programs: Path, scratch: Path) -> str:
    """The answer of the demo model, converted and asked in `scratch`. Raises CalledProcessError."""
    env = {**clean(), "XDG_CACHE_HOME": str(scratch / "cache")}
    for words in (["--version"], ["chat", "--help"], ["demo"]):
        done = subprocess.run(
            [str(programs / "codellama"), *words],
            cwd=scratch,
            env=env,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return done.stdout


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long it took."""
    began = time.monotonic()
    yield
    print(f"{time.monotonic() - began:7.1f} s  {what}", flush=True)


def main() -> None:
    """Build, install, try."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", action="append", default=[])
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    links = [word for folder in options.links for word in ("--find-links", folder)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch, "dist")
        folder.mkdir(parents=True, exist_ok=True)
        with timed("sdist, and the wheel from it"):
            sdist, wheel = build(folder)
        print(f"           {sdist.name}: {sdist.stat().st_size / 1e6:.1f} MB")
        print(f"           {wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        with timed("a bare environment"):
            programs = bare_environment(Path(scratch, "bare"))
        with timed("the wheel with its server extra"):
            install(programs, Path(f"{wheel}[server]"), *links)
        with timed("the demo model, converted and asked"):
            answer = try_it(programs, Path(scratch))
    print(answer)


if __name__ == "__main__":
    main()
