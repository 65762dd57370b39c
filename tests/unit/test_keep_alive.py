"""Connections to workers ask after a machine that says nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from codellama.running.keep_alive import SILENCE_S, notice_lost_workers


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="open files are listed by Linux only"
)
def test_the_connection_to_a_worker_and_no_other_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as worker, socket.create_server(("", 0)) as other:
        name, stranger = worker.getsockname(), ("127.0.0.1", other.getsockname()[1])
        with socket.create_connection(name) as there, socket.create_connection(stranger) as plain:
            assert notice_lost_workers([]) == 0
            assert notice_lost_workers([f"127.0.0.1:{name[1]}"]) == 1
            assert there.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert there.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == SILENCE_S
            assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
