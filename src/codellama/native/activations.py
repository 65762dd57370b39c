"""What matrices are multiplied with while llama.cpp decodes, through its eval callback.

llama.cpp asks for every node of the graph whether its data is wanted, and calls again when it has been
computed. Of multiplications with a layer's matrix the second operand is handed on, row by row as it is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from codellama.errors import DecodeError, ModelLoadError
from codellama.native.library import library
from codellama.native.model import Model
from codellama.native.settings import WeightSettings
from codellama.native.shared_library import libggml

Listener = Callable[[str, NDArray[np.float32]], None]
"""Called with the name of a matrix and the rows it is multiplied with, (tokens, columns): a view."""

_F32 = 0
_FEWEST_ROWS = 16  # llama-imatrix ignores smaller multiplications too
_MOST_DIMS, _MOST_SOURCES, _MOST_PARAMS, _MOST_NAME = 4, 10, 16, 64


class _Tensor(ctypes.Structure):
    """`ggml_tensor` of ggml.h."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * _MOST_DIMS),
    ("nb", ctypes.c_size_t * _MOST_DIMS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * _MOST_PARAMS),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * _MOST_SOURCES),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * _MOST_NAME),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


class Activations:
    """A context of `n_ctx` tokens whose multiplications are listened to. Close it, or use `with`."""

    def __init__(self, model: Model, n_ctx: int, n_threads: int, listener: Listener) -> None:
        self._ggml = _ggml()
        self._listener = listener
        self._failure: BaseException | None = None
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = n_threads
        # llama.cpp keeps the pointer only: the callback must live as long as the context.
        self._callback = llama_cpp.ggml_backend_sched_eval_callback(self._on_node)
        params.cb_eval = self._callback
        lib = library()
        lib.clear_errors()
        handle = llama_cpp.llama_init_from_model(model.handle, params)
        if not handle:
            raise ModelLoadError(
                f"llama.cpp could not make a context of {n_ctx} tokens: {lib.last_error()}"
            )
        self._handle = handle
        self._batch = llama_cpp.llama_batch_init(n_ctx, 0, 1)

    def run(self, tokens: Sequence[int]) -> None:
        """Decode `tokens` as a sequence of its own; the listener hears all of it.

        Raises:
            DecodeError: llama.cpp failed. What the listener raises is raised here.
        """
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._handle), True)
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = True  # else the last layer sees the last token only
        status = llama_cpp.llama_decode(self._handle, batch)
        llama_cpp.llama_synchronize(self._handle)
        if self._failure is not None:
            raise self._failure
        if status != 0:
            raise DecodeError(f"llama.cpp could not decode {len(tokens)} tokens: error {status}")

    def _on_node(self, node: int, ask: bool, _user_data: object) -> bool:
        if self._failure is not None:
            return False
        try:
            tensor = _Tensor.from_address(node)
            if ask:
                return self._wanted(tensor)
            source = tensor.src[1].contents
            name = tensor.src[0].contents.name.decode()
            self._listener(name, self._rows(source))
        except BaseException as error:
            self._failure = error
            return False
        return True

    def _wanted(self, tensor: _Tensor) -> bool:
        if self._ggml.ggml_op_name(tensor.op) != b"MUL_MAT":
            return False
        matrix, rows = tensor.src[0].contents, tensor.src[1].contents
        return bool(
            rows.type == _F32
            and rows.ne[1] >= _FEWEST_ROWS
            and matrix.name.startswith(b"blk.")
            and matrix.name.endswith(b".weight")
        )

    def _rows(self, tensor: _Tensor) -> NDArray[np.float32]:
        columns, rows = tensor.ne[0], tensor.ne[1]
        if tensor.nb[0] != 4 or tensor.ne[2] * tensor.ne[3] != 1:
            raise DecodeError(f"{tensor.name.decode()}: activations of an unknown layout")
        nbytes = (rows - 1) * tensor.nb[1] + 4 * columns
        if self._ggml.ggml_backend_buffer_is_host(tensor.buffer):
            data = np.frombuffer((ctypes.c_char * nbytes).from_address(tensor.data), np.uint8)
        else:
            data = np.empty(nbytes, np.uint8)
            address = ctypes.c_void_p(ctypes.addressof(tensor))
            self._ggml.ggml_backend_tensor_get(address, data.ctypes.data, 0, nbytes)
        return np.lib.stride_tricks.as_strided(
            data.view(np.float32), (rows, columns), (tensor.nb[1], 4), writeable=False
        )

    def close(self) -> None:
        """Give the memory back."""
        if self._handle:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._handle)
            self._handle = None

    def __enter__(self) -> Activations:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ggml() -> ctypes.CDLL:
    ggml = libggml()
    ggml.ggml_op_name.argtypes = [ctypes.c_int]
    ggml.ggml_op_name.restype = ctypes.c_char_p
    ggml.ggml_backend_buffer_is_host.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_buffer_is_host.restype = ctypes.c_bool
    ggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_size_t] * 2
    ggml.ggml_backend_tensor_get.restype = None
    return ggml


def load_model(path: Path, vocabulary: Path | None = None) -> Model:
    """The model to listen to, with all layers on a GPU where there is one; `vocabulary` as `Model` has it."""
    settings = WeightSettings(n_gpu_layers=999 if library().gpus() else 0)
    return Model(path, settings, vocabulary=vocabulary)
