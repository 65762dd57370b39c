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
from dataclasses import dataclass

import llama_cpp

from codellama.errors import UnsupportedError

# ggml_log_level of ggml.h: 1 debug, 2 info, 3 warn, 4 error, 5 continues the line before.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.INFO}
_ERROR, _CONTINUE = 4, 5

_DEVICE_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel", 4: "meta"}


@dataclass(frozen=True)
class Device:
    """A device that llama.cpp can put layers on; memory in bytes, `kind` cpu, gpu, igpu or accel."""

    name: str
    description: str
    kind: str
    free_bytes: int
    total_bytes: int


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

    def clear_errors(self) -> None:
        """Forget the errors logged so far; call before something whose failure is to be explained."""
        with self._lock:
            self._errors.clear()

    def last_error(self) -> str:
        """The most telling error line since `clear_errors`: the first, since later ones follow from it."""
        with self._lock:
            return next((line for line in self._errors if line.strip("= ")), "")

    def devices(self) -> list[Device]:
        """All devices of the compiled-in backends, in llama.cpp's order."""
        ggml = _ggml()
        found = []
        for index in range(ggml.ggml_backend_dev_count()):
            handle = ctypes.c_void_p(ggml.ggml_backend_dev_get(index))
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            ggml.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
            found.append(
                Device(
                    name=ggml.ggml_backend_dev_name(handle).decode(),
                    description=ggml.ggml_backend_dev_description(handle).decode().strip(),
                    kind=_DEVICE_KINDS.get(ggml.ggml_backend_dev_type(handle), "unknown"),
                    free_bytes=free.value,
                    total_bytes=total.value,
                )
            )
        return found

    def gpus(self) -> list[Device]:
        """The devices that layers can be offloaded to."""
        return [d for d in self.devices() if d.kind in ("gpu", "igpu")]


@functools.cache
def library() -> Library:
    """The library, started at the first call."""
    return Library()


@functools.cache
def _ggml() -> ctypes.CDLL:
    """libggml with the device functions that llama_cpp does not bind."""
    from llama_cpp._ggml import libggml

    ggml: ctypes.CDLL = libggml
    try:
        ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
        ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
        ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
        for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
            getattr(ggml, name).argtypes = [ctypes.c_void_p]
            getattr(ggml, name).restype = ctypes.c_char_p
        ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
        ggml.ggml_backend_dev_type.restype = ctypes.c_int
        sizes = ctypes.POINTER(ctypes.c_size_t)
        ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, sizes, sizes]
        ggml.ggml_backend_dev_memory.restype = None
    except AttributeError as error:
        raise UnsupportedError(f"this build of llama.cpp cannot list devices: {error}") from error
    return ggml
