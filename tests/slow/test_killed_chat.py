"""A conversation through a pseudo-terminal, killed at random moments: nothing that was shown is lost.

CODELLAMA_CHAT_ROUND_S makes the rounds longer than their 5 seconds; 600 make half an hour.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codellama.cli.streams import printable

pytestmark = pytest.mark.slow

KILLS = 10
ROUND_S = float(os.environ.get("CODELLAMA_CHAT_ROUND_S", "5"))
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
FIGURES = re.compile(r"\n?\d+ tokens, [\d.]+ tokens/s, context")
NOTE = re.compile(r"^(> *$|the context has no room for [^\n]*\n?)")
OPTIONS = ("--session", "work", "-n", "160", "--ignore-eos", "--context-policy", "drop_oldest")


class Chat:
    """`codellama chat demo` on a terminal that can do nothing, where text is all that is written."""

    def __init__(self, state: Path) -> None:
        ours, theirs = pty.openpty()
        self._terminal = ours
        self.screen = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "codellama", "chat", "demo", *OPTIONS],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "dumb", "XDG_STATE_HOME": str(state)},
            start_new_session=True,
        )
        os.close(theirs)

    def read(self, seconds: float, until: str = "", after: str = "") -> bool:
        """Take in what is written for so long, or until this is on the screen; whether it is."""
        end = time.monotonic() + seconds
        while not (until and self._is_shown(until, after)):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._terminal], [], [], left)[0]:
                return False
            try:
                data = os.read(self._terminal, 65536)
            except OSError:  # the other side is gone
                return False
            self.screen += ANSI.sub("", data.decode("utf-8", "replace"))
        return True

    def _is_shown(self, pattern: str, after: str) -> bool:
        """Whether this is on the screen, behind the latest `after`."""
        _, found, rest = self.screen.rpartition(after) if after else ("", True, self.screen)
        return bool(found) and re.search(pattern, rest) is not None

    def type(self, line: str) -> None:
        """A line and Enter."""
        os.write(self._terminal, line.encode() + b"\r")

    def kill(self) -> None:
        """At once, and take in what it had written by then."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.read(0.3)
        os.close(self._terminal)


def shown(screen: str, question: str) -> tuple[str, bool]:
    """The answer to `question` as far as the screen has it, and whether it came to its end."""
    _, found, rest = screen.rpartition(question)  # the terminal may echo it before the prompt does
    rest = NOTE.sub("", rest.lstrip("\n"))
    figures = FIGURES.search(rest)
    if not found:
        return "", False
    return (rest[: figures.start()] if figures else rest), figures is not None


def saved(state: Path) -> dict[str, str]:
    """Every question that is kept, with its answer."""
    listing = subprocess.run(
        [sys.executable, "-m", "codellama", "sessions", "show", "work", "--json"],
        env={**os.environ, "XDG_STATE_HOME": str(state)},
        capture_output=True,
        check=True,
    )
    messages = [m["content"] for m in json.loads(listing.stdout)["messages"]]
    return dict(zip(messages[::2], [*messages[1::2], ""], strict=False))


def test_nothing_that_was_shown_is_lost(tmp_path: Path) -> None:
    rng = random.Random(7)
    everything: dict[str, tuple[str, bool]] = {}
    cut = 0
    for round_ in range(KILLS):
        chat = Chat(tmp_path)
        assert chat.read(60, "/help lists the commands"), chat.screen
        time.sleep(0.3)
        number = 0
        end = time.monotonic() + rng.uniform(0.2, ROUND_S)
        while time.monotonic() < end:
            question = f"Question {round_}-{number}: how do I reverse a list?"
            chat.type(question)
            everything[question] = ("", False)
            chat.read(max(0.0, end - time.monotonic()), FIGURES.pattern, question)
            number += 1
        chat.kill()
        asked = [question for question in everything if question.startswith(f"Question {round_}-")]
        everything.update({question: shown(chat.screen, question) for question in asked})
        kept = saved(tmp_path)
        for question, (text, whole) in everything.items():
            if not text:
                continue
            said = printable(kept.get(question, "")).strip()
            assert said[: len(text.strip())] == text.strip(), (question, whole)
            cut += not whole
    assert cut, "no answer was killed in the middle: choose other moments"
