"""A stand-in for the Hugging Face hub on loopback: what `huggingface_hub` asks of it, and its bad days.

Repositories are folders. Large files (safetensors, tokenizer.model) have a SHA-256, as with Git LFS, and
are served from another path by a redirect, as by the hub's storage.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".model")


@dataclass
class FakeHub:
    """Serves `repositories` (name to folder). What goes wrong is set here while it runs.

    - `drop_after`: bodies of large files end, and the connection with them, after so many bytes...
    - `drops`: ...this many times.
    - `statuses`: answer these to the next requests for files.
    - `damaged`: large files whose first byte is wrong, this many times.
    - `token`: requests need it. `gated`: access was not granted. `no_ranges`: Range is ignored.
    """

    repositories: dict[str, Path]
    commit: str = COMMIT
    drop_after: int | None = None
    drops: int = 0
    statuses: list[int] = field(default_factory=list)
    damaged: Counter[str] = field(default_factory=Counter)
    token: str | None = None
    gated: bool = False
    no_ranges: bool = False
    sent: Counter[str] = field(default_factory=Counter)
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""


@contextmanager
def serve(repositories: dict[str, Path]) -> Iterator[FakeHub]:
    """A hub on a free port until the block ends."""
    hub = FakeHub(repositories)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.hang_up()
        server.server_close()  # waits for the threads of the connections


class _Server(ThreadingHTTPServer):
    """A thread per connection; clients keep theirs open, so the end has to close them."""

    daemon_threads = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[Any] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Close all connections."""
        with self._lock:
            for connection in self._open:
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        if found:
            self._describe(found[1], found[2] or "main")
            return
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^/]+)", path)
        if found:
            self._resolve(found[1], found[2], found[3])
            return
        found = re.fullmatch(r"/storage/([^/]+/[^/]+)/([^/]+)", path)
        if found:
            self._send_file(self.hub.repositories[found[1]] / found[2])
            return
        self._refuse(404, "EntryNotFound")

    def _refuse(self, status: int, code: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self._answer(status, b"{}", {k: v for k, v in headers.items() if v})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _admitted(self, name: str, revision: str) -> bool:
        given = self.headers.get("Authorization")
        if self.hub.token and given != f"Bearer {self.hub.token}":
            self._refuse(401, "RepoNotFound")
        elif self.hub.gated:
            self._refuse(403, "GatedRepo")
        elif name not in self.hub.repositories:
            self._refuse(404, "RepoNotFound")
        elif revision not in ("main", self.hub.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            return True
        return False

    def _describe(self, name: str, revision: str) -> None:
        if not self._admitted(name, revision):
            return
        files = sorted(path for path in self.hub.repositories[name].iterdir() if path.is_file())
        siblings = [_sibling(path) for path in files]
        document = {"id": name, "modelId": name, "sha": self.hub.commit, "siblings": siblings}
        self._answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if not self._admitted(name, revision):
            return
        with self.hub.lock:
            status = self.hub.statuses.pop(0) if self.hub.statuses else None
        if status is not None:
            self._refuse(status)
            return
        path = self.hub.repositories[name] / file
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        sibling = _sibling(path)
        headers = {"X-Repo-Commit": self.hub.commit, "ETag": f'"{sibling["blobId"]}"'}
        if "lfs" in sibling:
            headers |= {
                "X-Linked-Etag": f'"{sibling["lfs"]["sha256"]}"',
                "X-Linked-Size": str(sibling["size"]),
                "Location": f"{self.hub.url}/storage/{name}/{file}",
            }
            self._answer(302, b"", headers)
            return
        self._send_file(path, headers)

    def _send_file(self, path: Path, headers: dict[str, str] | None = None) -> None:
        data = path.read_bytes()
        with self.hub.lock:
            if self.hub.damaged[path.name] > 0:
                self.hub.damaged[path.name] -= 1
                data = bytes([data[0] ^ 1]) + data[1:-1] + bytes([data[-1] ^ 1])
        begin, end, status = 0, len(data), 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        headers = dict(headers or {})
        if asked and not self.hub.no_ranges:
            begin, end = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
            status = 206
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        self.send_response(status)
        for name, value in {"Content-Length": str(end - begin), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send_body(path, data[begin:end])

    def _send_body(self, path: Path, body: bytes) -> None:
        limit = self.hub.drop_after
        with self.hub.lock:
            drop = limit is not None and self.hub.drops > 0 and len(body) > limit
            self.hub.drops -= drop
            body = body[:limit] if drop else body
            self.hub.sent[path.name] += len(body)
        self.close_connection = self.close_connection or drop
        try:
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True


def _sibling(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    sibling: dict[str, Any] = {"rfilename": path.name, "size": len(data), "blobId": blob}
    if path.name.endswith(LARGE):
        sha256 = hashlib.sha256(data).hexdigest()
        sibling["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(data), "pointerSize": 134}
    return sibling
