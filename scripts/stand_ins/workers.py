"""Devices that are none: llama.cpp's RPC server on loopback, in processes of its own.

Each lends the CPU and the main memory as if it were a GPU, so that everything about offload runs on a machine
without one.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

_START_S = 20.0


@contextlib.contextmanager
def workers(count: int, memory_limit: int = 0) -> Iterator[list[str]]:
    """Endpoints of `count` workers, which end with the block.

    With `memory_limit` none may have so many bytes more than it begins with.
    """
    processes = []
    try:
        endpoints = []
        for _ in range(count):
            port = _free_port()
            processes.append(_start(port, memory_limit))
            endpoints.append(f"127.0.0.1:{port}")
        for endpoint, process in zip(endpoints, processes, strict=True):
            _await(endpoint, process)
        yield endpoints
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _start(port: int, memory_limit: int) -> subprocess.Popen[bytes]:
    lines = ["from codellama.native.rpc_server import serve_rpc"]
    if memory_limit:
        lines += ["import resource", "from codellama.native.library import library", "library()"]
        lines += ["pages = int(open('/proc/self/statm').read().split()[0])"]
        lines += [f"most = pages * resource.getpagesize() + {memory_limit}"]
        lines += ["resource.setrlimit(resource.RLIMIT_AS, (most, most))"]
    lines += [f"serve_rpc('127.0.0.1:{port}', 1)"]
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _await(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    host, _, port = endpoint.partition(":")
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1.0):
            return
        time.sleep(0.05)
    raise RuntimeError(f"no worker at {endpoint}")
