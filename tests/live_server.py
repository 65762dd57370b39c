"""The real server on a free port, in a thread of the test process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from codellama.running.language_model import LanguageModel
from codellama.server.config import ServerConfig
from codellama.server.run import Server, bind, build, url_of
from codellama.server.serving import Serving

DEADLINE_S = 60.0


@dataclass
class Live:
    """A running server. `stop` asks it to end, `join` waits for that."""

    url: str
    server: Server[Serving]
    thread: threading.Thread

    def stop(self) -> None:
        self.server.should_exit = True

    def join(self) -> None:
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive(), "the server did not end"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=DEADLINE_S, **options)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=DEADLINE_S)

    def post(self, path: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers=headers, timeout=DEADLINE_S)


@contextmanager
def running(
    load: Callable[[], LanguageModel], config: ServerConfig | None = None, *, ready: bool = True
) -> Iterator[Live]:
    """Serve what `load` returns until the block ends; with `ready` it begins when the model is there."""
    config = config or ServerConfig(port=0)
    listener = bind(config.host, 0)
    url = url_of(listener)
    server = build(load, config)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    live = Live(url, server, thread)
    try:
        if ready:
            wait_until(lambda: live.get("/health").status_code == 200)
        yield live
    finally:
        live.stop()
        live.join()
        listener.close()


def wait_until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition` holds; fails after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
