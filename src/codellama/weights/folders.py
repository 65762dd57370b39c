"""What a folder with weights is: a Hugging Face checkpoint, Meta's own download, or only an adapter."""

from __future__ import annotations

from pathlib import Path

from codellama.errors import CheckpointError
from codellama.files.peft_adapter import WEIGHTS, is_adapter_folder
from codellama.weights.meta import PARAMS, open_meta
from codellama.weights.shards import PICKLED, SAFETENSORS
from codellama.weights.source import Source, open_checkpoint


def is_adapter(path: Path) -> bool:
    """Whether this is a PEFT adapter, its folder or its weights, and no whole model beside one."""
    folder = path.parent if path.name in WEIGHTS else path
    if not is_adapter_folder(folder):
        return False
    names = [each.name for each in folder.iterdir()]
    return not (SAFETENSORS.shards(names) or PICKLED.shards(names))


def open_folder(folder: Path) -> Source:
    """The checkpoint in a local folder, of either layout, as a source.

    Raises:
        CheckpointError: as `source.open_checkpoint` and `meta.open_meta`; the folder holds a PEFT adapter.
    """
    if is_adapter(folder):
        raise CheckpointError(
            f"{folder}: is a PEFT adapter, not a whole model",
            "convert it alone, or name the model's checkpoint and the adapter with {merge}",
        )
    if (folder / PARAMS).is_file() and not (folder / "config.json").is_file():
        return open_meta(folder)
    return open_checkpoint(folder)
