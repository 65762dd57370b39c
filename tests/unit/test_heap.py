"""One heap for all threads, asked of glibc itself."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

CODE = """
import ctypes, sys, threading
from codellama.native.heap import share_heap
if sys.argv[1] == "shared":
    share_heap()
together = threading.Barrier(4)
def work():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.tmpfile.restype = ctypes.c_void_p
libc.rewind.argtypes = [ctypes.c_void_p]
libc.fread.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
file = libc.tmpfile()
libc.malloc_info(0, ctypes.c_void_p(file))
libc.rewind(file)
text = ctypes.create_string_buffer(200_000)
libc.fread(text, 1, len(text), file)
print(text.value.count(b"<heap nr="))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="not glibc")
def test_threads_share_a_heap() -> None:
    heaps = {
        kind: int(subprocess.check_output([sys.executable, "-c", CODE, kind]))
        for kind in ("shared", "own")
    }
    assert heaps["shared"] == 1
    assert heaps["own"] > 1
