"""A server that a test can kill and start again, and a page that can be loaded from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from codellama.models import resolve_model
from codellama.server.run import bind, url_of
from tests.browser.driver import Tab

SLOW_S = 180.0  # in which a server starts, on a machine that others keep busy
GONE = ("net::ERR", "503", "401")
"""What a browser's console says of a server that is not there, not ready, or not open to all."""


class Killable:
    """`codellama serve` of the demo model, as a process that can be killed; always at the same port."""

    def __init__(self, folder: Path) -> None:
        with bind("127.0.0.1", 0) as free:
            self.url = url_of(free)
        self.path = resolve_model("demo")
        self.log = folder / "server.log"
        self.start()

    def start(self) -> None:
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "codellama", "serve", str(self.path), "--port", port]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, "-t", "1"], stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def loads(tab: Tab, url: str, view: str = "") -> bool:
    """Whether the page could be loaded."""
    try:
        tab.open(url, view)
    except Exception:  # nobody listens yet
        return False
    return True
