"""`codellama serve` as the clients find it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

ROOT = Path(__file__).parents[2]
START_S = 300
# More than the demo model was trained for: what clients put around a question does not fit into less.
OPTIONS = ("--ctx-size", "4096", "--parallel", "4", "--embeddings", "--port", "0")


@contextmanager
def serving(model: str, log: Path) -> Iterator[str]:
    """The URL of a server of `model` that has loaded it; what it says goes to `log`."""
    command = [sys.executable, "-m", "codellama", "serve", model, *OPTIONS]
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=ROOT, stderr=file)
    try:
        yield _when_ready(server, log)
    finally:
        server.terminate()
        server.wait()


def _when_ready(server: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        said = log.read_text()
        if "listening on " in said:
            url = said.partition("listening on ")[2].split()[0]
            try:
                with urlopen(f"{url}/health"):
                    return url
            except HTTPError:  # it is loading
                pass
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start: {log.read_text()[-500:]}")
