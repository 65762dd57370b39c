"""The small files of a checkpoint, which nobody vouches for: JSON, templates, the model card.

A file is believed only if it is small, and JSON only if it says one thing to every reader: UTF-8, each
name once in its object, no NaN and no infinity, numbers of sane length, nested not too deep. So a hostile
file costs an error message and not memory or time, whoever parses it afterwards.
"""

from __future__ import annotations

import functools
import json
import math
import os
import reprlib
from pathlib import Path
from typing import Any

from codellama.errors import CheckpointError
from codellama.files.identify import LFS_POINTER, recognised

INDEX = "model.safetensors.index.json"
PICKLE_INDEX = "pytorch_model.bin.index.json"

SMALL_FILES = (
    "config.json",
    "quantize_config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "README.md",
    INDEX,
    PICKLE_INDEX,
)
"""What a conversion reads beside the weights: the first must be there, and one of the tokenizer's."""

MOST_BYTES = 8 * 2**20
"""Bytes of the largest small file; the largest of Code Llama's has less than two million."""

_MOST_VALUES = 2**19
_MOST_DIGITS = 100  # transformers writes 10**30 for "no limit"
_MOST_DEPTH = 64
_TEMPLATES = "additional_chat_templates"
_MOST_TEMPLATES = 16
_SHOWN = 80
_MOST_REASON = 300


def read_small(path: Path) -> bytes:
    """The bytes of a small file.

    Raises:
        CheckpointError: it cannot be read, or is larger than any such file.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(MOST_BYTES + 1) if size <= MOST_BYTES else b""
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if max(size, len(data)) > MOST_BYTES:
        raise CheckpointError(f"{path}: {size} bytes are absurdly many for such a file")
    if data.startswith(LFS_POINTER):
        raise recognised(path, CheckpointError) or CheckpointError(f"{path}: is a Git LFS pointer")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        CheckpointError: the file is missing, unreadable, too large or holds something else.
    """
    try:
        content = parse_json(read_small(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def check_small_files(folder: Path) -> None:
    """Check all small files in `folder`, for readers that are less strict.

    The model card is prose: whatever is wrong with it but its size is no error.

    Raises:
        CheckpointError: one of them is too large, or JSON that is not as it should be.
    """
    for name in SMALL_FILES:
        path = folder / name
        if path.is_file():
            if path.suffix == ".json":
                read_json(path)
            else:
                read_small(path)
    templates = sorted((folder / _TEMPLATES).glob("*.jinja"))
    if len(templates) > _MOST_TEMPLATES:
        raise CheckpointError(f"{folder / _TEMPLATES}: {len(templates)} templates are too many")
    for path in templates:
        read_small(path)


def parse_json(text: bytes) -> Any:
    """The value that `text` means to every reader.

    Raises:
        ValueError: it is no JSON, means different things to different readers, or is absurd.
    """
    # Every value but the first stands behind one of these, so memory is bounded before it is used.
    if sum(map(text.count, (b",", b":", b"[", b"{"))) > _MOST_VALUES:
        raise ValueError("it has too many values")
    try:
        content = _decoder().decode(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check_inside(content)
    return content


@functools.cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_constant
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        names = set()
        for name, _ in pairs:
            if name in names:
                raise ValueError(f"{shown(name)} appears twice in an object")
            names.add(name)
    return entries


def _int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{shown(digits)} is too large a number")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check_inside(content: Any) -> None:
    """Refuse what is nested too deep, and text that no encoding can write."""
    layer = [content]
    for _ in range(_MOST_DEPTH):
        inner: list[Any] = []
        for value in layer:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, dict):
                inner += value
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        if not inner:
            return
        layer = inner
    raise ValueError("it is nested too deep")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{shown(text)} has half of a surrogate pair") from None


def shown(value: object) -> str:
    """A value from a file for a message: one line of printable characters, cut where it is long."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}..."
    return reprlib.repr(value)


def plain(error: Exception) -> str:
    """What an error of another library says, for a message: as it is, if that is one short line."""
    text = str(error)
    return text if text.isprintable() and len(text) <= _MOST_REASON else shown(text)
