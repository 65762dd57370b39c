"""A KV state on disk, so that a conversation goes on in another process without decoding it again.

The file is a magic number, the length of a JSON header, the header (whose the state is, its tokens, the
digest of the data) and the data as llama.cpp wrote it. All of it is checked before llama.cpp sees a byte; a
state of other weights, other settings or another llama.cpp is of no use and says so.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from codellama.engine.batch import KVState
from codellama.errors import InvalidRequestError
from codellama.files.small_files import MOST_BYTES, parse_json, plain

MAGIC = b"CLKV0002"
# Files that say of the model only what its header and its size are.
OLD_MAGIC = b"CLKV0001"


@dataclass(frozen=True)
class Owner:
    """What a KV state belongs to: digests of the model's weights, and of llama.cpp, settings and adapters."""

    weights: str
    settings: str


class StaleStateError(InvalidRequestError):
    """A KV state that cannot be used here; the conversation itself is not affected."""


def write_state(path: Path, owner: Owner, state: KVState) -> None:
    """Write `state`, which belongs to `owner`, to `path`."""
    assert state.data is not None, "only written states are saved"
    header = {
        "weights": owner.weights,
        "settings": owner.settings,
        "tokens": state.tokens,
        "chunks": state.chunks,
        "adapters": state.scales,
        "n_bytes": len(state.data),
        "sha256": hashlib.sha256(state.data).hexdigest(),
    }
    text = json.dumps(header).encode()
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(MAGIC + struct.pack("<Q", len(text)) + text)
            file.write(state.data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_state(path: Path, owner: Owner) -> KVState:
    """Read what `write_state` wrote. Raises StaleStateError with the reason if it is of no use."""
    try:
        with path.open("rb") as file:
            return _read(file, owner)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        if isinstance(error, StaleStateError):
            raise
        raise StaleStateError(
            "{path} cannot be read: {reason}", path=path, reason=plain(error)
        ) from error


def _read(file: BinaryIO, owner: Owner) -> KVState:
    size = os.fstat(file.fileno()).st_size
    magic = file.read(len(MAGIC))
    if magic == OLD_MAGIC:
        raise StaleStateError(
            "{path} is of an earlier version, which did not note whose weights it belongs to",
            path=file.name,
        )
    if magic != MAGIC:
        raise StaleStateError("{path} is not a saved KV state", path=file.name)
    (n_header,) = struct.unpack("<Q", file.read(8))
    if n_header > min(size, MOST_BYTES):
        raise StaleStateError("{path} is truncated", path=file.name)
    header = parse_json(file.read(n_header))
    _check_owner(header["weights"], header["settings"], owner, file.name)
    if header["n_bytes"] != size - file.tell():
        raise StaleStateError("{path} is truncated", path=file.name)
    data = bytearray(file.read())
    if hashlib.sha256(data).hexdigest() != header["sha256"]:
        raise StaleStateError("{path} is damaged", path=file.name)
    tokens, adapters, chunks = header["tokens"], header["adapters"], header["chunks"]
    if not isinstance(tokens, list) or not all(map(_is_token, tokens)):
        raise StaleStateError("{path} is damaged", path=file.name)
    if not isinstance(chunks, list) or not all(map(_is_token, chunks)):
        raise StaleStateError("{path} is damaged", path=file.name)
    if not isinstance(adapters, list) or not all(map(_is_scale, adapters)):
        raise StaleStateError("{path} is damaged", path=file.name)
    chunks = [end for end in chunks if end <= len(tokens)]
    return KVState(tokens, data, tuple(map(float, adapters)), tuple(chunks))


def _check_owner(weights: object, settings: object, owner: Owner, path: str) -> None:
    if weights != owner.weights:
        raise StaleStateError(
            "{path} belongs to another model, or to this one with other weights", path=path
        )
    if settings != owner.settings:
        raise StaleStateError(
            "{path} belongs to another llama.cpp, other KV settings or other adapters", path=path
        )


def _is_token(token: object) -> bool:
    return type(token) is int and 0 <= token < 2**31


def _is_scale(scale: object) -> bool:
    return type(scale) in (int, float) and math.isfinite(cast(float, scale))


def settings_digest(*settings: object) -> str:
    """SHA-256 of values that print in full."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()
