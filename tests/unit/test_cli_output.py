"""Ends of pipes: output that cannot be written, and a byte-order mark on what is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codellama.cli.serve import collect_keys

FULL = Path("/dev/full")
ROOT = Path(__file__).parents[2]
BOM = b"\xef\xbb\xbf"

needs_dev_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def codellama(
    *args: str, stdin: bytes = b"", stdout: object = subprocess.PIPE
) -> tuple[int, bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "codellama", *args],
        input=stdin,
        stdout=stdout,  # type: ignore[call-overload]
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr + (done.stdout or b"")


@needs_dev_full
@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        ["models"],
        ["chat", "--help"],
        ["inspect", "TINY"],
        ["plan", "TINY", "--type", "Q8_0"],
        ["tokenize", "TINY", "def f"],
        ["complete", "TINY", "def f", "-n", "3"],
        ["complete", "TINY", "def f", "-n", "3", "--json"],
        ["infill", "TINY", "--prefix", "a", "--suffix", "b", "-n", "3"],
        ["chat", "TINY", "-p", "hi", "-n", "3"],
    ],
    ids=" ".join,
)
def test_output_to_a_full_disk_is_one_line(args: list[str], tiny_gguf: Path) -> None:
    args = [str(tiny_gguf) if arg == "TINY" else arg for arg in args]
    with FULL.open("wb") as full:
        code, said = codellama(*args, stdout=full)
    lines = [line for line in said.decode().splitlines() if "Error" in line or "Trace" in line]
    assert code == 1, said
    assert lines == ["Error: the output cannot be written: No space left on device"], said


def test_a_byte_order_mark_on_standard_input_is_not_text(tiny_gguf: Path) -> None:
    plain, marked = (
        codellama("tokenize", str(tiny_gguf), "-", stdin=start + b"def f") for start in (b"", BOM)
    )
    assert plain[0] == 0, plain
    assert marked == plain


def test_a_byte_order_mark_in_a_key_file_is_no_part_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(BOM + b"secret\r\nother\r\n")
    assert collect_keys((), path) == ("secret", "other")


def test_what_an_old_code_page_lacks_becomes_a_question_mark() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "codellama", "sessions"],
        env={
            **os.environ,
            "PYTHONIOENCODING": "cp437",
            "XDG_STATE_HOME": "/nowhere/\u2192",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert b"no conversation is kept in /nowhere/?/codellama/sessions" in done.stdout
