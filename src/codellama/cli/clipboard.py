"""Text into the clipboard: by the system's own program, or by the terminal itself, also over ssh."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from typing import IO

PROGRAMS = (
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
    ("", ("pbcopy",)),
    ("", ("clip.exe",)),
)
"""The variable that says that a program would work here, and its command."""

MOST_FOR_THE_TERMINAL = 74_994  # bytes: xterm takes 100,000 characters of base64


def copy(text: str, terminal: IO[str]) -> str:
    """Copy `text`; by what, in words. Falls back on the terminal's own escape sequence (OSC 52).

    Raises OSError if nothing takes it.
    """
    for variable, command in PROGRAMS:
        if (not variable or os.environ.get(variable)) and shutil.which(command[0]):
            done = subprocess.run(
                command, input=text.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if done.returncode == 0:
                return command[0]
    data = text.encode()
    if not terminal.isatty() or os.environ.get("TERM") == "dumb":
        raise OSError("there is no clipboard here; /write saves to a file")
    if len(data) > MOST_FOR_THE_TERMINAL:
        raise OSError("that is more than a terminal takes; /write saves to a file")
    terminal.write(f"\x1b]52;c;{base64.b64encode(data).decode()}\a")
    terminal.flush()
    return "the terminal"
