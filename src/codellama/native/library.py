"""llama.cpp as a library: start it once, send its log to `logging`, tell what it was built with.

Everything in `native` calls `library()` first. llama.cpp's log goes to the logger "codellama.llama_cpp",
one level lower than llama.cpp thinks of it (its warnings are INFO here): a program that embeds us stays
quiet, and `-v` shows all of it.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import threading
from collections import deque

import llama_cpp

from codellama.native.backends import Device, devices, offload_devices

# ggml_log_level of ggml.h: 1 debug, 2 info, 3 warn, 4 error, 5 continues the line before.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.INFO}
_ERROR, _CONTINUE = 4, 5


class Library:
    """The initialised library. Get it from `library()`; there is one per process."""

    def __init__(self) -> None:
        self.log = logging.getLogger("codellama.llama_cpp")
        logging.getLogger("codellama").addHandler(logging.NullHandler())
        self._errors: deque[str] = deque(maxlen=20)
        self._line = ""
        self._level = 1
        self._lock = threading.Lock()
        # llama.cpp keeps the pointer only: the callback must live as long as the library.
        self._callback = llama_cpp.llama_log_callback(self._on_log)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()

    def _on_log(self, level: int, text: bytes, _user_data: object) -> None:
        with self._lock:
            if level != _CONTINUE:
                self._level = level
            self._line += text.decode("utf-8", "replace")
            *lines, self._line = self._line.split("\n")
            for line in filter(None, map(str.rstrip, lines)):
                if self._level == _ERROR:
                    self._errors.append(line)
                self.log.log(_LEVELS.get(self._level, logging.DEBUG), "%s", line)

    @property
    def version(self) -> str:
        """Version of llama-cpp-python, and so of the llama.cpp in it."""
        return str(llama_cpp.__version__)

    @property
    def features(self) -> str:
        """What the CPU code was built with, in llama.cpp's words: "CPU : AVX2 = 1 | REPACK = 1 | ..."."""
        text: bytes = llama_cpp.llama_print_system_info()
        return text.decode()

    def clear_errors(self) -> None:
        """Forget the errors logged so far; call before something whose failure is to be explained."""
        with self._lock:
            self._errors.clear()

    def last_error(self) -> str:
        """The most telling error line since `clear_errors`: the first, since later ones follow from it."""
        with self._lock:
            return next((line for line in self._errors if line.strip("= ")), "")

    def devices(self) -> list[Device]:
        """All devices of the compiled-in backends, in ggml's order."""
        return devices()

    def gpus(self) -> list[Device]:
        """The devices of this machine that layers can be offloaded to, in llama.cpp's order."""
        return offload_devices()


@functools.cache
def library() -> Library:
    """The library, started at the first call."""
    return Library()
