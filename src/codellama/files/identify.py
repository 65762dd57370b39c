"""What a file or folder is that is not what was asked for, and what to do with it.

One table for every command. A row is recognised by the first bytes of a file or by the names in a folder,
as the tool that made it writes them; nothing else is read. `files.quantized` names what weights are
quantized with.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from codellama.errors import CheckpointError, ModelLoadError
from codellama.files.hub_cache import snapshots_in

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""What a pointer begins with (docs/spec.md of git-lfs)."""

_FIRST_BYTES = 512
_MOST_NAMES = 10_000
_LISTED = 3
_MOST_INSIDE = 100
_WEIGHTS = (".safetensors", ".bin")
_CACHED = "models--"  # of huggingface_hub: models--organisation--name/snapshots/commit

_E = TypeVar("_E", ModelLoadError, CheckpointError)


@dataclass(frozen=True)
class Facts:
    """What is known of a path: first bytes and size of a file, or the names in a folder."""

    path: Path
    size: int = 0
    head: bytes = b""
    names: tuple[str, ...] = ()

    def has(self, *names: str) -> bool:
        """Whether all these are in the folder."""
        return set(names) <= set(self.names)

    def ending(self, *endings: str) -> list[str]:
        """The names in the folder that end so."""
        return [name for name in self.names if name.endswith(endings)]


@dataclass(frozen=True)
class Row:
    """A kind of thing: how it is recognised, what it is, and what to do.

    In the texts `{path}` is its path, `{folder}` the one it lies in, and `{detail}` what `detail` says.
    """

    kind: str
    matches: Callable[[Facts], bool]
    what: str
    remedy: str
    detail: Callable[[Facts], str] = lambda facts: ""

    def error(self, facts: Facts, kind: type[_E]) -> _E:
        """What it is and what to do, as an error; settings in the remedy are `{{lora}}` and the like."""
        values = {"path": facts.path, "folder": facts.path.parent, "detail": self.detail(facts)}
        plain = {
            name: str(value).replace("{", "{{").replace("}", "}}") for name, value in values.items()
        }
        return kind(f"{facts.path}: {self.what}", self.remedy.format_map(plain))


def identify(path: str | os.PathLike[str]) -> tuple[Row, Facts] | None:
    """The row of the thing at `path`; None if there is none, or nothing can be read there."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            facts, rows = _folder(path), FOLDERS
        elif stat.S_ISREG(mode):
            facts, rows = _file(path), FILES
        else:
            return None
    except OSError:
        return None
    row = next((row for row in rows if row.matches(facts)), None)
    return None if row is None else (row, facts)


def recognised(path: str | os.PathLike[str], kind: type[_E]) -> _E | None:
    """An error that says what the thing at `path` is and what to do with it; None if nothing is known."""
    found = identify(path)
    return None if found is None else found[0].error(found[1], kind)


def by_metadata(path: Path, metadata: Mapping[str, Any]) -> ModelLoadError | None:
    """An error for a GGUF that says that it is no model; None if it does not."""
    row = _GGUF_TYPES.get(str(metadata.get("general.type")))
    return None if row is None else row.error(Facts(path), ModelLoadError)


def _file(path: Path) -> Facts:
    with path.open("rb") as file:
        return Facts(path, os.fstat(file.fileno()).st_size, file.read(_FIRST_BYTES))


def _folder(path: Path) -> Facts:
    names: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) >= _MOST_NAMES:
                break
    return Facts(path, names=tuple(sorted(names)))


def _begins(*heads: bytes) -> Callable[[Facts], bool]:
    return lambda facts: facts.head.startswith(heads)


def _is_page(facts: Facts) -> bool:
    return facts.head.lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _is_safetensors(facts: Facts) -> bool:
    length = int.from_bytes(facts.head[:8], "little")
    return facts.head[8:9] == b"{" and 2 <= length <= facts.size - 8


def _is_pickle(facts: Facts) -> bool:
    """torch.save's two formats: a zip archive of data.pkl and tensors, and bare pickles before 1.6."""
    return facts.head.startswith(b"\x80\x02") or (
        facts.head.startswith(b"PK\x03\x04") and b"/data.pkl" in facts.head
    )


def _is_adapter_weights(facts: Facts) -> bool:
    name = facts.path.name
    return name.startswith("adapter_model.") and (_is_safetensors(facts) or _is_pickle(facts))


def _is_adapter_alone(facts: Facts) -> bool:
    """A PEFT folder, and no whole model with the adapter beside it."""
    whole = any(name.startswith(("model", "pytorch_model")) for name in facts.ending(*_WEIGHTS))
    return facts.has("adapter_config.json") and not whole


def _version(facts: Facts) -> int:
    return int.from_bytes(facts.head[4:8], "little") if facts.head.startswith(b"GGUF") else 0


def _listed(names: Sequence[str]) -> str:
    """A few names for a message: those that are printable."""
    shown = [name for name in names if name.isprintable()]
    more = ", ..." if len(shown) > _LISTED else ""
    return ", ".join(shown[:_LISTED]) + more


def _subfolders(facts: Facts) -> list[Path]:
    """The checkpoints right inside a folder that is none itself."""
    paths = [facts.path / name for name in facts.names[:_MOST_INSIDE] if name.isprintable()]
    return [path for path in paths if (path / "config.json").is_file()]


def _snapshot(facts: Facts) -> str:
    """The snapshot of a repository in the hub's cache that its name would mean."""
    found = [entry for entry in snapshots_in(facts.path) if entry.name.isprintable()]
    if not found:
        return f"{facts.path / 'snapshots'} has none: download it again"
    return f"name {found[0]}"


def _repositories(facts: Facts) -> str:
    names = [name for name in facts.names if name.startswith(_CACHED)]
    return _listed([f"{name}/snapshots/..." for name in names])


FILES: tuple[Row, ...] = (
    Row(
        "git-lfs",
        _begins(LFS_POINTER),
        "it is a Git LFS pointer, the file itself was not downloaded",
        "run `git lfs pull` in {folder}",
    ),
    Row(
        "empty",
        lambda facts: facts.size == 0,
        "it is empty",
        "download it again",
    ),
    Row(
        "unfinished",
        lambda facts: len(facts.head) >= 64 and not any(facts.head),
        "it begins with zeros, as an unfinished download does",
        "let the download end, or download it again",
    ),
    Row(
        "web page",
        _is_page,
        "it is a web page and not the file",
        "download the file itself; on the hub its address has /resolve/ where the page's has /blob/",
    ),
    Row(
        "big-endian",
        lambda facts: _version(facts) > 0xFFFF,
        "it is a big-endian GGUF",
        "turn a copy of it round with `gguf-convert-endian {path} little`, of the gguf package",
    ),
    Row(
        "gguf-1",
        lambda facts: _version(facts) == 1,
        "it is a GGUF of version 1, which llama.cpp does not read any more",
        "take a newer file, or convert the checkpoint again",
    ),
    Row(
        "ggml",
        _begins(b"lmgg", b"fmgg", b"tjgg", b"algg"),
        "it is of a format before GGUF, which llama.cpp has not read since 2023",
        "take a newer file, or convert the checkpoint again",
    ),
    Row(
        "adapter weights",
        _is_adapter_weights,
        "these are the weights of a PEFT adapter",
        "name the folder they lie in, {folder}",
    ),
    Row(
        "safetensors",
        _is_safetensors,
        "it is a safetensors file",
        "`codellama convert {folder} -o FILE.gguf` makes a GGUF of the checkpoint it belongs to",
    ),
    Row(
        "pickle",
        _is_pickle,
        "it is a PyTorch file",
        "`codellama convert {folder} -o FILE.gguf` makes a GGUF of the checkpoint it belongs to",
    ),
)
"""Files, by their first bytes."""

_GGUF_TYPES: Mapping[str, Row] = {
    "adapter": Row(
        "adapter",
        lambda facts: True,
        "it is a LoRA adapter, not a model",
        "load the model it was trained on, and name the adapter in {{lora}}",
    ),
    "imatrix": Row(
        "imatrix",
        lambda facts: True,
        "it is an importance matrix, not a model",
        "name it in {{imatrix}} where a model is quantized",
    ),
}
"""GGUFs, by what their `general.type` says."""

FOLDERS: tuple[Row, ...] = (
    Row(
        "nothing",
        lambda facts: not facts.names,
        "it is an empty folder",
        "name the file of a model, or download it again",
    ),
    Row(
        "peft",
        _is_adapter_alone,
        "it is a PEFT adapter, not a model",
        "load the model it was trained on, and name the adapter in {{lora}}",
    ),
    Row(
        "checkpoint",
        lambda facts: facts.has("config.json"),
        "it is a checkpoint folder",
        "`codellama convert {path} -o FILE.gguf` makes a GGUF of it",
    ),
    Row(
        "hub repository",
        lambda facts: facts.path.name.startswith(_CACHED) or facts.has("snapshots", "refs"),
        "it is a repository in the cache of the hub, whose files lie in a snapshot",
        "{detail}",
        _snapshot,
    ),
    Row(
        "hub cache",
        lambda facts: any(name.startswith(_CACHED) for name in facts.names),
        "it is the cache of the hub",
        "name a snapshot of one repository in it: {detail}",
        _repositories,
    ),
    Row(
        "meta",
        lambda facts: facts.has("params.json") and bool(facts.ending(".pth")),
        "it is Meta's own download (params.json, consolidated.*.pth)",
        "`codellama convert {path} -o FILE.gguf` makes a GGUF of it",
    ),
    Row(
        "ggufs",
        lambda facts: bool(facts.ending(".gguf")),
        "it is a folder with GGUF files",
        "name one of them: {detail}",
        lambda facts: _listed(facts.ending(".gguf")),
    ),
    Row(
        "weights alone",
        lambda facts: bool(facts.ending(*_WEIGHTS)),
        "it has weights, but no config.json",
        "download the other files of the repository too",
    ),
    Row(
        "nested",
        lambda facts: len(_subfolders(facts)) == 1,
        "there is no config.json in it",
        "name the folder inside it, {detail}",
        lambda facts: str(_subfolders(facts)[0]),
    ),
)
"""Folders, by the names in them."""
