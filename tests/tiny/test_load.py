"""Loading tells how far it is; what happens meanwhile ends it, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from codellama import LLM, ModelLoadError
from tests.inside import core

LEAVING = """
import atexit, sys, threading, time
from codellama import LLM
from codellama.native import load

report, begun = load._Load._on_progress, threading.Event()

def slow(self, share, user_data):
    begun.set()
    time.sleep(0.5)
    return report(self, share, user_data)

def loading():
    return [t.name for t in threading.enumerate() if t.name == "load-weights"]

atexit.register(lambda: print(loading()))  # registered first, called last
load._Load._on_progress = slow
threading.Thread(target=LLM, args=(sys.argv[1],), daemon=True).start()
begun.wait()
print(loading())
threading.excepthook = lambda args: None  # the thread hears of it only if there is time left
"""


def test_progress_ascends_to_all_bytes(tiny_gguf: Path) -> None:
    seen: list[tuple[int, int]] = []
    threads = set()

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        threads.add(threading.get_ident())

    with LLM(tiny_gguf, n_threads=1, progress=progress) as llm:
        total = core(llm).model.size
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert {of for _, of in seen} == {total}
    assert threads == {threading.get_ident()}


class Handles:
    """Counts the models that llama.cpp has in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded = 0
        self.freed = 0
        self._load = llama_cpp.llama_model_load_from_file
        self._free = llama_cpp.llama_model_free
        monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", self.load)
        monkeypatch.setattr(llama_cpp, "llama_model_free", self.free)

    def load(self, *args: Any) -> Any:
        handle = self._load(*args)
        self.loaded += bool(handle)
        return handle

    def free(self, handle: Any) -> None:
        self.freed += 1
        self._free(handle)


def interrupt(done: int, total: int) -> None:
    signal.raise_signal(signal.SIGINT)


def fail(done: int, total: int) -> None:
    raise RuntimeError("no more")


def fail_at_end(done: int, total: int) -> None:
    if done == total:
        raise RuntimeError("no more")


@pytest.mark.parametrize(
    ("progress", "error"),
    [(fail, RuntimeError), (fail_at_end, RuntimeError), (interrupt, KeyboardInterrupt)],
)
def test_what_is_raised_meanwhile_ends_the_load(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, progress: Any, error: type[BaseException]
) -> None:
    handles = Handles(monkeypatch)
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(error):
            LLM(tiny_gguf, n_threads=1, progress=progress)
    finally:
        signal.signal(signal.SIGINT, old)
    assert handles.loaded == handles.freed
    assert not [t for t in threading.enumerate() if t.name == "load-weights"]
    with LLM(tiny_gguf, n_threads=1) as llm:
        assert llm.complete("abc", max_tokens=1).result().choices[0].tokens


def test_a_file_that_llama_cpp_refuses(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codellama.native.model._override_table", _more_layers)
    with pytest.raises(ModelLoadError, match="llama.cpp could not load"):
        LLM(tiny_gguf, n_threads=1)


def _more_layers(_: object) -> Any:
    table = (llama_cpp.llama_model_kv_override * 2)()
    table[0].key = b"llama.block_count"
    table[0].tag = 0
    value: Any = table[0].value
    value.val_i64 = 9
    return table


def test_python_ends_in_the_middle_of_a_load(tiny_gguf: Path) -> None:
    command = [sys.executable, "-c", LEAVING, str(tiny_gguf)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "['load-weights']\n[]\n"), done.stderr
