from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

CODE = """
import os, threading, time
from codellama.cli.loading import left_by_ctrl_c
from codellama.cli.outputs import progress_bar
with left_by_ctrl_c(), progress_bar("loading x"):
    os.write(1, b"begun")
    threading.Thread(target=time.sleep, args=(60,)).start()  # what nothing can end
    threading.Event().wait()
"""


def test_ctrl_c_ends_a_load_at_once_and_the_terminal_is_as_it_was() -> None:
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=theirs, stderr=theirs, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.read(5) == b"begun"
    assert not termios.tcgetattr(theirs)[3] & termios.ECHO
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert time.monotonic() - sent < 2
    screen = os.read(ours, 65536)
    assert b"loading x" in screen, "a bar is there from the beginning on"
    assert b"\x1b[?25h\r\nInterrupted while loading.\r\n" in screen
    assert termios.tcgetattr(theirs) == before
    process.stdout.close()
    os.close(ours)
    os.close(theirs)
