"""What MODEL means on the command line: a path, a published name with a local file, or `demo`.

Local files are the GGUFs in the folder named by CODELLAMA_MODELS, or else in `models/` here and in
the source checkout. They are recognised by their headers, never by their names.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cli.options import model_config
from codellama.errors import ModelLoadError
from codellama.variants import Variant, find, recognise

if TYPE_CHECKING:
    from codellama.llm import LLM

DEMO = "demo"
CHECKOUT = Path(__file__).resolve().parents[3]
"""The source checkout, when the package is installed in editable mode."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalModel:
    """A GGUF in a models folder; `variant` is None if it is not a published model."""

    path: Path
    variant: Variant | None
    nbytes: int


def open_model(name: str, options: Mapping[str, Any]) -> LLM:
    """Load what MODEL stands for, for one request at a time; `options` are those of the command."""
    from codellama.cli.outputs import progress_bar

    config = model_config(options, n_seq_max=1)
    path = resolve_model(name)
    from codellama.llm import LLM

    with progress_bar(f"loading {name}") as progress:
        return LLM(path, progress=progress, **config)


def resolve_model(name: str) -> Path:
    """The GGUF file that MODEL stands for; the demo model is converted when it has to be.

    A published name may end in `:TYPE` to choose between files. Raises ModelLoadError, which says
    what to do, if there is no such file or more than one.
    """
    path = Path(name)
    if path.is_file():
        return path
    if name == DEMO:
        from codellama.cli.demo import demo_gguf

        return demo_gguf()
    base, _, type_name = name.partition(":")
    variant = find_variant(base)
    if variant is not None:
        return _local_file(variant, type_name)
    if path.is_dir():
        raise ModelLoadError(
            f"{name} is a folder, a .gguf file is needed; `codellama convert {name} -o FILE.gguf` "
            "makes one from a checkpoint"
        )
    raise ModelLoadError(
        f"{name}: no such file, and no published model has that name; `codellama models` lists them"
    )


def find_variant(name: str) -> Variant | None:
    """The published model called `name`: 70b-instruct, CodeLlama-70b-Instruct or its repository."""
    short = name.lower().removeprefix("codellama/").removeprefix("codellama-").removesuffix("-hf")
    return find(short)


def local_models() -> list[LocalModel]:
    """The GGUFs in the models folders, by name; unreadable ones are left out with a warning."""
    found = []
    for folder in models_folders():
        for path in sorted(folder.glob("*.gguf")):
            model = _read(path)
            if model is not None:
                found.append(model)
    return found


def models_folders() -> list[Path]:
    """The folders that are searched for models, without those that do not exist."""
    chosen = os.environ.get("CODELLAMA_MODELS")
    folders = [Path(chosen)] if chosen else [Path("models"), CHECKOUT / "models"]
    unique = {folder.resolve(): folder for folder in reversed(folders) if folder.is_dir()}
    return list(reversed(unique.values()))


def _read(path: Path) -> LocalModel | None:
    from codellama.files.split import is_later_part, read_parts

    if is_later_part(path):
        return None
    try:
        parts = read_parts(path)
    except ModelLoadError as error:
        logger.warning("left out: %s", error)
        return None
    nbytes = sum(part.path.stat().st_size for part in parts)
    return LocalModel(path, recognise(parts[0].metadata), nbytes)


def _local_file(variant: Variant, type_name: str) -> Path:
    files = [
        model.path
        for model in local_models()
        if model.variant == variant and type_name.lower() in model.path.name.lower()
    ]
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(str(path) for path in files)
        raise ModelLoadError(
            f"{variant.name} has {len(files)} files, name one of them or add :TYPE: {names}"
        )
    folders = ", ".join(str(folder) for folder in models_folders()) or "models (no such folder)"
    what = f"{variant.name} of type {type_name}" if type_name else variant.name
    raise ModelLoadError(
        f"no file of {what} in {folders}; make one with `codellama convert {variant.repo} "
        f"-o models/codellama-{variant.name}.gguf --type Q4_K_M`, or set CODELLAMA_MODELS"
    )
