"""The GGUFs in the models folders, and which of them are published models, by their headers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import ModelLoadError
from codellama.models.folders import models_folders
from codellama.variants import Variant, recognise

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalModel:
    """A GGUF in a models folder; `variant` is None if it is not a published model."""

    path: Path
    variant: Variant | None
    nbytes: int


def local_models() -> list[LocalModel]:
    """The GGUFs in the models folders, by name; unreadable ones are left out with a warning."""
    models = [read_local(path) for path in model_files()]
    return [model for model in models if model is not None]


def model_files() -> list[Path]:
    """The GGUFs in the models folders; of a split one the first file."""
    paths = [path for folder in models_folders() for path in sorted(folder.glob("*.gguf"))]
    if not paths:
        return []
    from codellama.files.split import is_later_part  # with it comes llama.cpp, which no list needs

    return [path for path in paths if not is_later_part(path)]


def read_local(path: Path) -> LocalModel | None:
    """What a GGUF is by its header; None, with a warning, if it cannot be read."""
    from codellama.files.split import read_parts

    try:
        parts = read_parts(path)
    except ModelLoadError as error:
        logger.warning("left out: %s", error)
        return None
    nbytes = sum(part.path.stat().st_size for part in parts)
    return LocalModel(path, recognise(parts[0].metadata), nbytes)


def usable(path: Path) -> LocalModel | None:
    """What another program's GGUF is; None if it is no model that this package runs."""
    from codellama.files.loadable import read_model

    try:
        read_model(path)
    except ModelLoadError as error:
        logger.info("left out: %s", error)
        return None
    return read_local(path)
