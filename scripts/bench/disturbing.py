"""What else a machine does while a server answers: programs beside it, and less of the machine for it.

Each disturbance is an async context manager. Those that confine a server give the words that its command line
begins with.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from bench.client import BenchError

GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
PULSE_S = 3.0
COMPUTE = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    """A quiet machine."""
    yield


@asynccontextmanager
async def busy(n: int = 1) -> AsyncIterator[None]:
    """`n` programs that compute all the time."""
    programs = [_spin() for _ in range(n)]
    try:
        yield
    finally:
        _end(programs)


@asynccontextmanager
async def coming_and_going(period_s: float = PULSE_S) -> AsyncIterator[None]:
    """A program that computes for so long and rests as long, in turns."""
    program = _spin()

    async def pulse() -> None:
        while True:
            await asyncio.sleep(period_s)
            program.send_signal(signal.SIGSTOP)
            await asyncio.sleep(period_s)
            program.send_signal(signal.SIGCONT)

    task = asyncio.create_task(pulse())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        program.send_signal(signal.SIGCONT)
        _end([program])


@asynccontextmanager
async def compiling(build: Path, jobs: int) -> AsyncIterator[None]:
    """`cmake --build` of a folder that is configured, again and again."""
    command = f'while :; do cmake --build "{build}" --clean-first -j {jobs}; done'
    program = subprocess.Popen(
        ["sh", "-c", command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def one_core() -> tuple[str, ...]:
    """Confined to the last processor that this process may use. Raises BenchError without `taskset`."""
    if not shutil.which("taskset"):
        raise BenchError("there is no taskset to confine a server with")
    return ("taskset", "-c", str(max(os.sched_getaffinity(0))))


@contextmanager
def quota(cores: float) -> Iterator[tuple[str, ...]]:
    """Confined to so many cores' time by a control group of its own. Raises BenchError as `limited` does."""
    with limited(cores) as folder:
        yield ("sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$0" "$@"')


@contextmanager
def limited(cores: float) -> Iterator[Path]:
    """A new control group whose processes together get so many cores' time.

    Raises BenchError where none can be made, as without root.
    """
    limit = int(cores * PERIOD_US)
    try:
        folder = Path(tempfile.mkdtemp(prefix="bench-", dir=_own_group()))
        if (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text(f"{limit} {PERIOD_US}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(limit))
    except OSError as error:
        raise BenchError(f"no control group with a quota can be made: {error}") from error
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()


def _own_group() -> Path:
    """The control group that this process is in, of version 1; the root of version 2, where a group that has
    processes may have no groups below it."""
    if not (GROUPS / "cpu").is_dir():
        return GROUPS
    for line in Path("/proc/self/cgroup").read_text("ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            return GROUPS / "cpu" / path.lstrip("/")
    return GROUPS / "cpu"


def _spin() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", COMPUTE])


def _end(programs: list[subprocess.Popen[bytes]]) -> None:
    for program in programs:
        program.kill()
    for program in programs:
        program.wait()
