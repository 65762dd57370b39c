"""ggml's backends and their devices, which llama_cpp does not bind: what is compiled in, what is there.

Devices of this machine come from ggml's registry. Those of another one come from `rpc_devices`, and stay out
of the registry: whoever wants layers on them names them when a model is loaded.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.native.rpc_link import greet
from codellama.native.shared_library import libggml

CPU, RPC = "CPU", "RPC"
_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel", 4: "meta"}  # ggml_backend_dev_type


@dataclass(frozen=True)
class Device:
    """A device that llama.cpp can put layers on; memory in bytes, `kind` cpu, gpu, igpu or accel.

    `backend` is ggml's name of what drives it, `endpoint` the host and port of a device on another machine.
    `bandwidth` is that of its memory in bytes a second, 0 where nobody knows it.

    `pipelines` says that it can work on one part of a prompt while the next device works on the part before,
    for which llama.cpp then keeps four copies of what goes in. With `host_buffer` it borrows the CPU's
    weights for prompts, so llama.cpp leaves them as they are and rearranges none.

    `latency` are the seconds that the way to another machine and back takes, `network` the bytes a second
    that pass it; 0 where nobody has measured it.
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
    latency: float = 0.0
    network: float = 0.0


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
    return [device_at(handle) for handle in device_pointers()]


def offload_devices() -> list[Device]:
    """The devices of this machine that llama.cpp puts layers on, in its order: as it chooses by itself,
    a GPU that two backends see counts once, and integrated ones only count where there is no other."""
    found = {"gpu": [], "igpu": []}  # type: dict[str, list[tuple[Device, str]]]
    for handle in device_pointers():
        device, bus = device_at(handle), _props(handle).device_id or b""
        known = {other for _, other in found.get(device.kind, []) if other}
        if device.kind in found and bus.decode() not in known:
            found[device.kind].append((device, bus.decode()))
    return [device for device, _ in found["gpu"] or found["igpu"]]


def rpc_devices(endpoint: str) -> list[Device]:
    """The devices that llama.cpp's RPC server at `endpoint`, a HOST:PORT, lends.

    Raises UnsupportedError if this build has no RPC backend, InvalidRequestError if nobody listens there.
    """
    return [device_at(handle, endpoint) for handle in _rpc_handles(endpoint)]


def device_handles(wanted: tuple[Device, ...]) -> list[int]:
    """ggml's pointers of these devices, in the same order. Raises UnsupportedError for one that is gone."""
    here = {_props(handle).name.decode(): handle for handle in device_pointers()}
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


@functools.cache
def _rpc_handles(endpoint: str) -> tuple[int, ...]:
    add = rpc_function(
        "ggml_backend_rpc_add_server", ctypes.c_void_p, [ctypes.c_char_p]
    )  # it ends the process where nobody listens
    greet(endpoint)
    registry = add(endpoint.encode())
    if not registry:
        raise InvalidRequestError("{param}: {endpoint} lends no device", "rpc", endpoint=endpoint)
    lib = _ggml()
    count = range(lib.ggml_backend_reg_dev_count(registry))
    return tuple(lib.ggml_backend_reg_dev_get(registry, index) for index in count)


def rpc_function(name: str, result: Any, arguments: list[Any]) -> Any:
    """A function of the RPC backend. Raises UnsupportedError if this build has none."""
    lib = _ggml()
    registry = lib.ggml_backend_reg_by_name(RPC.encode())
    address = registry and lib.ggml_backend_reg_get_proc_address(registry, name.encode())
    if not address:
        raise UnsupportedError(
            "this llama.cpp was built without its RPC backend", "run scripts/setup", "rpc"
        )
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def device_pointers() -> Iterator[int]:
    """ggml's pointers of this machine's devices, in its order."""
    lib = _ggml()
    return map(lib.ggml_backend_dev_get, range(lib.ggml_backend_dev_count()))


def _props(handle: int) -> _Props:
    props = _Props()
    _ggml().ggml_backend_dev_get_props(handle, ctypes.byref(props))
    return props


def device_at(handle: int, endpoint: str = "") -> Device:
    """The device that ggml's pointer means."""
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
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    return ggml_functions(
        {
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
    )


def ggml_functions(signatures: Mapping[str, tuple[Any, list[Any]]]) -> ctypes.CDLL:
    """libggml, in which these functions have results and arguments of these types.

    Raises UnsupportedError if this build lacks one.
    """
    ggml = libggml()
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(ggml, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise UnsupportedError(f"this build of llama.cpp cannot use devices: {error}") from error
    return ggml
