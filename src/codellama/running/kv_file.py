"""A KV state on disk, so that a conversation goes on in another process without decoding it again.

The file is a magic number, the length of a JSON header, the header (what the state belongs to, its
tokens, the digest of the data) and the data as llama.cpp wrote it. All of it is checked before llama.cpp
sees a byte; a state of another model, other settings or another llama.cpp is of no use and says so.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from pathlib import Path
from typing import BinaryIO, cast

from codellama.engine.batch import KVState
from codellama.errors import InvalidRequestError
from codellama.files.small_files import MOST_BYTES, parse_json, plain

MAGIC = b"CLKV0001"


class StaleStateError(InvalidRequestError):
    """A KV state that cannot be used here; the conversation itself is not affected."""


def write_state(path: Path, owner: str, state: KVState) -> None:
    """Write `state` to `path`; `owner` identifies the model and settings that it belongs to."""
    assert state.data is not None, "only written states are saved"
    header = {
        "owner": owner,
        "tokens": state.tokens,
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


def read_state(path: Path, owner: str) -> KVState:
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


def _read(file: BinaryIO, owner: str) -> KVState:
    size = os.fstat(file.fileno()).st_size
    if file.read(len(MAGIC)) != MAGIC:
        raise StaleStateError("{path} is not a saved KV state", path=file.name)
    (n_header,) = struct.unpack("<Q", file.read(8))
    if n_header > min(size, MOST_BYTES):
        raise StaleStateError("{path} is truncated", path=file.name)
    header = parse_json(file.read(n_header))
    if header["owner"] != owner:
        raise StaleStateError(
            "{path} belongs to another model, llama.cpp or KV settings", path=file.name
        )
    if header["n_bytes"] != size - file.tell():
        raise StaleStateError("{path} is truncated", path=file.name)
    data = bytearray(file.read())
    if hashlib.sha256(data).hexdigest() != header["sha256"]:
        raise StaleStateError("{path} is damaged", path=file.name)
    tokens, adapters = header["tokens"], header["adapters"]
    if not isinstance(tokens, list) or not all(map(_is_token, tokens)):
        raise StaleStateError("{path} is damaged", path=file.name)
    if not isinstance(adapters, list) or not all(map(_is_scale, adapters)):
        raise StaleStateError("{path} is damaged", path=file.name)
    return KVState(tokens, data, tuple(map(float, adapters)))


def _is_token(token: object) -> bool:
    return type(token) is int and 0 <= token < 2**31


def _is_scale(scale: object) -> bool:
    return type(scale) in (int, float) and math.isfinite(cast(float, scale))


def fingerprint(model: Path, header_bytes: int, *settings: object) -> str:
    """Identifies a model file by its header and size, together with `settings`."""
    digest = hashlib.sha256()
    with model.open("rb") as file:
        digest.update(file.read(header_bytes))
        digest.update(str(os.fstat(file.fileno()).st_size).encode())
    digest.update(repr(settings).encode())
    return digest.hexdigest()
