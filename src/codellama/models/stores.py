"""Models that other programs have put on this machine: the hub's cache, Ollama, LM Studio, llama.cpp.

Only names and folders are believed; what is in a file is checked when it is loaded, as with any other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import CheckpointError, ModelLoadError
from codellama.files.hub_cache import cached_repositories, snapshots
from codellama.models.hub_name import HubName

OLLAMA_PREFIX = "ollama:"
HUB, OLLAMA, LM_STUDIO, LLAMA_CPP = "Hugging Face cache", "Ollama", "LM Studio", "llama.cpp"

_MODEL_LAYER = "application/vnd.ollama.image.model"
_ADAPTER_LAYER = "application/vnd.ollama.image.adapter"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_OLLAMA_PART = re.compile(r"[\w-][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class StoredModel:
    """A GGUF of another program: what commands call it, where it is, and whose it is."""

    name: str
    path: Path
    store: str


def stored_models() -> list[StoredModel]:
    """All GGUFs in the stores that exist, by store and name; of a split one the first file."""
    found = [*_hub_cache(), *_ollama(), *_lm_studio(), *_llama_cpp()]
    return sorted(found, key=lambda model: (model.store, model.name))


def stored_of(name: HubName) -> list[StoredModel]:
    """The files of a repository that the hub's cache or LM Studio has and that the tag means."""
    return [
        model
        for model in (*_hub_cache(name.repo), *_lm_studio(name.repo))
        if name.means(model.path.name)
    ]


def ollama_model(name: str) -> Path:
    """The file of an Ollama model, `ollama:NAME[:TAG]`, through its manifest.

    Raises ModelLoadError, which says what to do, if Ollama has no such model here, or one of several parts.
    """
    parts = _ollama_parts(name.removeprefix(OLLAMA_PREFIX))
    if parts is None:
        raise ModelLoadError(f"{name}: Ollama's names look like ollama:codellama:70b-instruct")
    *_, model, tag = parts
    for store in _ollama_stores():
        manifest = store.joinpath("manifests", *parts)
        if manifest.is_file():
            return _ollama_file(store, manifest)
    raise ModelLoadError(
        f"{name}: Ollama has no such model here; `ollama pull {model}:{tag}` fetches it, and "
        "`codellama models` lists what there is"
    )


def _ollama_parts(name: str) -> list[str] | None:
    """The folders and the file of a model's manifest; None if it is no name."""
    path, _, tag = name.partition(":")
    parts = path.split("/")
    if len(parts) == 1:
        parts.insert(0, "library")
    if len(parts) == 2:
        parts.insert(0, "registry.ollama.ai")
    parts.append(tag or "latest")
    return parts if len(parts) == 4 and all(map(_OLLAMA_PART.fullmatch, parts)) else None


def _ollama_file(store: Path, manifest: Path) -> Path:
    from codellama.files.small_files import read_json  # with it comes llama.cpp

    try:
        layers = read_json(manifest).get("layers")
    except CheckpointError as error:
        raise ModelLoadError(str(error)) from error
    listed = layers if isinstance(layers, list) else []
    kinds: list[Any] = [layer for layer in listed if isinstance(layer, dict)]
    files = [layer for layer in kinds if layer.get("mediaType") == _MODEL_LAYER]
    digest = _DIGEST.fullmatch(str(files[0].get("digest"))) if len(files) == 1 else None
    if digest is None:
        raise ModelLoadError(f"{manifest}: it names {len(files)} files of a model, not one")
    if any(layer.get("mediaType") == _ADAPTER_LAYER for layer in kinds):
        raise ModelLoadError(f"{manifest}: the model has an adapter, which would be left out")
    path = store / "blobs" / f"sha256-{digest[1]}"
    if not path.is_file():
        raise ModelLoadError(f"{path}: missing: let Ollama pull the model again")
    return path


# -- the stores -----------------------------------------------------------------------------------


def _hub_cache(repo: str | None = None) -> Iterator[StoredModel]:
    for known in [repo] if repo else cached_repositories():
        seen: set[str] = set()
        for snapshot in snapshots(known):
            for path in sorted(snapshot.rglob("*.gguf")):
                if path.is_file() and _first(path) and path.name not in seen:
                    seen.add(path.name)
                    yield StoredModel(f"{known}:{path.name}", path, HUB)


def _ollama() -> Iterator[StoredModel]:
    for store in _ollama_stores():
        root = store / "manifests"
        for manifest in sorted(path for path in root.glob("*/*/*/*") if path.is_file()):
            host, user, model, tag = manifest.relative_to(root).parts
            name = f"{model}:{tag}"
            if user != "library":
                name = f"{user}/{name}"
            if host != "registry.ollama.ai":
                name = f"{host}/{user}/{model}:{tag}"
            try:
                yield StoredModel(OLLAMA_PREFIX + name, _ollama_file(store, manifest), OLLAMA)
            except ModelLoadError:
                continue  # said when it is asked for


def _ollama_stores() -> list[Path]:
    named = os.environ.get("OLLAMA_MODELS")
    homes = [Path.home(), Path("/usr/share/ollama")]  # the latter is that of its service on Linux
    return [Path(named)] if named else [home / ".ollama" / "models" for home in homes]


def _lm_studio(repo: str | None = None) -> Iterator[StoredModel]:
    for folder in (Path.home() / ".lmstudio" / "models", _cache() / "lm-studio" / "models"):
        for path in sorted(folder.glob(f"{repo or '*/*'}/*.gguf")):
            if _first(path):
                owner, name = path.parts[-3:-1]
                yield StoredModel(f"{owner}/{name}:{path.name}", path, LM_STUDIO)


def _llama_cpp() -> Iterator[StoredModel]:
    """Where llama.cpp put models before it took the hub's cache, or what LLAMA_CACHE names."""
    folders = [Path(named)] if (named := os.environ.get("LLAMA_CACHE")) else []
    for folder in (*folders, _cache() / "llama.cpp"):
        for path in sorted(folder.glob("*.gguf")):
            if _first(path):
                yield StoredModel(str(path), path, LLAMA_CPP)


def _first(path: Path) -> bool:
    from codellama.files.split import is_later_part

    return not is_later_part(path)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
