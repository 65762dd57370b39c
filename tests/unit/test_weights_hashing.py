"""The hashes of what was written: right, at once, and told and ended by the caller's thread."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from codellama.weights import hashing
from codellama.weights.hashing import hash_files


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = []
    for number in range(3):
        made.append(tmp_path / f"{number}.gguf")
        made[-1].write_bytes(bytes([number]) * (5_000_000 + number))
    return made


def test_each_file_has_its_hash(paths: list[Path]) -> None:
    found = hash_files(paths, 2)
    assert found == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert hash_files([], 2) == {}


def test_progress_comes_from_this_thread_and_ends_at_the_total(paths: list[Path]) -> None:
    calls: list[tuple[int, int]] = []
    threads = set()

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        threads.add(threading.current_thread())

    hash_files(paths, 3, progress)
    assert calls == sorted(calls)
    assert calls[0] == (0, 15_000_003)
    assert calls[-1] == (15_000_003, 15_000_003)
    assert threads == {threading.current_thread()}


def test_files_are_hashed_at_once(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3, timeout=10)

    def meet(path: Path, advance: Callable[[int], None]) -> str:
        together.wait()
        return path.name

    monkeypatch.setattr(hashing, "sha256", meet)
    assert hash_files(paths, 3) == {path: path.name for path in paths}


def test_a_caller_that_gives_up_ends_the_hashing(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(path: Path, advance: Callable[[int], None]) -> str:
        while True:
            advance(1)
            time.sleep(0.001)

    def give_up(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(hashing, "sha256", endless)
    with pytest.raises(KeyboardInterrupt):
        hash_files(paths, 2, give_up)


def test_a_file_that_cannot_be_read_is_an_error(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        hash_files([*paths, tmp_path / "folder"], 2)
