"""Runs a program that a model wrote, where it can do no harm: in bubblewrap, with limits.

The program sees the Python that runs it and nothing else: no home, no network, no other process, and nothing
it could write to. Memory and processor time are bounded in it, and after the time is over all its processes
are killed. bubblewrap (https://github.com/containers/bubblewrap) is a small program that uses Linux's
namespaces; it is what Flatpak runs applications in. Where it is missing, or the system forbids namespaces,
nothing is run.

A program is right if it comes to its end: what was drawn for it is printed behind its own code.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from codellama.errors import UnsupportedError

_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
_PROGRAM = "/program.py"
_MOST_OUTPUT = 2**20
_LONGEST_REASON = 200

# Limits are set by the process itself, before the program is read, and cannot be raised again.
_BOOT = """
import resource, sys
for name, value in {limits!r}.items():
    resource.setrlimit(getattr(resource, name), (value, value))
source = open({program!r}, encoding="utf-8").read()
exec(compile(source, "answer", "exec"), {{"__name__": "__main__"}})
"""


@dataclass(frozen=True)
class Limits:
    """What a program may use: seconds of the clock, and bytes of memory for each of its processes."""

    seconds: float = 10.0
    memory_bytes: int = 2**30


@dataclass(frozen=True)
class Verdict:
    """Whether the program was right, and else why not, in a few words."""

    passed: bool
    reason: str


class Sandbox:
    """Runs programs under `limits`.

    Raises UnsupportedError if this machine has no bubblewrap, or it cannot work here.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        found = shutil.which("bwrap")
        if found is None or not sys.platform.startswith("linux"):
            raise UnsupportedError(
                "answers are run in bubblewrap, and there is no bwrap on this machine",
                "install bubblewrap (Linux), or leave {run_code} out and judge the answers elsewhere",
            )
        self._bwrap = found
        tried = self.run("pass")
        if not tried.passed:
            raise UnsupportedError(
                f"answers are run in bubblewrap, which does not work here ({tried.reason})",
                "allow user namespaces, or leave {run_code} out and judge the answers elsewhere",
            )

    def run(self, program: str) -> Verdict:
        """Run a program and say whether it came to its end."""
        nonce = secrets.token_hex(16)
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "program.py"
            source.write_text(f"{program}\n\nprint('\\n{nonce}')\n", "utf-8", "replace")
            with (
                open(Path(scratch) / "out", "w+b") as out,
                open(Path(scratch) / "err", "w+b") as err,
            ):
                status = self._finish(command(self._bwrap, source, self.limits), out, err)
                told = _tail(out).splitlines()
                if status == 0 and told and told[-1] == nonce:
                    return Verdict(True, "passed")
                return Verdict(False, _reason(status, _tail(err)))

    def _finish(self, arguments: Sequence[str], out: IO[bytes], err: IO[bytes]) -> int | None:
        """The exit status; None if the time was over. All of its processes are gone then."""
        with subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={}, cwd="/"
        ) as process:
            try:
                return process.wait(self.limits.seconds)
            except subprocess.TimeoutExpired:
                return None
            finally:
                process.kill()  # and with it, by --die-with-parent, what it started


def command(bwrap: str, source: Path, limits: Limits) -> list[str]:
    """The command line that runs `source` in bubblewrap."""
    python = os.path.realpath(sys.executable)
    seconds = int(limits.seconds) + 1
    bounds = {
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_CPU": seconds,
        "RLIMIT_FSIZE": _MOST_OUTPUT,  # of what it prints: the pipes' other ends are files
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_NPROC": 32,
    }
    arguments = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for path in (*_SYSTEM, sys.base_prefix):
        arguments += ["--ro-bind-try", path, path]
    arguments += ["--ro-bind", str(source), _PROGRAM, "--proc", "/proc", "--dev", "/dev"]
    arguments += ["--remount-ro", "/dev", "--remount-ro", "/", "--clearenv", "--chdir", "/"]
    boot = _BOOT.format(limits=bounds, program=_PROGRAM)
    return [*arguments, python, "-I", "-B", "-c", boot]


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4096))
    return file.read().decode("utf-8", "replace")


def _reason(status: int | None, errors: str) -> str:
    if status is None:
        return "timed out"
    lines = [line for line in errors.splitlines() if line.strip()]
    if lines:
        return lines[-1][:_LONGEST_REASON]
    if status > 128 or status < 0:
        number = status - 128 if status > 128 else -status
        return (
            f"killed by {signal.Signals(number).name}" if number < 65 else f"exit status {status}"
        )
    return "it ended before the tests were through"
