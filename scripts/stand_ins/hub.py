"""A stand-in for the Hugging Face hub on loopback: what `huggingface_hub` asks of it, and its bad days.

Repositories are files by name, in a folder or made up while they are sent. Large ones (safetensors, GGUF,
tokenizer.model) have a SHA-256, as with Git LFS, and are served from another path by a redirect, as by the
hub's storage.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def is_large(name: str) -> bool:
    """Whether the hub keeps a file of this name in its storage for large ones."""
    return name.endswith((".safetensors", ".model")) or ".gguf" in name


class StoredFile(Protocol):
    """A file of a repository: its bytes, and their hashes (`sha256` for large files only)."""

    @property
    def size(self) -> int: ...

    @property
    def sha256(self) -> str | None: ...

    @property
    def blob_id(self) -> str: ...

    def pieces(self, begin: int, end: int) -> Iterator[bytes | memoryview]:
        """The bytes from `begin` to `end`."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file that is read whole whenever it is asked for, so it may change in between."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def sha256(self) -> str | None:
        if not is_large(self.path.name):
            return None
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def blob_id(self) -> str:
        return blob_id(self.path.read_bytes())

    def pieces(self, begin: int, end: int) -> Iterator[bytes | memoryview]:
        yield self.path.read_bytes()[begin:end]


def blob_id(data: bytes) -> str:
    """What git calls a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class FakeHub:
    """Serves `repositories` (name to folder, or to files by name). What goes wrong is set here while it runs.

    - `drop_after`: bodies of large files end, and the connection with them, after so many bytes...
    - `drops`: ...this many times.
    - `statuses`: answer these to the next requests for files.
    - `damaged`: large files whose first byte is wrong, this many times.
    - `token`: requests need it. `gated`: access was not granted. `no_ranges`: Range is ignored.
    """

    repositories: dict[str, Path | Mapping[str, StoredFile]]
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

    def files(self, name: str) -> Mapping[str, StoredFile]:
        """What the repository `name` holds now."""
        held = self.repositories[name]
        if not isinstance(held, Path):
            return held
        return {path.name: LocalFile(path) for path in sorted(held.iterdir()) if path.is_file()}


@contextmanager
def serve(repositories: Mapping[str, Path | Mapping[str, StoredFile]]) -> Iterator[FakeHub]:
    """A hub on a free port until the block ends."""
    hub = FakeHub(dict(repositories))
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
            self._send_file(found[2], self.hub.files(found[1])[found[2]])
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
        siblings = [_sibling(file, stored) for file, stored in self.hub.files(name).items()]
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
        stored = self.hub.files(name).get(file)
        if stored is None:
            self._refuse(404, "EntryNotFound")
            return
        headers = {"X-Repo-Commit": self.hub.commit, "ETag": f'"{stored.blob_id}"'}
        if stored.sha256 is not None:
            headers |= {
                "X-Linked-Etag": f'"{stored.sha256}"',
                "X-Linked-Size": str(stored.size),
                "Location": f"{self.hub.url}/storage/{name}/{file}",
            }
            self._answer(302, b"", headers)
            return
        self._send_file(file, stored, headers)

    def _send_file(
        self, name: str, stored: StoredFile, headers: dict[str, str] | None = None
    ) -> None:
        size = stored.size
        begin, end, status = 0, size, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        headers = dict(headers or {})
        if asked and not self.hub.no_ranges:
            begin, end = int(asked[1]), min(int(asked[2] or size) + 1, size)
            status = 206
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        self.send_response(status)
        for header, value in {"Content-Length": str(end - begin), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self._send_body(name, stored, begin, end)

    def _send_body(self, name: str, stored: StoredFile, begin: int, end: int) -> None:
        limit = self.hub.drop_after
        with self.hub.lock:
            damaged = self.hub.damaged[name] > 0
            self.hub.damaged[name] -= damaged
            drop = limit is not None and self.hub.drops > 0 and end - begin > limit
            self.hub.drops -= drop
        if drop and limit is not None:
            end = begin + limit
        self.close_connection = self.close_connection or drop
        try:
            for piece in stored.pieces(begin, end):
                with self.hub.lock:
                    self.hub.sent[name] += len(piece)
                self.wfile.write(_damage(piece, begin, stored.size) if damaged else piece)
                begin += len(piece)
        except ConnectionError:
            self.close_connection = True


def _damage(piece: bytes | memoryview, begin: int, size: int) -> bytes:
    """A piece that lies at `begin` of a file, with the file's first and last byte changed."""
    wrong = bytearray(piece)
    for place in (0, size - 1):
        if begin <= place < begin + len(wrong):
            wrong[place - begin] ^= 1
    return bytes(wrong)


def _sibling(name: str, stored: StoredFile) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": name, "size": stored.size, "blobId": stored.blob_id}
    if stored.sha256 is not None:
        digest = stored.sha256
        sibling["lfs"] = {"sha256": digest, "oid": digest, "size": stored.size, "pointerSize": 134}
    return sibling
