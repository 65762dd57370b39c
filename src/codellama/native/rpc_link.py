"""The door of a worker on another machine: whether llama.cpp's RPC server is there, and speaks our version.

llama.cpp's own client ends the process where nobody answers, and waits for ever where somebody else does.
So a worker is greeted here first, over a socket of our own (ggml-rpc.cpp: RPC_CMD_HELLO).
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from codellama.errors import InvalidRequestError

PROTOCOL = (7, 0)  # RPC_PROTO_MAJOR_VERSION and RPC_PROTO_MINOR_VERSION of ggml-rpc.h
PATIENCE_S = 4.0
_HELLO, _CAPABILITIES, _ANSWER_BYTES = 14, 24, 28
_REQUEST = struct.pack("<BQ", _HELLO, _CAPABILITIES) + bytes(_CAPABILITIES)


def greet(endpoint: str, patience_s: float = PATIENCE_S) -> float:
    """Seconds that the worker at `endpoint` (HOST:PORT) took to answer a greeting.

    Raises InvalidRequestError naming `rpc` if none answers in time, or one of another version.
    """
    host, port = parsed(endpoint)
    try:
        with socket.create_connection((host, port), patience_s) as connection:
            connection.settimeout(patience_s)
            began = time.perf_counter()
            connection.sendall(_REQUEST)
            answer = _read(connection, 8 + _ANSWER_BYTES)
            took = time.perf_counter() - began
    except OSError as error:
        raise _silent(endpoint, error) from error
    if len(answer) < 8 + _ANSWER_BYTES or struct.unpack("<Q", answer[:8]) != (_ANSWER_BYTES,):
        raise InvalidRequestError(
            "{param}: what answers at {endpoint} is no worker of this llama.cpp",
            "rpc",
            "start `codellama worker` of the same version there",
            endpoint=endpoint,
        )
    version = tuple(answer[8:10])
    if version[0] != PROTOCOL[0] or version[1] > PROTOCOL[1]:
        raise InvalidRequestError(
            "{param}: the worker at {endpoint} speaks version {theirs} of the protocol, this is {ours}",
            "rpc",
            "install the same version on both machines",
            endpoint=endpoint,
            theirs=".".join(map(str, version)),
            ours=".".join(map(str, PROTOCOL)),
        )
    return took


def answering(endpoints: Sequence[str]) -> tuple[str, ...]:
    """Those of `endpoints` at which a worker answers; all are asked at once."""

    def answers(endpoint: str) -> bool:
        try:
            greet(endpoint)
        except InvalidRequestError:
            return False
        return True

    if not endpoints:
        return ()
    with ThreadPoolExecutor(len(endpoints)) as pool:
        return tuple(
            one for one, yes in zip(endpoints, pool.map(answers, endpoints), strict=True) if yes
        )


def parsed(endpoint: str) -> tuple[str, int]:
    """Host and port. Raises InvalidRequestError for what llama.cpp cannot parse, IPv6 addresses among it."""
    host, colon, port = endpoint.partition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidRequestError(
            "{param}: {endpoint!r} is not HOST:PORT with a name or an IPv4 address",
            "rpc",
            endpoint=endpoint,
        )
    return host, int(port)


def _read(connection: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        piece = connection.recv(n - len(data))
        if not piece:
            break
        data += piece
    return data


def _silent(endpoint: str, error: OSError) -> InvalidRequestError:
    remedy = "start `codellama worker` there, and name it as HOST:PORT"
    if isinstance(error, TimeoutError):
        remedy += "; a worker serves one model at a time, and may be busy with another"
    return InvalidRequestError(
        "{param}: {endpoint} does not answer: {reason}",
        "rpc",
        remedy,
        endpoint=endpoint,
        reason=error.strerror or error,
    )
