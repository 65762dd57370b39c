"""What llama.cpp says that a model and its contexts take, by buffer: the oracle of our own arithmetic.

llama.cpp can go through a load without any weight or cache (`no_alloc`), as its own fitting does, and tell
what it would have allocated (`llama_get_memory_breakdown`). That function returns a std::map, which is read
here as libstdc++ and libc++ on x86-64 lay it out; elsewhere `Unreadable` is raised.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp

from codellama.devices.placement import CPU
from codellama.devices.plan import ModelPlan
from codellama.files.gguf_header import GGUFHeader, Value, ValueType, encode_header, tensor_offsets
from codellama.native import context as native_context
from codellama.native.library import library
from codellama.native.model import model_params
from codellama.native.settings import ContextSettings
from codellama.native.shared_library import libggml
from make_random_model import made_up

_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
_GGML = {
    "ggml_backend_buft_is_host": ctypes.c_bool,
    "ggml_backend_buft_get_device": ctypes.c_void_p,
    "ggml_backend_dev_name": ctypes.c_char_p,
}
_LOGITS = re.compile(r"output buffer size = +([0-9.]+) MiB")
_NODE = ctypes.c_uint64 * 8  # colour, parent, left, right; buffer type; weights, caches, scratch


class Unreadable(Exception):
    """This machine or this library lays the answer out in another way."""


def write_shaped(header: GGUFHeader, path: Path) -> Path:
    """A file with this header and holes for weights: of the full size, and almost without blocks on disk."""
    head = encode_header(header.values, header.tensors)
    end = tensor_offsets(len(head), (info.nbytes for info in header.tensors), 32)[-1]
    with path.open("wb") as file:
        file.write(head)
        file.truncate(end)
    return path


def with_vocabulary(header: GGUFHeader) -> GGUFHeader:
    """The header with a made-up vocabulary that can be used, so that the file can be loaded for real."""
    pieces = made_up(len(header.metadata["tokenizer.ggml.tokens"]))
    lists = {
        "tokens": (pieces.texts, ValueType.STRING),
        "scores": (pieces.scores, ValueType.FLOAT32),
        "token_type": (pieces.types, ValueType.INT32),
    }
    values = {
        f"tokenizer.ggml.{name}": Value(ValueType.ARRAY, items, kind)
        for name, (items, kind) in lists.items()
    }
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    numbers = {f"tokenizer.ggml.{k}": Value(ValueType.UINT32, v) for k, v in ids.items()}
    return replace(header, values={**header.values, **values, **numbers})


def allocations(path: Path, plan: ModelPlan, contexts: Sequence[ContextSettings]) -> dict[str, int]:
    """Bytes that llama.cpp would allocate on each device of `plan`, and as "CPU" in main memory."""
    library()
    params, _alive = model_params(plan.weights)
    params.no_alloc, params.load_mode = True, 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise RuntimeError(library().last_error())
    found: dict[str, int] = {}
    try:
        for index, settings in enumerate(contexts):
            for name, weights, caches, scratch in _context(model, settings):
                found[name] = found.get(name, 0) + (0 if index else weights) + caches + scratch
    finally:
        llama_cpp.llama_model_free(model)
    return found


def _context(model: Any, settings: ContextSettings) -> list[tuple[str, int, int, int]]:
    with _lines() as lines:
        context = llama_cpp.llama_init_from_model(model, native_context._params(settings))
    if not context:
        raise RuntimeError(library().last_error())
    try:
        rows = list(_breakdown(context))
    finally:
        llama_cpp.llama_free(context)
    # The logits that a context keeps are in the log alone.
    logits = next(float(found[1]) for found in map(_LOGITS.search, lines) if found)
    return [*rows, (CPU, 0, 0, round(logits * 2**20))]


@contextlib.contextmanager
def _lines() -> Iterator[list[str]]:
    """What llama.cpp logs meanwhile."""
    lines: list[str] = []
    log = library().log

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, level, above = Keeper(), log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = above


def _breakdown(context: Any) -> Iterator[tuple[str, int, int, int]]:
    """Device, and bytes of weights, caches and scratch there, for every type of buffer."""
    if platform.machine() != "x86_64":
        raise Unreadable(platform.machine())
    from llama_cpp.llama_cpp import _lib

    ggml = libggml()
    ask = getattr(_lib, _BREAKDOWN, None)
    if ask is None:
        raise Unreadable(_BREAKDOWN)
    for name, result in _GGML.items():
        function = getattr(ggml, name)
        function.argtypes, function.restype = [ctypes.c_void_p], result
    answer = ctypes.create_string_buffer(64)
    ask.argtypes, ask.restype = [ctypes.c_void_p, ctypes.c_void_p], None
    ask(ctypes.addressof(answer), context)
    root = (ctypes.c_uint64 * 8).from_buffer(answer)[2]
    for buffer, weights, caches, scratch in _nodes(root):
        device = ggml.ggml_backend_buft_get_device(buffer)
        host = ggml.ggml_backend_buft_is_host(buffer) or not device
        name = CPU if host else ggml.ggml_backend_dev_name(device).decode()
        yield name, weights, caches, scratch


def _nodes(address: int) -> Iterator[tuple[int, int, int, int]]:
    """The values of a tree of std::map."""
    if address:
        _, _, left, right, *value = _NODE.from_address(address)
        yield from _nodes(left)
        yield (value[0], value[1], value[2], value[3])
        yield from _nodes(right)
