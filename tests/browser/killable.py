"""A server that a test can kill and start again, and a page that can be loaded from it."""

from __future__ import annotations

import signal
import subprocess
import sys

from codellama.models import resolve_model
from codellama.server.run import bind, url_of
from tests.browser.driver import Tab

GONE = ("net::ERR", "503", "401")
"""What a browser's console says of a server that is not there, not ready, or not open to all."""


class Killable:
    """`codellama serve` of the demo model, as a process that can be killed; always at the same port."""

    def __init__(self) -> None:
        with bind("127.0.0.1", 0) as free:
            self.url = url_of(free)
        self.path = resolve_model("demo")
        self.start()

    def start(self) -> None:
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "codellama", "serve", str(self.path), "--port", port]
        self.process = subprocess.Popen([*command, "-t", "1"], stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def loads(tab: Tab, url: str, view: str = "") -> bool:
    """Whether the page could be loaded."""
    try:
        tab.open(url, view)
    except Exception:  # nobody listens yet
        return False
    return True
