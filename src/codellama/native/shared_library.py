"""The one libggml of this process: the one that llama.cpp's own library uses.

A wheel of llama-cpp-python 0.3.36 has two files of it. libllama uses the one, `llama_cpp._ggml` loads the
other, and each has its own list of backends; where LLAMA_CPP_LIB_PATH lets libllama come from another build,
they are not even of the same build.
"""

from __future__ import annotations

import ctypes
from pathlib import Path


def libggml() -> ctypes.CDLL:
    """The library, without types of its functions."""
    from llama_cpp.llama_cpp import _lib

    if hasattr(_lib, "ggml_backend_reg_count"):  # what a library is linked with is found through it
        return ctypes.CDLL(_lib._name, handle=_lib._handle)
    from llama_cpp._ctypes_extensions import load_shared_library  # not so on Windows

    found: ctypes.CDLL = load_shared_library("ggml", Path(_lib._name).parent)
    return found
