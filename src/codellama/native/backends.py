"""ggml's backends and their devices, which llama_cpp does not bind: what is compiled in, what is there.

Devices of this machine come from ggml's registry. Those of another one come from `rpc_devices`, and stay out
of the registry: whoever wants layers on them names them when a model is loaded.
"""

from __future__ import annotations

import ctypes
import functools
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from codellama.errors import InvalidRequestError, UnsupportedError

CPU, RPC = "CPU", "RPC"
_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel", 4: "meta"}  # ggml_backend_dev_type
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Device:
    """A device that llama.cpp can put layers on; memory in bytes, `kind` cpu, gpu, igpu or accel.

    `backend` is ggml's name of what drives it, `endpoint` the host and port of a device on another machine.
    `bandwidth` is that of its memory in bytes a second, 0 where nobody knows it.

    `pipelines` says that it can work on one part of a prompt while the next device works on the part before,
    for which llama.cpp then keeps four copies of what goes in. With `host_buffer` it borrows the CPU's
    weights for prompts, so llama.cpp leaves them as they are and rearranges none.
    """

    name: str
    description: str
    kind: str
    free_bytes: int
    total_bytes: int
    backend: str = ""
    endpoint: str = ""
    pipelines: bool = True
    host_buffer: bool = False
    bandwidth: float = 0.0


class _Caps(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_bool)
        for name in ("asynchronous", "host_buffer", "from_host_ptr", "events", "mmap_support")
    ]


class _Props(ctypes.Structure):
    """`ggml_backend_dev_props` of ggml-backend.h."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", _Caps),
    ]


def backend_names() -> tuple[str, ...]:
    """The backends that are compiled in, such as ("CUDA", "RPC", "CPU")."""
    lib = _ggml()
    registries = map(lib.ggml_backend_reg_get, range(lib.ggml_backend_reg_count()))
    return tuple(lib.ggml_backend_reg_name(registry).decode() for registry in registries)


def devices() -> list[Device]:
    """All devices of the compiled-in backends, in ggml's order."""
    return [_device(handle) for handle in _handles()]


def offload_devices() -> list[Device]:
    """The devices of this machine that llama.cpp puts layers on, in its order: as it chooses by itself,
    a GPU that two backends see counts once, and integrated ones only count where there is no other."""
    found = {"gpu": [], "igpu": []}  # type: dict[str, list[tuple[Device, str]]]
    for handle in _handles():
        device, bus = _device(handle), _props(handle).device_id or b""
        known = {other for _, other in found.get(device.kind, []) if other}
        if device.kind in found and bus.decode() not in known:
            found[device.kind].append((device, bus.decode()))
    return [device for device, _ in found["gpu"] or found["igpu"]]


def rpc_devices(endpoint: str) -> list[Device]:
    """The devices that llama.cpp's RPC server at `endpoint`, a HOST:PORT, lends.

    Raises UnsupportedError if this build has no RPC backend, InvalidRequestError if nobody listens there.
    """
    return [_device(handle, endpoint) for handle in _rpc_handles(endpoint)]


def device_handles(wanted: tuple[Device, ...]) -> list[int]:
    """ggml's pointers of these devices, in the same order. Raises UnsupportedError for one that is gone."""
    here = {_props(handle).name.decode(): handle for handle in _handles()}
    found = []
    for device in wanted:
        remote = {}
        if device.endpoint:
            remote = {_props(h).name.decode(): h for h in _rpc_handles(device.endpoint)}
        handle = {**here, **remote}.get(device.name)
        if handle is None:
            raise UnsupportedError(f"the device {device.name} is not there any more")
        found.append(handle)
    return found


def host_buffer_type() -> int:
    """ggml's pointer of ordinary main memory, for weights that are to stay there."""
    return int(_ggml().ggml_backend_cpu_buffer_type())


def serve_rpc(endpoint: str, n_threads: int, cache: str | None = None) -> None:
    """Lend this machine's devices at `endpoint` until the process ends; the protocol has no authentication.

    Without a GPU it lends the main memory and `n_threads` threads. `cache` is a folder that keeps weights
    for the next time. Raises UnsupportedError if this build has no RPC backend.
    """
    gpus = [handle for handle in _handles() if _device(handle).kind in ("gpu", "igpu")]
    lent = gpus or [handle for handle in _handles() if _device(handle).kind == "cpu"]
    table = (ctypes.c_void_p * len(lent))(*lent)
    start = _rpc_function(
        "ggml_backend_rpc_start_server",
        None,
        [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p],
    )
    folder = cache.encode() if cache else None
    start(endpoint.encode(), folder, n_threads, len(lent), table)


@functools.cache
def _rpc_handles(endpoint: str) -> tuple[int, ...]:
    add = _rpc_function(
        "ggml_backend_rpc_add_server", ctypes.c_void_p, [ctypes.c_char_p]
    )  # it ends the process where nobody listens
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except (OSError, ValueError) as error:
        raise InvalidRequestError(
            "{param}: {endpoint} does not answer: {reason}",
            "rpc",
            "start a worker there, and name it as HOST:PORT",
            endpoint=endpoint,
            reason=error,
        ) from error
    registry = add(endpoint.encode())
    if not registry:
        raise InvalidRequestError("{param}: {endpoint} lends no device", "rpc", endpoint=endpoint)
    lib = _ggml()
    count = range(lib.ggml_backend_reg_dev_count(registry))
    return tuple(lib.ggml_backend_reg_dev_get(registry, index) for index in count)


def _rpc_function(name: str, result: Any, arguments: list[Any]) -> Any:
    lib = _ggml()
    registry = lib.ggml_backend_reg_by_name(RPC.encode())
    address = registry and lib.ggml_backend_reg_get_proc_address(registry, name.encode())
    if not address:
        raise UnsupportedError(
            "this llama.cpp was built without its RPC backend", "run scripts/setup", "rpc"
        )
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def _handles() -> Iterator[int]:
    lib = _ggml()
    return map(lib.ggml_backend_dev_get, range(lib.ggml_backend_dev_count()))


def _props(handle: int) -> _Props:
    props = _Props()
    _ggml().ggml_backend_dev_get_props(handle, ctypes.byref(props))
    return props


def _device(handle: int, endpoint: str = "") -> Device:
    props, lib = _props(handle), _ggml()
    backend = lib.ggml_backend_reg_name(lib.ggml_backend_dev_backend_reg(handle)).decode()
    return Device(
        name=props.name.decode(),
        description=props.description.decode().strip(),
        kind=_KINDS.get(props.type, "unknown"),
        free_bytes=props.memory_free,
        total_bytes=props.memory_total,
        backend=RPC if endpoint else backend,
        endpoint=endpoint,
        pipelines=bool(props.caps.asynchronous and props.caps.events),
        host_buffer=bool(props.caps.host_buffer),
    )


@functools.cache
def _ggml() -> ctypes.CDLL:
    """libggml with the types of its device functions."""
    from llama_cpp._ggml import libggml

    ggml: ctypes.CDLL = libggml
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ggml_backend_reg_count": (size, []),
        "ggml_backend_reg_get": (pointer, [size]),
        "ggml_backend_reg_name": (ctypes.c_char_p, [pointer]),
        "ggml_backend_reg_by_name": (pointer, [ctypes.c_char_p]),
        "ggml_backend_reg_get_proc_address": (pointer, [pointer, ctypes.c_char_p]),
        "ggml_backend_reg_dev_count": (size, [pointer]),
        "ggml_backend_reg_dev_get": (pointer, [pointer, size]),
        "ggml_backend_dev_count": (size, []),
        "ggml_backend_dev_get": (pointer, [size]),
        "ggml_backend_dev_backend_reg": (pointer, [pointer]),
        "ggml_backend_dev_get_props": (None, [pointer, ctypes.POINTER(_Props)]),
        "ggml_backend_cpu_buffer_type": (pointer, []),
    }
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(ggml, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise UnsupportedError(f"this build of llama.cpp cannot list devices: {error}") from error
    return ggml
