"""Workers on other machines, tried on this one: found, lost, and their memory told and cached."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from codellama import LLM
from codellama.devices.machine import this_machine, with_measured_workers
from codellama.errors import InvalidRequestError
from codellama.native.backends import RPC, backend_names, rpc_devices
from codellama.native.rpc_link import PROTOCOL, answering, greet, parsed
from codellama.native.rpc_server import CACHED_FROM, drop_doubtful
from codellama.server.config import ServerConfig
from tests import tiny_model
from tests.live_server import running, wait_until
from tests.tiny.test_isolated import lost_and_found, write_slow

pytestmark = pytest.mark.skipif(
    RPC not in backend_names(), reason="this llama.cpp was built without its RPC backend"
)
CONFIG: dict[str, Any] = {"n_ctx": 256, "n_seq_max": 1, "n_threads": 1, "flash_attn": "off"}


@contextlib.contextmanager
def worker(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`codellama worker` on a free port: its endpoint and its process."""
    command = [sys.executable, "-m", "codellama", "worker", "--port", "0", "-t", "1", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        endpoint = next(
            found[1] for line in lines if (found := re.match(r"listening on (.+)", line))
        )
        wait_until(lambda: endpoint in answering([endpoint]))
        yield endpoint, process
    finally:
        process.kill()
        process.communicate()


def test_the_greeting_is_llama_cpp_s_own(tiny_gguf: Path) -> None:
    with worker() as (endpoint, _):
        assert 0 < greet(endpoint) < 4
        assert answering([endpoint, "127.0.0.1:9"]) == (endpoint,)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "does not answer: timed out.*one model at a time"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(28), "is no worker of this llama.cpp"),
        (b"", "is no worker of this llama.cpp"),
        ((28).to_bytes(8, "little") + bytes([PROTOCOL[0] - 1]) + bytes(27), "speaks version"),
    ],
)
def test_somebody_else_at_an_endpoint_is_an_error_in_time(answer: bytes | None, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"127.0.0.1:{other.getsockname()[1]}"
        if answer is not None:

            def serve() -> None:
                connection, _ = other.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(InvalidRequestError, match=words) as raised:
            greet(endpoint)
        assert endpoint in str(raised.value)
        assert time.monotonic() - began < 5


def test_a_lost_worker_ends_no_server(tmp_path: Path) -> None:
    """With the official client: the worker is killed in the middle of a stream."""
    made: list[LLM] = []
    path = write_slow(tmp_path / "slow.gguf")

    with worker() as (endpoint, process), worker() as (kept, _):

        def load() -> LLM:
            made.append(LLM(path, rpc=[endpoint, kept], n_gpu_layers="all", **CONFIG))
            return made[-1]

        with running(load, ServerConfig(port=0)) as live:
            devices = [placed.endpoint for placed in made[0].plan.model.placements]
            assert devices == [endpoint, kept, ""]
            client = openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0)
            lost_and_found(live, client, process.kill)
            devices = [placed.endpoint for placed in made[0].plan.model.placements]
            assert devices == [kept, ""], "planned anew on what answers"


def test_a_worker_tells_how_much_it_lends(tiny_gguf: Path) -> None:
    with worker("--memory", "2G") as (endpoint, _):
        (device,) = rpc_devices(endpoint)
        assert (device.free_bytes, device.total_bytes) == (2 * 10**9, 2 * 10**9)


def test_ctrl_c_ends_a_worker() -> None:
    with worker() as (_, process):
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "no authentication.*tunnel through ssh, or add --without-auth"),
        (["--host", "::1"], "--host: ::1 has no IPv4 address"),
        (["--device", "CUDA7"], "--device: there is no device CUDA7; there are .*CPU"),
    ],
)
def test_what_a_worker_refuses(options: list[str], words: str) -> None:
    command = [sys.executable, "-m", "codellama", "worker", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=60)
    assert done.returncode == 1
    assert re.search(words, done.stderr)


def test_the_way_to_a_worker_is_measured() -> None:
    with worker("--memory", "8G") as (endpoint, _):
        machine = with_measured_workers(this_machine([endpoint]))
        (device,) = [gpu for gpu in machine.gpus if gpu.endpoint]
    assert 0 < device.latency < 0.1
    assert 1e6 < device.network < 1e12
    assert 1e8 < device.bandwidth < 1e12


class Relay:
    """Passes a connection on to `target` and counts the bytes that the client sends."""

    def __init__(self, target: str) -> None:
        self.sent = 0
        self._target = parsed(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            back = threading.Thread(target=self._pass, args=(server, client, False), daemon=True)
            back.start()
            self._pass(client, server, True)
            back.join()

    def _pass(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**20):
                self.sent += len(data) if counts else 0
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


def test_a_second_load_sends_no_large_tensor_again(tmp_path: Path) -> None:
    """The cache holds tensors above 10 MiB: here six matrices of 12 MiB, which are sent once."""
    sent, answers = [], []
    wide = tiny_model.write(tmp_path / "wide.gguf", ffn=3 * 2**14)
    with worker("--cache", str(tmp_path / "cache")) as (endpoint, _):
        for _ in range(2):
            relay = Relay(endpoint)
            with LLM(wide, rpc=[relay.endpoint], n_gpu_layers="all", **CONFIG) as llm:
                answers.append(llm.complete("x", max_tokens=4, temperature=0).result().choices)
            sent.append(relay.sent)
            relay.close()
    kept = list((tmp_path / "cache").iterdir())
    assert all(file.stat().st_size > CACHED_FROM for file in kept)
    assert sent[0] > 3 * CACHED_FROM
    assert sent[1] < sent[0] - sum(file.stat().st_size for file in kept) + 2**20
    assert sent[1] < sent[0] / 5
    assert answers[0] == answers[1]
    assert drop_doubtful(tmp_path / "cache") == 1, "the newest may have been cut short"
    assert len(list((tmp_path / "cache").iterdir())) == len(kept) - 1
