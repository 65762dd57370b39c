"""A proxy between a client and the server that keeps what the client asked, and what status it got."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

HOST = "127.0.0.1"
PIECE = 1 << 16
HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "host"}
"""Headers that are between two neighbours only (RFC 9110, section 7.6.1), or are written anew."""


@dataclass(frozen=True)
class Asked:
    """A request and the status of its answer; `body` is None where there was no JSON."""

    method: str
    path: str
    content_type: str | None
    body: Any
    status: int


class Recorder:
    """Everything that was asked, in order of the answers."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.asked: list[Asked] = []
        self._lock = threading.Lock()

    def keep(self, one: Asked) -> None:
        """Note a request."""
        with self._lock:
            self.asked.append(one)


@contextmanager
def recording(server: str, port: int = 0) -> Iterator[tuple[Recorder, str]]:
    """A recorder in front of the server at the URL `server`, and its own URL."""
    recorder = Recorder(server)

    class Handler(_Handler):
        keeper = recorder

    proxy = _Proxy((HOST, port), Handler)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield recorder, f"http://{HOST}:{proxy.server_port}"
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients leave as they like."""


class _Handler(BaseHTTPRequestHandler):
    """Hands a request on, and its answer back as it comes."""

    protocol_version = "HTTP/1.1"
    keeper: Recorder

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_HEAD(self) -> None:
        self._pass_on()

    def do_OPTIONS(self) -> None:
        self._pass_on()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _pass_on(self) -> None:
        sent = self._read()
        server = http.client.HTTPConnection(urlsplit(self.keeper.server).netloc)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
        server.request(self.command, self.path, sent or None, headers)
        answer = server.getresponse()
        self.keeper.keep(
            Asked(
                self.command,
                self.path,
                self.headers.get("Content-Type"),
                _json(sent),
                answer.status,
            )
        )
        try:
            self._answer(answer)
        except (BrokenPipeError, ConnectionResetError):  # the client has left
            self.close_connection = True
        finally:
            server.close()

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length")
        if length is not None:
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(answer.read())
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := answer.read1(PIECE):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None
