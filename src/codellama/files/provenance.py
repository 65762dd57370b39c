"""Where a file comes from: keys in its metadata, and a manifest beside it with the hashes of its bytes.

The keys begin with `codellama.` and stand last, so that what other programs read is not touched. Nothing
in either depends on the hour or the folder: the same source and recipe give the same bytes. Only the
manifest depends on the machine, in one line: whose quantizers made each type.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import ModelLoadError
from codellama.files.gguf_header import Value, ValueType
from codellama.files.small_files import MOST_BYTES, parse_json, plain, shown
from codellama.files.split import unsplit_name
from codellama.native.ggml import library_version
from codellama.params import Progress
from codellama.variants import recognise

PREFIX = "codellama."
SOURCE, REVISION, FILES = "codellama.source", "codellama.source.revision", "codellama.source.files"
MERGED = "codellama.source.merged"
"""Adapters that were merged into the weights: digests of settings and weights, name and scale."""

_FORMAT = "codellama manifest"
_VERSION = 1
_PIECE = 2**22


def published_name(metadata: Mapping[str, Any]) -> str | None:
    """The name under which a GGUF's model was published, if it is that model and says so; else None.

    Shape and vocabulary are not enough: a fine-tune has those of its base. So the name that the converter
    wrote must be the repository's, however it is spelled, and no adapter may be merged in.
    """
    variant = recognise(metadata)
    if variant is None or metadata.get(MERGED):
        return None
    words = re.findall(r"[a-z0-9]+", str(metadata.get("general.name", "")).lower())
    if words[:2] == ["codellama"] * 2:  # the organisation
        del words[0]
    published = variant.published_name.lower().split("-")
    return variant.published_name if words in (published, published[:-1]) else None


def source_keys(
    name: str, revision: str = "", hashes: Mapping[str, str] | None = None
) -> dict[str, Value]:
    """Keys that say which weights these are; `hashes` is SHA-256 by the name of the weight file."""
    keys = {SOURCE: Value(ValueType.STRING, name)}
    if revision:
        keys[REVISION] = Value(ValueType.STRING, revision)
    if hashes:
        lines = [f"{digest}  {file}" for file, digest in sorted(hashes.items())]
        keys[FILES] = Value(ValueType.ARRAY, lines, ValueType.STRING)
    return keys


def recipe_keys(type_name: str, options: str) -> dict[str, Value]:
    """Keys that say what was done with them, and by which versions."""
    version = importlib.metadata.version("codellama-runtime")
    texts = {
        "codellama.recipe": type_name if options == "none" else f"{type_name}; {options}",
        "codellama.converter": f"codellama-runtime {version}",
        "codellama.quantizer": library_version(),
    }
    return {key: Value(ValueType.STRING, text) for key, text in texts.items()}


def manifest_path(path: Path) -> Path:
    """Where the manifest of the GGUF `path` lies, of a split one that of all its files."""
    return path.with_name(f"{unsplit_name(path.name)}.manifest.json")


def manifest(
    files: Mapping[str, Path],
    provenance: Mapping[str, Any],
    hashes: Mapping[Path, str] | None = None,
) -> bytes:
    """The manifest of `files` (name to where they are now).

    Their SHA-256 are in `hashes`; without it they are read here.
    """
    known = {path: sha256(path) for path in files.values()} if hashes is None else hashes
    rows = {name: (path.stat().st_size, known[path]) for name, path in files.items()}
    return manifest_of(rows, provenance)


def manifest_of(rows: Mapping[str, tuple[int, str]], provenance: Mapping[str, Any]) -> bytes:
    """The manifest of files whose bytes and SHA-256 are known, by name."""
    files = [{"name": n, "bytes": size, "sha256": digest} for n, (size, digest) in rows.items()]
    return json.dumps({_FORMAT: _VERSION, **provenance, "files": files}, indent=2).encode() + b"\n"


def manifest_source(path: Path) -> str | None:
    """The repository or folder that the GGUF `path` was made of or fetched from, if its manifest says."""
    try:
        with manifest_path(path).open("rb") as file:
            document = parse_json(file.read(MOST_BYTES + 1)[:MOST_BYTES])
    except (OSError, ValueError):
        return None
    source = document.get("source") if isinstance(document, dict) else None
    return source if isinstance(source, str) else None


def sha256(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file; `advance` gets the bytes of each piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            if advance:
                advance(len(piece))
    return digest.hexdigest()


@dataclass(frozen=True)
class ListedFile:
    """A file as a manifest has it."""

    path: Path
    nbytes: int
    sha256: str


def read_manifest(path: Path) -> list[ListedFile]:
    """The files that the manifest of the GGUF `path` lists.

    Raises:
        ModelLoadError: there is none, or it is damaged.
    """
    place = manifest_path(path)
    try:
        with place.open("rb") as file:
            document = parse_json(file.read(MOST_BYTES + 1)[:MOST_BYTES])
        rows = document["files"]
        if document[_FORMAT] != _VERSION or not rows:
            raise ValueError("of an unknown version")
        return [_listed(place, row) for row in rows]
    except FileNotFoundError:
        raise ModelLoadError(
            f"{place}: missing: only files that this program has written can be verified"
        ) from None
    except OSError as error:
        raise ModelLoadError(f"{place}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"{place}: damaged: {plain(error)}") from error


def _listed(place: Path, row: Any) -> ListedFile:
    name, nbytes, digest = row["name"], row["bytes"], row["sha256"]
    if not isinstance(name, str) or Path(name).name != name or not name.isprintable():
        raise ValueError(f"{shown(name)} is no name of a file beside it")
    if type(nbytes) is not int or not isinstance(digest, str):
        raise ValueError(f"the entry of {shown(name)}")
    return ListedFile(place.with_name(name), nbytes, digest)


def verify(path: Path, progress: Progress | None = None) -> list[ListedFile]:
    """Read all files of the GGUF `path` again and compare with its manifest; returns them.

    Raises:
        ModelLoadError: a file is missing or its bytes have changed; there is no manifest.
    """
    listed = read_manifest(path)
    _check_sizes(path, listed)
    done, total = 0, sum(file.nbytes for file in listed)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    for file in listed:
        if sha256(file.path, advance) != file.sha256:
            raise ModelLoadError(
                f"{file.path}: its bytes are not those that were written: make or fetch it again"
            )
    return listed


def _check_sizes(path: Path, listed: Sequence[ListedFile]) -> None:
    if path not in [file.path for file in listed]:
        raise ModelLoadError(f"{path}: {manifest_path(path).name} does not list it")
    for file in listed:
        if not file.path.is_file():
            raise ModelLoadError(f"{file.path}: missing")
        if file.path.stat().st_size != file.nbytes:
            raise ModelLoadError(
                f"{file.path}: {file.path.stat().st_size} bytes, not {file.nbytes}: make or fetch "
                "it again"
            )
