"""A system without fcntl, termios, reads at a place and the rest of POSIX converts, chats and serves."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint

HIDE = """
import os, sys
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty", "uvloop"):
    sys.modules[name] = None
for name in (
    "fdatasync", "fork", "posix_fallocate", "pread", "preadv", "pwrite", "pwritev", "sched_getaffinity",
    "sysconf",
):
    if hasattr(os, name):
        delattr(os, name)
from codellama.cli import main
main()
"""


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-c", HIDE, *map(str, words)]


def run(*words: str | Path) -> str:
    """Standard output of a command line on such a system."""
    done = subprocess.run(command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["Q8_0", "F16"])
def test_a_conversion_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint")
    run("convert", folder, "-o", tmp_path / "a.gguf", "--type", kind)
    whole = [sys.executable, "-m", "codellama", "convert", str(folder), "--type", kind]
    subprocess.run([*whole, "-o", str(tmp_path / "b.gguf")], check=True, capture_output=True)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_chat_is_kept_and_goes_on(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    options = ("--session", "work", "-n", "6", "--temp", "0")
    first = run("chat", tiny_gguf, "-p", "hi", *options)
    second = run("chat", tiny_gguf, "-p", "ho", *options)
    messages = json.loads(run("sessions", "show", "work", "--json"))["messages"]
    assert [m["content"] for m in messages][::2] == ["hi", "ho"]
    assert [m["content"].strip() for m in messages][1::2] == [first.strip(), second.strip()]


def test_the_server_starts_answers_and_stops(tiny_gguf: Path) -> None:
    server = subprocess.Popen(
        command("serve", tiny_gguf, "--port", "0"),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        url = ""
        while not url:
            line = server.stderr.readline()
            assert line, "it ended"
            url = "".join(re.findall(r"http://\S+", line))
        request = urllib.request.Request(
            f"{url}/completion",
            json.dumps({"prompt": "def f", "n_predict": 4}).encode(),
            {"Content-Type": "application/json"},
        )
        for _ in range(200):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    assert json.load(answer)["tokens_predicted"] == 4
                break
            except urllib.error.HTTPError as error:
                assert error.code == 503, "still loading"
                error.close()
                time.sleep(0.1)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        server.stderr.close()  # type: ignore[union-attr]
