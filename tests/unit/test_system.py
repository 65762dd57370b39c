"""Each call, and what stands in for it where the system lacks it, do the same."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from codellama import system

CALLS = ("pread", "preadv", "pwrite", "fdatasync", "sched_getaffinity", "sysconf")


@pytest.fixture(params=["as it is", "without POSIX"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The system as it is, and one that lacks what Windows lacks."""
    if request.param == "without POSIX":
        for name in ("fcntl", "termios"):
            monkeypatch.setitem(sys.modules, name, None)
        for name in CALLS:
            monkeypatch.delattr(os, name, raising=False)
    return str(request.param)


def test_reads_and_writes_at_a_place_from_many_threads(machine: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4000))
    file = os.open(path, os.O_RDWR | system.BINARY)

    def write_and_read(i: int) -> bool:
        data = bytes([i % 256]) * 100
        assert system.pwrite(file, memoryview(data), 100 * i) == 100
        view = memoryview(bytearray(100))
        assert system.pread_into(file, view, 100 * i) == 100
        return bytes(view) == data == system.pread(file, 100, 100 * i)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_read, range(40)))
    assert system.pread_into(file, memoryview(bytearray(1)), 4000) == 0
    system.sync_data(file)
    os.close(file)
    system.sync_folder(tmp_path)


def test_a_locked_file_is_another_process_s(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = (
        "import os, sys; from codellama import system\n"
        "sys.exit(not system.lock(os.open(sys.argv[1], os.O_RDWR)))"
    )

    def other() -> int:
        return subprocess.run([sys.executable, "-c", code, path], check=False).returncode

    file = os.open(path, os.O_RDWR | os.O_CREAT)
    assert system.lock(file)
    assert other() == 1
    os.close(file)
    assert other() == 0


def test_without_locks_every_file_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", None)
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert system.lock(file)
    os.close(file)


def test_the_machine(machine: str) -> None:
    assert len(system.processors()) >= 1
    assert system.memory_bytes() >= 1 << 29
    if machine != "as it is":
        assert system.memory_bytes() == system.ASSUMED_MEMORY


def test_what_is_no_terminal_keeps_its_echo(machine: str, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, system.no_echo(file.fileno()):
        file.write("x")
    assert (tmp_path / "file").read_text() == "x"


def test_advice_about_no_memory_is_refused() -> None:
    assert not system.madvise(1, 1, 14)  # no address of a page


def test_the_most_memory_a_process_had_is_its_own_and_stays() -> None:
    """Of a process that took 64 MB and gave them back; the large one that started it does not count."""
    code = (
        "from codellama import system\n"
        "before = system.peak_memory_bytes()\n"
        "taken = bytearray(64 << 20)\n"
        "del taken\n"
        "print(before, system.peak_memory_bytes())"
    )
    large = bytearray(b"x") * (300 << 20)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    del large
    before, after = map(int, done.stdout.split())
    assert 60 << 20 < after - before < 80 << 20
    assert before < 200 << 20


def test_without_proc_the_systems_own_count_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="the system counts no resources")
    monkeypatch.setattr(Path, "read_text", lambda *given: (_ for _ in ()).throw(OSError()))
    unit = 1 if sys.platform == "darwin" else 1024
    assert system.peak_memory_bytes() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    monkeypatch.setitem(sys.modules, "resource", None)
    assert system.peak_memory_bytes() is None
