"""What an `LLM` and its engine's process say to each other: records over the two pipes between them.

A record is a tuple whose first item says what it is. Both ends are the same program and nobody else can write
into the pipes, so records are pickled.

To the process: the `Start`; then ("ask", key, Ask), ("embed", key, token lists, pooling, norm), ("call", key,
name of a function, its arguments) and ("cancel", key). Back: ("progress", bytes, of bytes), ("log", logger,
level, text), ("ready", Opened) or ("failed", error); then ("result", key, value) or ("error", key, error) for
each key, and ("deltas", what a step has brought).
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from codellama.devices.plan import LoadPlan
from codellama.engine.request import Delta
from codellama.params import ModelConfig
from codellama.running.adapters import Adapter

Record = tuple[Any, ...]
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Start:
    """The first record: what to load. `levels` are those of loggers, `switch_s` Python's switch interval."""

    path: Path
    config: ModelConfig
    levels: Mapping[str, int]
    switch_s: float


@dataclass(frozen=True)
class Opened:
    """What has been loaded."""

    plan: LoadPlan
    adapters: tuple[Adapter, ...]


def write_record(file: BinaryIO, record: object) -> None:
    """Write one record; OSError or ValueError if nobody reads any more."""
    data = pickle.dumps(record, pickle.HIGHEST_PROTOCOL)
    file.write(_LENGTH.pack(len(data)) + data)
    file.flush()


def read_record(file: BinaryIO) -> Any:
    """The next record; None at the end, also at one in the middle of a record."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    data = file.read(size)
    return pickle.loads(data) if len(data) == size else None


def packed(delta: Delta) -> tuple[Any, ...]:
    """A delta as a tuple, without the fields behind the last one that says something; `Delta(*it)` is it."""
    plain = delta.finish_reason is None and delta.usage is None and delta.error is None
    if not plain or delta.processed is not None:
        return tuple(delta)
    return tuple(delta[:3]) if delta.logprobs else tuple(delta[:2])
