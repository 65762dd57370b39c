"""GGUFs that are split into several files, as llama.cpp's gguf-split does it.

The files are called `name-00001-of-00003.gguf`; the first one is the one to name, it has all metadata.
A model in a single file is one in one part.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from codellama.errors import ModelLoadError
from codellama.files.gguf_header import GGUFHeader, read_gguf_header
from codellama.files.gguf_schema import check_types
from codellama.files.small_files import shown

KEYS = ("split.no", "split.count", "split.tensors.count")

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_MOST_PARTS = 2**16


def part_paths(path: Path, n_parts: int) -> list[Path]:
    """The names of a GGUF in `n_parts` files; for one it is `path` itself."""
    if n_parts == 1:
        return [path]
    prefix = path.name.removesuffix(".gguf")
    return [path.with_name(_part_name(prefix, number, n_parts)) for number in range(n_parts)]


def _part_name(prefix: str, number: int, n_parts: int) -> str:
    return f"{prefix}-{number + 1:05}-of-{n_parts:05}.gguf"


def unsplit_name(name: str) -> str:
    """The name of a file without the numbers of a split."""
    found = _NAME.fullmatch(name)
    return f"{found[1]}.gguf" if found else name


def is_later_part(path: Path) -> bool:
    """Whether the name is that of a part which is not the first."""
    found = _NAME.fullmatch(path.name)
    return found is not None and int(found[2]) > 1


def read_model_header(path: str | os.PathLike[str]) -> GGUFHeader:
    """The header of a model, with the tensors of all its parts; offsets are those in their files.

    Raises:
        ModelLoadError: as `read_parts`.
    """
    parts = read_parts(path)
    tensors = [tensor for part in parts for tensor in part.tensors]
    return dataclasses.replace(parts[0], tensors=tensors)


def read_parts(path: str | os.PathLike[str]) -> list[GGUFHeader]:
    """The headers of all files of the model whose first (or only) file is `path`.

    Raises:
        ModelLoadError: one of them is missing, damaged, or no part of this model; or `path` is not
            the first.
    """
    path = Path(path)
    first = read_gguf_header(path)
    check_types(first)
    n_parts = _number(first, "split.count", 1)
    if n_parts <= 1:
        return [first]
    found = _NAME.fullmatch(path.name)
    number = _number(first, "split.no", 0)
    if number != 0:
        name = _part_name(found[1], 0, n_parts) if found else "the first"
        raise ModelLoadError(f"{path}: part {number + 1} of {n_parts} of a model: name {name}")
    if not found or path.name != _part_name(found[1], 0, n_parts):
        raise ModelLoadError(
            f"{path}: the first of {n_parts} parts of a model, whose names must end in "
            f"{_part_name('', 0, n_parts)} and so on: give them their names back"
        )
    rest = [
        _read_part(path.with_name(_part_name(found[1], number, n_parts)), number, n_parts)
        for number in range(1, n_parts)
    ]
    _check_tensors([first, *rest])
    return [first, *rest]


def _read_part(path: Path, number: int, n_parts: int) -> GGUFHeader:
    if not path.is_file():
        raise ModelLoadError(f"{path}: missing: the model is split into {n_parts} files")
    header = read_gguf_header(path)
    check_types(header)
    if (_number(header, "split.no", 0), _number(header, "split.count", 1)) != (number, n_parts):
        raise ModelLoadError(
            f"{path}: not part {number + 1} of {n_parts}, whatever its name says: fetch it again"
        )
    return header


def _check_tensors(parts: list[GGUFHeader]) -> None:
    seen: set[str] = set()
    for part in parts:
        for tensor in part.tensors:
            if tensor.name in seen:
                raise ModelLoadError(f"{part.path}: {tensor.name} is in another part too")
            seen.add(tensor.name)
    claimed = {_number(part, "split.tensors.count", len(seen)) for part in parts}
    if claimed != {len(seen)}:
        raise ModelLoadError(
            f"{parts[0].path}: the parts hold {len(seen)} tensors, not {max(claimed)}: they do "
            "not belong together"
        )


def _number(header: GGUFHeader, key: str, default: int) -> int:
    value = header.metadata.get(key, default)
    if type(value) is not int or not 0 <= value < (2**31 if "tensors" in key else _MOST_PARTS):
        raise ModelLoadError(f"{header.path}: damaged GGUF: {key} is {shown(value)}")
    return value
