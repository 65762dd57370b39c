"""Connections to workers on other machines that notice when the machine is gone.

llama.cpp waits for a worker's answer for ever. A worker that ends closes the connection, which ends the wait;
a machine that loses its power or its network does not. So the system is told to ask after a silent one.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from codellama.native.rpc_link import parsed

SILENCE_S = 10
"""Seconds without a sign of life from a machine until the system asks after it."""
_OPTIONS = {
    "TCP_KEEPIDLE": SILENCE_S,
    "TCP_KEEPINTVL": 3,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 20_000,
}


def notice_lost_workers(endpoints: Sequence[str]) -> int:
    """Make this process's connections to `endpoints` (HOST:PORT) break when the other machine is gone for
    some 20 seconds; how many there are. No effect where the system does not list a process's open files.
    """
    if not endpoints:
        return 0
    ports = {parsed(endpoint)[1] for endpoint in endpoints}
    found = 0
    for entry in Path("/proc/self/fd").glob("*") if Path("/proc/self/fd").is_dir() else ():
        with contextlib.suppress(OSError):
            if not os.readlink(entry).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.family == socket.AF_INET and connection.getpeername()[1] in ports:
                    _ask_after(connection)
                    found += 1
    return found


def _ask_after(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
