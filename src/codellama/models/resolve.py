"""From a name to the one file that it means, or an error that says what to do."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from codellama.errors import ModelLoadError
from codellama.files.identify import recognised
from codellama.models.demo import DEMO, demo_gguf
from codellama.models.folders import models_folders, new_models_folder
from codellama.models.hub_name import DEFAULT_TYPE, HubName, matches
from codellama.models.local import local_models, model_files
from codellama.models.stores import OLLAMA_PREFIX, ollama_model, stored_of
from codellama.variants import Variant, find

LIST = "`codellama models` lists what there is"

logger = logging.getLogger(__name__)


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
    if name.startswith(OLLAMA_PREFIX):
        return ollama_model(name)
    base, _, type_name = name.partition(":")
    variant = find_variant(base)
    if variant is not None:
        return _published(variant, type_name)
    if path.is_dir():
        raise recognised(path, ModelLoadError) or ModelLoadError(
            f"{name}: is a folder, a .gguf file is needed"
        )
    hub_name = HubName.parse(name)
    if hub_name is not None:
        return _of_repository(hub_name)
    files = [file for file in model_files() if name in (file.name, file.stem)]
    if len(files) > 1:
        raise ModelLoadError(f"{name} is in {len(files)} folders, name one: {_list(files)}")
    if files:
        return files[0]
    raise ModelLoadError(f"{name}: no such file, and no published model has that name; {LIST}")


def local_file(name: HubName) -> Path | None:
    """The file of a repository that the tag means, if it is on this machine; without a tag the only one.

    Raises ModelLoadError if there are several.
    """
    files = [file for file in model_files() if _comes_from(file, name)]
    files += [model.path for model in stored_of(name)]
    if len(files) > 1 and name.tag is None:
        files = [file for file in files if matches(DEFAULT_TYPE, file.name)] or files
    if len({file.name for file in files}) > 1:
        raise ModelLoadError(
            f"{name} has {len(files)} files here, name one of them or add :TYPE: {_list(files)}"
        )
    return files[0] if files else None


def _of_repository(name: HubName) -> Path:
    found = local_file(name)
    if found is None:
        raise ModelLoadError(
            f"{name}: no such file here; `codellama pull {name}` fetches it from the hub; {LIST}"
        )
    return found


def _comes_from(file: Path, name: HubName) -> bool:
    """Whether a file in a models folder was fetched as this one, by its manifest."""
    from codellama.files.provenance import manifest_source

    return name.means(file.name) and manifest_source(file) == name.repo


def find_variant(name: str) -> Variant | None:
    """The published model called `name`: 70b-instruct, CodeLlama-70b-Instruct or its repository."""
    short = name.lower().removeprefix("codellama/").removeprefix("codellama-").removesuffix("-hf")
    return find(short)


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
