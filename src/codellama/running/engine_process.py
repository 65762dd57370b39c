"""A process in which an engine runs: started, spoken to in records, and asked why it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, cast

from codellama.errors import EngineDeadError
from codellama.running.records import Record, Start, read_record, write_record

_PROGRAM = "from codellama.running.child import main; main()"
_LAST_WORDS_S = 5.0
_SIGKILL = 9  # which some systems do not name
_LOST_WORKER = "Remote RPC server crashed"
"""What llama.cpp says when it aborts because a worker's connection broke."""


class EngineProcess:
    """A process that has been told to load a model. It ends when its standard input does."""

    def __init__(self, start: Start) -> None:
        """Begin. It finds modules where this process does, and prints no backtrace when llama.cpp aborts."""
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path, "GGML_NO_BACKTRACE": "1"},
        )
        self._input = cast(BinaryIO, self._process.stdin)
        self._output = cast(BinaryIO, self._process.stdout)
        self._sending = threading.Lock()
        self._said: deque[str] = deque(maxlen=20)
        self._listener = threading.Thread(target=self._listen, name="engine-stderr", daemon=True)
        self._listener.start()
        self.send(start)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def send(self, record: object) -> bool:
        """Tell it something; False if it hears no more."""
        try:
            with self._sending:
                write_record(self._input, record)
        except (OSError, ValueError):
            return False
        return True

    def records(self) -> Iterator[Record]:
        """What it says, until it ends."""
        while (record := read_record(self._output)) is not None:
            yield record

    def why(self) -> str:
        """Why it has ended, in words."""
        try:
            code = self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return "it stopped answering"
        self._listener.join(_LAST_WORDS_S)
        words = self._said[-1] if self._said else ""
        if any(_LOST_WORKER in line for line in self._said):
            return "the connection to a worker broke"
        if code == -_SIGKILL:
            return "killed, as the system does with a process when memory runs out"
        if code < 0:
            return f"{signal.Signals(-code).name}{': ' if words else ''}{words}"
        return f"exit code {code}{': ' if words else ''}{words}"

    def stop(self) -> None:
        """Let it end its requests and itself."""
        with contextlib.suppress(OSError, ValueError), self._sending:
            self._input.close()

    def kill(self) -> None:
        """End it at once, and wait until it has."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Free what is left of one that has ended."""
        self.stop()
        self._output.close()
        self._listener.join(_LAST_WORDS_S)
        cast(BinaryIO, self._process.stderr).close()

    def _listen(self) -> None:
        for line in cast(BinaryIO, self._process.stderr):
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self._said.append(text)


def gone(why: str) -> EngineDeadError:
    """The error of a request whose process has ended in the middle of it."""
    return EngineDeadError(
        f"the engine's process ended in the middle of this answer ({why})", "ask again"
    )
