"""llama.vim in real Vim: ghost text is shown, and taken over with a key. The second argument is its folder.

Vim runs in a terminal of tmux, whose screen is looked at.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from clients.trials.checks import run

CONFIG = """
set nocompatible
let g:llama_config = {{'endpoint_fim': '{url}/infill', 'show_info': 2, 'auto_fim': v:true}}
set runtimepath^={plugin}
"""
CODE = "def add(a, b):\n    \n"
LONGEST_S = 60


class Screen:
    """Vim in a terminal of its own."""

    def __init__(self, url: str) -> None:
        folder = Path(tempfile.mkdtemp())
        self.file = folder / "add.py"
        self.file.write_text(CODE)
        (folder / "vimrc").write_text(CONFIG.format(url=url, plugin=sys.argv[2]))
        self._name = f"llama-vim-{uuid.uuid4().hex[:8]}"
        vim = ("vim", "-u", str(folder / "vimrc"), "-n", str(self.file))
        self._tmux("new-session", "-d", "-x", "180", "-y", "20", "-s", self._name, *vim)

    def type(self, *keys: str) -> None:
        self._tmux("send-keys", "-t", self._name, *keys)

    def text(self) -> str:
        return self._tmux("capture-pane", "-p", "-t", self._name)

    def wait_for(self, *texts: str) -> str:
        end = time.monotonic() + LONGEST_S
        while time.monotonic() < end:
            shown = self.text()
            if all(text in shown for text in texts):
                return shown
            time.sleep(0.2)
        raise AssertionError(f"not shown: {texts}\n{self.text()}")

    def close(self) -> None:
        self._tmux("kill-session", "-t", self._name)

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(["tmux", *arguments], capture_output=True, text=True, check=True)
        return done.stdout


def try_ghost_text(url: str) -> None:
    screen = Screen(url)
    try:
        time.sleep(1)
        screen.type("Enter")  # Vim 9.0 has to be told that its warning of old versions was read
        screen.wait_for("def add")
        screen.type("jA", "return a")
        shown = screen.wait_for("| p: ", "| g: ", "t/s")  # the figures beside a suggestion
        print(shown, file=sys.stderr)
        screen.type("Tab")
        time.sleep(1)
        screen.type("Escape", ":w", "Enter")
        time.sleep(1)
        text = screen.file.read_text()
        assert text.startswith("def add(a, b):\n    return a"), text
        assert len(text) > len("def add(a, b):\n    return a\n"), text
    finally:
        screen.close()


if __name__ == "__main__":
    run(sys.modules[__name__])
