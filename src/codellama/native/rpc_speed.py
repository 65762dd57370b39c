"""How fast a worker on another machine is, measured through it: the way there, and its memory.

llama.cpp tells nothing of either. So a device is sent some megabytes, and multiplies a matrix with a vector a
few times, which is bound by how fast the matrix can be read.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from codellama.native.backends import Device, device_handles, ggml_functions
from codellama.native.rpc_link import greet

_SIDE = 8192  # of the matrix, in half precision: 128 MiB, more than caches hold
_TIMES = 4  # it is read in one graph
_SENT_BYTES = 2**22  # below what llama.cpp first asks the worker's cache for
_F16, _F32 = 1, 0
_NODES = 64


@dataclass(frozen=True)
class RpcSpeed:
    """Seconds of a greeting there and back; bytes a second on the way, and out of the device's memory."""

    latency: float
    network: float
    memory: float


class _InitParams(ctypes.Structure):
    """`ggml_init_params` of ggml.h."""

    _fields_ = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


def measure_worker(device: Device) -> RpcSpeed | None:
    """The speed of a device at an endpoint; None if it has no memory for a trial, which takes half a second.

    Raises what `greet` raises.
    """
    latency = min(greet(device.endpoint) for _ in range(2))
    if device.free_bytes < 4 * _SIDE * _SIDE:
        return None
    (handle,) = device_handles((device,))
    ggml = ggml_functions(_SIGNATURES)
    with ExitStack() as undo:
        backend = ggml.ggml_backend_dev_init(handle, None)
        undo.callback(ggml.ggml_backend_free, backend)
        room = _NODES * ggml.ggml_tensor_overhead() + ggml.ggml_graph_overhead()
        context = ggml.ggml_init(_InitParams(room, None, True))
        undo.callback(ggml.ggml_free, context)
        matrix = ggml.ggml_new_tensor_2d(context, _F16, _SIDE, _SIDE)
        vector = ggml.ggml_new_tensor_2d(context, _F32, _SIDE, 1)
        graph, last = ggml.ggml_new_graph(context), vector
        for _ in range(_TIMES):
            last = ggml.ggml_mul_mat(context, matrix, last)
        ggml.ggml_build_forward_expand(graph, last)
        buffer = ggml.ggml_backend_alloc_ctx_tensors(context, backend)
        if not buffer:
            return None
        undo.callback(ggml.ggml_backend_buffer_free, buffer)
        ggml.ggml_backend_tensor_memset(matrix, 0, 0, 2 * _SIDE * _SIDE)
        ggml.ggml_backend_tensor_memset(vector, 0, 0, 4 * _SIDE)
        number, data = ctypes.c_float(), ctypes.create_string_buffer(_SENT_BYTES)

        def wait() -> None:
            ggml.ggml_backend_tensor_get(last, ctypes.byref(number), 0, 4)

        def compute() -> None:
            ggml.ggml_backend_graph_compute(backend, graph)
            wait()

        def send() -> None:
            ggml.ggml_backend_tensor_set(matrix, data, 0, _SENT_BYTES)
            wait()

        trip = _quickest(wait, 5)
        sent = max(1e-9, _quickest(send, 2) - trip)
        ggml.ggml_backend_tensor_memset(matrix, 0, 0, 2 * _SIDE * _SIDE)
        computed = max(1e-9, _quickest(compute, 3) - trip)
    return RpcSpeed(min(latency, trip), _SENT_BYTES / sent, _TIMES * 2 * _SIDE * _SIDE / computed)


def _quickest(work: Callable[[], None], times: int) -> float:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


_P, _N, _I = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_backend_dev_init": (_P, [_P, ctypes.c_char_p]),
    "ggml_backend_free": (None, [_P]),
    "ggml_tensor_overhead": (_N, []),
    "ggml_graph_overhead": (_N, []),
    "ggml_init": (_P, [_InitParams]),
    "ggml_free": (None, [_P]),
    "ggml_new_tensor_2d": (_P, [_P, _I, ctypes.c_int64, ctypes.c_int64]),
    "ggml_mul_mat": (_P, [_P, _P, _P]),
    "ggml_new_graph": (_P, [_P]),
    "ggml_build_forward_expand": (None, [_P, _P]),
    "ggml_backend_alloc_ctx_tensors": (_P, [_P, _P]),
    "ggml_backend_buffer_free": (None, [_P]),
    "ggml_backend_tensor_memset": (None, [_P, ctypes.c_uint8, _N, _N]),
    "ggml_backend_tensor_set": (None, [_P, _P, _N, _N]),
    "ggml_backend_tensor_get": (None, [_P, _P, _N, _N]),
    "ggml_backend_graph_compute": (_I, [_P, _P]),
}
