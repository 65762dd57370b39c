"""What the name of a model means: a path, a file in a models folder, a published model, or `demo`.

The models folder is the one that CODELLAMA_MODELS names, or else `models` here and in the source
checkout. Published models are recognised by their headers, never by the names of their files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import CheckpointError, ModelLoadError
from codellama.variants import Variant, find, recognise

DEMO = "demo"
DEMO_TYPE = "Q4_K_M"
CHECKOUT = Path(__file__).resolve().parents[2]
"""The source checkout, when the package is installed in editable mode."""
DEMO_CHECKPOINT = CHECKOUT / "models" / "demo"
LIST = "`codellama models` lists what there is"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalModel:
    """A GGUF in a models folder; `variant` is None if it is not a published model."""

    path: Path
    variant: Variant | None
    nbytes: int


def resolve_model(name: str | os.PathLike[str], say: Callable[[str], None] = logger.info) -> Path:
    """The GGUF file that a model's name stands for.

    A published name may end in `:TYPE` to choose between files. `demo` is converted when it has to be,
    which `say` is told. Raises ModelLoadError, which says what to do, if there is no such file or more
    than one, and CheckpointError if there is no demo checkpoint.
    """
    path, name = Path(name), os.fspath(name)
    if path.is_file():
        return path
    if name == DEMO:
        return demo_gguf(say)
    base, _, type_name = name.partition(":")
    variant = find_variant(base)
    if variant is not None:
        return _published(variant, type_name)
    if path.is_dir():
        raise ModelLoadError(
            f"{name} is a folder, a .gguf file is needed; `codellama convert {name} -o FILE.gguf` "
            "makes one from a checkpoint"
        )
    files = [file for file in _files() if name in (file.name, file.stem)]
    if len(files) > 1:
        raise ModelLoadError(f"{name} is in {len(files)} folders, name one: {_list(files)}")
    if files:
        return files[0]
    raise ModelLoadError(f"{name}: no such file, and no published model has that name; {LIST}")


def find_variant(name: str) -> Variant | None:
    """The published model called `name`: 70b-instruct, CodeLlama-70b-Instruct or its repository."""
    short = name.lower().removeprefix("codellama/").removeprefix("codellama-").removesuffix("-hf")
    return find(short)


def local_models() -> list[LocalModel]:
    """The GGUFs in the models folders, by name; unreadable ones are left out with a warning."""
    models = [_read(path) for path in _files()]
    return [model for model in models if model is not None]


def models_folders() -> list[Path]:
    """The folders that are searched for models, without those that do not exist."""
    chosen = _chosen_folder()
    folders = [chosen] if chosen else [Path("models"), CHECKOUT / "models"]
    unique = {folder.resolve(): folder for folder in reversed(folders) if folder.is_dir()}
    return list(reversed(unique.values()))


def new_models_folder() -> Path:
    """The folder for models that are fetched, which need not exist."""
    return _chosen_folder() or Path("models")


def has_demo() -> bool:
    """Whether there is a demo checkpoint; only the source checkout has it."""
    return (DEMO_CHECKPOINT / "config.json").is_file()


def demo_gguf(say: Callable[[str], None] = logger.info) -> Path:
    """The demo model as a GGUF, converted first if the cache has none of this checkpoint.

    Raises CheckpointError if this is no source checkout, which alone has the checkpoint.
    """
    if not has_demo():
        raise CheckpointError(
            f"{DEMO_CHECKPOINT}: no demo checkpoint; it is part of the source checkout, from which "
            "`scripts/setup` installs"
        )
    from codellama.files.provenance import manifest_path  # with it comes llama.cpp

    folder = cache_folder() / "demo" / _checksum(DEMO_CHECKPOINT)
    path = folder / f"codellama-demo.{DEMO_TYPE}.gguf"
    if not path.is_file() or not manifest_path(path).is_file():
        say(f"Converting {DEMO_CHECKPOINT.name} to {DEMO_TYPE} ...")
        _convert_demo(path)
    return path


def cache_folder() -> Path:
    """This package's folder in the user's cache (XDG_CACHE_HOME)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "codellama-runtime"


def _chosen_folder() -> Path | None:
    chosen = os.environ.get("CODELLAMA_MODELS")
    return Path(chosen) if chosen else None


def _files() -> list[Path]:
    """The GGUFs in the models folders; of a split one the first file."""
    paths = [path for folder in models_folders() for path in sorted(folder.glob("*.gguf"))]
    if not paths:
        return []
    from codellama.files.split import is_later_part  # with it comes llama.cpp, which no list needs

    return [path for path in paths if not is_later_part(path)]


def _read(path: Path) -> LocalModel | None:
    from codellama.files.split import read_parts

    try:
        parts = read_parts(path)
    except ModelLoadError as error:
        logger.warning("left out: %s", error)
        return None
    nbytes = sum(part.path.stat().st_size for part in parts)
    return LocalModel(path, recognise(parts[0].metadata), nbytes)


def _published(variant: Variant, type_name: str) -> Path:
    files = [
        model.path
        for model in local_models()
        if model.variant == variant and type_name.lower() in model.path.name.lower()
    ]
    if len(files) == 1:
        return files[0]
    if files:
        raise ModelLoadError(
            f"{variant.name} has {len(files)} files, name one of them or add :TYPE: {_list(files)}"
        )
    folders = ", ".join(map(str, models_folders())) or f"{new_models_folder()} (no such folder)"
    what = f"{variant.name} of type {type_name}" if type_name else variant.name
    raise ModelLoadError(
        f"no file of {what} in {folders}; fetch it with `codellama pull {variant.name}`, or let "
        "CODELLAMA_MODELS name another folder"
    )


def _list(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))


def _convert_demo(path: Path) -> None:
    """Convert beside the place and move there, so that two demos at once do not meet."""
    from codellama.files.provenance import manifest_path
    from codellama.weights.convert import convert

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        convert(DEMO_CHECKPOINT, made, DEMO_TYPE)
        os.replace(manifest_path(made), manifest_path(path))
        os.replace(made, path)  # last: who finds it finds its manifest too


def _checksum(folder: Path) -> str:
    """A short hash of the names and contents of the files in `folder`."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            digest.update(file.name.encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
