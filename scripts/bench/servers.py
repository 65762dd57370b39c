"""The servers that are compared: how each is started with the same settings, watched and ended."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.client import BenchError, Client

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".llama-tools" / "bin"
HOST = "127.0.0.1"
START_S = 300.0
STOP_S = 30.0

NGRAM_MODES = ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod")
"""llama-server's ways of drafting from the text alone."""


@dataclass(frozen=True)
class Settings:
    """What all servers are given alike. `ctx` tokens per request, `cells` for all of them together.

    `cache_ram` is the host memory in MiB for prompts that have left the slots. Without `threads` each server
    takes what it thinks right.
    """

    model: Path
    threads: int | None
    slots: int = 16
    ctx: int = 4096
    cells: int = 32768
    batch: int = 512
    ubatch: int = 512
    gpu_layers: int = 0
    cache_ram: int = 0
    flash_attn: str = "auto"


@dataclass(frozen=True)
class Spec:
    """A server to start: its column in the table, its command line and its environment."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Running:
    """A server that has its model. `peak_mb` is asked while it lives."""

    spec: Spec
    client: Client
    process: subprocess.Popen[bytes]

    def peak_mb(self) -> float | None:
        """Most memory it ever had resident, in MB of 10^6 bytes; None where /proc does not tell."""
        return peak_memory_mb(self.process.pid)

    def processor_s(self) -> float | None:
        """Processor time of all its threads so far, in seconds; None where /proc does not tell."""
        return processor_seconds(self.process.pid)


def codellama(settings: Settings, port: int, name: str = "codellama", drafts: bool = False) -> Spec:
    """Our server, with drafts from the text or without."""
    command = [sys.executable, "-m", "codellama", "serve", str(settings.model)]
    command += ["--host", HOST, "--port", str(port)]
    command += ["--parallel", str(settings.slots)]
    if settings.threads is not None:
        command += ["--threads", str(settings.threads)]
    command += ["--ctx-size", str(settings.ctx), "--kv-cells", str(settings.cells)]
    command += ["--batch-size", str(settings.batch), "--ubatch-size", str(settings.ubatch)]
    command += ["--n-gpu-layers", str(settings.gpu_layers)]
    command += ["--flash-attn", settings.flash_attn]
    environment = {
        "CODELLAMA_SPEC_TYPE": "ngram" if drafts else "none",
        "CODELLAMA_CACHE_RAM": str(settings.cache_ram),
    }
    return Spec(name, tuple(command), environment)


def llama_server(settings: Settings, port: int, drafts: str = "none") -> Spec:
    """llama.cpp's server from scripts/build_llama_tools; `drafts` is one of `NGRAM_MODES` or none.

    Raises BenchError if it is not there.
    """
    command = [str(tool("llama-server")), "--model", str(settings.model)]
    command += ["--host", HOST, "--port", str(port)]
    if settings.threads is not None:
        command += ["--threads", str(settings.threads), "--threads-batch", str(settings.threads)]
    command += ["--parallel", str(settings.slots), "--kv-unified"]
    command += ["--ctx-size", str(settings.cells), "--fit", "off"]
    command += ["--batch-size", str(settings.batch), "--ubatch-size", str(settings.ubatch)]
    command += ["--n-gpu-layers", str(settings.gpu_layers)]
    command += ["--flash-attn", settings.flash_attn]
    command += ["--cache-ram", str(settings.cache_ram), "--spec-type", drafts, "--no-ui"]
    return Spec("llama-server" if drafts == "none" else drafts, tuple(command))


def llama_cpp_server(settings: Settings, port: int) -> Spec:
    """llama-cpp-python's own server, which answers one request at a time.

    Raises BenchError if the packages it needs are not installed.
    """
    found = subprocess.run(
        [sys.executable, "-c", "import llama_cpp.server.app"], capture_output=True, check=False
    )
    if found.returncode:
        raise BenchError(
            "llama_cpp.server does not start: pip install starlette-context pydantic-settings"
        )
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(settings.model)]
    command += ["--host", HOST, "--port", str(port)]
    command += ["--n_threads", str(settings.threads)]
    command += ["--n_threads_batch", str(settings.threads), "--n_ctx", str(settings.ctx)]
    command += ["--n_batch", str(settings.batch), "--n_ubatch", str(settings.ubatch)]
    command += ["--n_gpu_layers", str(settings.gpu_layers), "--interrupt_requests", "false"]
    return Spec("llama_cpp.server", tuple(command))


def tool(name: str) -> Path:
    """One of llama.cpp's programs. Raises BenchError if it has not been built."""
    path = TOOLS / name
    if not path.is_file():
        raise BenchError(f"there is no {name} in {TOOLS}: run scripts/build_llama_tools")
    return path


def built(*names: str) -> tuple[str, ...]:
    """Those of llama.cpp's programs that scripts/build_llama_tools has built."""
    return tuple(name for name in names if (TOOLS / name).is_file())


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def end_on_signals() -> None:
    """Make SIGTERM and SIGHUP end this process as Ctrl-C does, so that no server is left behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))


@asynccontextmanager
async def running(make: Callable[[int], Spec], poll_s: float = 0.1) -> AsyncIterator[Running]:
    """Start the server that `make` describes for a port, wait for its model, end it afterwards.

    It is asked every `poll_s` seconds whether it is ready.

    Raises BenchError with the end of its log if it does not come up.
    """
    port = free_port()
    spec = make(port)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            spec.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **spec.environment},
        )
        try:
            async with Client(f"http://{HOST}:{port}") as client:
                try:
                    await _wait_ready(client, process, spec, poll_s)
                except BenchError as error:
                    log.seek(0)
                    end = log.read()[-2000:].decode("utf-8", "replace").strip()
                    raise BenchError(f"{spec.name}: {error}\n{end}") from error
                yield Running(spec, client, process)
        finally:
            _stop(process)


async def _wait_ready(
    client: Client, process: subprocess.Popen[bytes], spec: Spec, poll_s: float
) -> None:
    end = time.monotonic() + START_S
    while not await client.ready():
        if process.poll() is not None:
            raise BenchError(f"ended with code {process.returncode}: {shlex.join(spec.command)}")
        if time.monotonic() > end:
            raise BenchError(f"was not ready after {START_S:.0f} seconds")
        await asyncio.sleep(poll_s)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def peak_memory_mb(pid: int) -> float | None:
    """The most memory a process ever had resident, in MB; None where /proc does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:
        return None
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 / 1e6 if lines else None


def processor_seconds(pid: int) -> float | None:
    """The processor time that a process has used, in seconds; None where /proc does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    user, system = stat.rpartition(")")[2].split()[11:13]  # behind the name, which may hold blanks
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def versions() -> dict[str, str | None]:
    """What is compared, by version; llama-server's is None where it is not built."""
    import llama_cpp

    import codellama

    return {
        "codellama": codellama.__version__,
        "llama_cpp_python": llama_cpp.__version__,
        "llama_server": _version_of(TOOLS / "llama-server"),
    }


def _version_of(program: Path) -> str | None:
    command = [str(program), "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return None
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "version" in line]
    return lines[0].strip() if lines else None
