"""Loading a model's weights: its progress is told, an exception ends it, its memory has huge pages.

llama.cpp reports on the thread that loads, out of C code, through which no exception can pass: that of a
signal's handler, such as Ctrl-C's, would be lost. So a thread of its own loads, and the caller waits.
"""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import llama_cpp

from codellama.native.huge_pages import NewMemory

LoadProgress = Callable[[float], None]
"""Takes the share of the weights that has been loaded, 0 to 1."""


def load_weights(
    path: Path, params: llama_cpp.llama_model_params, progress: LoadProgress | None = None
) -> llama_cpp.llama_model_p | None:
    """The model, or None if llama.cpp cannot load it. `progress` is called on this thread.

    Whatever is raised meanwhile, by `progress` or by a signal's handler, ends the load and goes on.
    """
    load = _Load(path, params)
    # A daemon thread that waits here is not awaited when Python ends; C++ must be out of Python by then.
    atexit.register(load.stop)
    load.start()
    try:
        for share in iter(load.wait, None):
            if progress is not None:
                progress(share)
    except BaseException:
        load.stop()
        load.free()
        raise
    finally:
        atexit.unregister(load.stop)
    return load.handle


class _Load:
    """A load on a thread of its own."""

    def __init__(self, path: Path, params: llama_cpp.llama_model_params) -> None:
        self.handle: llama_cpp.llama_model_p | None = None
        self._path = path
        self._params = params
        self._callback = llama_cpp.llama_progress_callback(self._on_progress)
        params.progress_callback = self._callback
        self._shares: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._stopped = False
        self._memory: NewMemory | None = NewMemory()
        self._thread = threading.Thread(target=self._run, name="load-weights", daemon=True)

    def start(self) -> None:
        """Begin. Python may end at any moment from now on, so `stop` must be registered."""
        self._thread.start()

    def wait(self) -> float | None:
        """The next share that was loaded; None at the end."""
        return self._shares.get()

    def stop(self) -> None:
        """End it, after the tensor that is being loaded."""
        self._stopped = True
        if self._thread.is_alive():
            self._thread.join()

    def free(self) -> None:
        """Give back what was loaded before it could be stopped."""
        if self.handle:
            llama_cpp.llama_model_free(self.handle)

    def _run(self) -> None:
        try:
            if not self._stopped:
                self.handle = llama_cpp.llama_model_load_from_file(
                    str(self._path).encode(), self._params
                )
        finally:
            self._shares.put(None)

    def _on_progress(self, share: float, _user_data: object) -> bool:
        if self._memory is not None:  # the first time: all buffers are there, and still empty
            self._memory.want_huge_pages()
            self._memory = None
        self._shares.put(share)
        return not self._stopped
