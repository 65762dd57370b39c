"""llama.cpp's RPC server in this process: it lends devices of this machine to a model on another one.

The protocol knows no keys and checks little of what it is sent. One client is served at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.native.backends import CPU, Device, device_at, device_pointers, rpc_function

CACHED_FROM = 10 * 2**20
"""Bytes of a tensor from which on the cache holds it (HASH_THRESHOLD of ggml-rpc.cpp)."""
_GET_MEMORY = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)
)
_PLACE = (
    2  # of get_memory in ggml_backend_device_i, which a device begins with (ggml-backend-impl.h)
)


def lendable(names: Sequence[str] = ()) -> list[Device]:
    """The devices with these names; by default the GPUs, or the CPU where there is none.

    Raises InvalidRequestError naming `device` for one that is not there.
    """
    here = [device_at(handle) for handle in device_pointers()]
    if not names:
        gpus = [device for device in here if device.kind in ("gpu", "igpu")]
        return gpus or [device for device in here if device.kind == "cpu"]
    known = {device.name: device for device in here}
    for name in names:
        if name not in known:
            raise InvalidRequestError(
                "{param}: there is no device {name}; there are {known}",
                "device",
                name=name,
                known=", ".join(known),
            )
    return [known[name] for name in names]


def serve_rpc(
    endpoint: str,
    n_threads: int,
    cache: Path | None = None,
    names: Sequence[str] = (),
    most: int | None = None,
    available: Callable[[], int] | None = None,
) -> None:
    """Lend devices (see `lendable`) at `endpoint`, an IPv4 address with a port, until the process ends.

    The CPU computes with `n_threads`. `cache` is a folder that keeps large tensors for the next time. `most`
    are the bytes that each device says to have at most; `available` gives those that are free of the main
    memory, all of which llama.cpp says to be free.

    Returns only if llama.cpp cannot begin. Raises UnsupportedError if this build has no RPC backend, and what
    `lendable` raises.
    """
    start = rpc_function(
        "ggml_backend_rpc_start_server",
        None,
        [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p],
    )
    wanted = {device.name for device in lendable(names)}
    lent = [handle for handle in device_pointers() if device_at(handle).name in wanted]
    kept = [_tell_less(handle, most, available) for handle in lent]
    table = (ctypes.c_void_p * len(lent))(*lent)
    folder = None
    if cache is not None:
        drop_doubtful(cache)
        folder = str(cache).encode()
    start(endpoint.encode(), folder, n_threads, len(lent), table)
    del kept


def drop_doubtful(cache: Path) -> int:
    """Delete files of a tensor cache that may have been cut short; how many.

    llama.cpp takes a file for the tensor that its name is the hash of, whatever is in it. Tensors are written
    one after the other, so the newest may lack its end after a worker was killed; one that is smaller than
    what is kept at all was written to a full disk.
    """
    files = sorted((f for f in cache.iterdir() if f.is_file()), key=lambda f: f.stat().st_mtime_ns)
    doubtful = [f for f in files if f.stat().st_size <= CACHED_FROM] + files[-1:]
    for file in set(doubtful):
        file.unlink()
    return len(set(doubtful))


def _tell_less(handle: int, most: int | None, available: Callable[[], int] | None) -> Any:
    """Have a device say that less is free; what is returned must live as long as the device is used.

    Raises UnsupportedError if this llama.cpp keeps its functions elsewhere.
    """
    is_cpu = device_at(handle).name == CPU
    if most is None and not (is_cpu and available):
        return None
    functions = (ctypes.c_void_p * (_PLACE + 1)).from_address(handle)
    original = _GET_MEMORY(functions[_PLACE] or 0)

    def tell(device: int, free: Any, total: Any) -> None:
        original(device, free, total)
        if is_cpu and available is not None:
            free[0] = min(free[0], available())
        if most is not None:
            free[0], total[0] = min(free[0], most), min(total[0], most)

    before = device_at(handle)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    original(handle, ctypes.byref(free), ctypes.byref(total))
    if total.value != before.total_bytes:
        raise UnsupportedError(
            "this llama.cpp cannot be told how much memory to lend", setting="memory"
        )
    callback = _GET_MEMORY(tell)
    functions[_PLACE] = ctypes.cast(callback, ctypes.c_void_p).value
    return callback
