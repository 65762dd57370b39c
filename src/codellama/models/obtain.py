"""A GGUF of a repository on the hub: the file that is here, or else the one that is fetched."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.errors import CheckpointError
from codellama.models.folders import new_models_folder
from codellama.models.hub_name import DEFAULT_TYPE, HubName, matches
from codellama.models.resolve import local_file

if TYPE_CHECKING:
    from codellama.params import Progress
    from codellama.weights.ready import ReadyModel

logger = logging.getLogger(__name__)


def obtain(
    name: HubName,
    *,
    revision: str | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The GGUF that `name` means: from a models folder or another program's store, else fetched.

    Without a tag Q4_K_M is taken, or the only file there is. With a `revision` the hub is always asked.
    It is fetched into `folder` (default: the models folder); interrupted, the next call goes on where it
    was. `progress` gets bytes done and in all.

    Raises:
        ModelLoadError: several files here fit, or the one to be fetched could not be loaded.
        CheckpointError: the repository has no such file, or cannot be reached.
        ConversionError: the disk is too small.
    """
    found = local_file(name) if revision is None and folder is None else None
    if found is not None:
        return found
    from codellama.weights.hub import find_repository
    from codellama.weights.ready import fetch_model, ready_models

    repository = find_repository(name.repo, revision)
    model = choose(name, ready_models(repository))
    logger.info("fetching %s of %s, %.2f GB", model.name, name.repo, model.nbytes / 1e9)
    return fetch_model(repository, model, folder or new_models_folder(), progress)


def choose(name: HubName, models: Sequence[ReadyModel]) -> ReadyModel:
    """The one of a repository's models that `name` means. Raises CheckpointError, which lists them."""
    if not models:
        raise CheckpointError(
            f"{name.repo}: there is no GGUF in it; `codellama convert {name.repo} -o FILE.gguf` makes one "
            "from a checkpoint"
        )
    fitting = [model for model in models if name.means(model.name)]
    if name.tag is None and len(fitting) > 1:
        fitting = [model for model in models if matches(DEFAULT_TYPE, model.name)] or fitting
    if len(fitting) != 1:
        what = f"no file fits {name}" if not fitting else f"{len(fitting)} files fit {name}"
        raise CheckpointError(f"{what}: add :TYPE or :FILE of one of {_listed(models)}")
    return fitting[0]


def _listed(models: Sequence[ReadyModel]) -> str:
    return ", ".join(f"{model.name} ({model.nbytes / 1e9:.1f} GB)" for model in models)
