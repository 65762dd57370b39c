"""The files with the weights of a checkpoint: which there are, and all tensors in them, by their headers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import CheckpointError, CodeLlamaError
from codellama.files.safetensors_header import SafeTensor
from codellama.files.small_files import INDEX, PICKLE_INDEX, read_json, shown

_PICKLES = (".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True)
class Layout:
    """What the files with the weights, and their index, are called."""

    index: str
    begins: str
    ends: str

    def shards(self, present: Iterable[str]) -> set[str]:
        """The names of those that are there."""
        return {
            name for name in present if name.startswith(self.begins) and name.endswith(self.ends)
        }


SAFETENSORS = Layout(INDEX, "model", ".safetensors")
PICKLED = Layout(PICKLE_INDEX, "pytorch_model", ".bin")
SHARD_ENDINGS = SAFETENSORS.ends, PICKLED.ends


def layout_of(present: Collection[str]) -> Layout:
    """How the weights are stored; of both kinds, safetensors."""
    safe = INDEX in present or SAFETENSORS.shards(present)
    return PICKLED if not safe and PICKLED.shards(present) else SAFETENSORS


def shard_names(folder: Path, present: Collection[str]) -> list[str]:
    """The names of all shards: those the index names, or those that are there."""
    layout = layout_of(present)
    indexed = layout.index in present
    names = set(_weight_map(folder, layout).values()) if indexed else layout.shards(present)
    if not names:
        raise _no_weights(folder, present)
    for name in sorted(names):
        if name not in present:
            raise CheckpointError(f"{folder / name}: missing: the index names it; download it")
    return sorted(names)


def stored_tensors(
    folder: Path, present: Collection[str], read_header: Callable[[Path], list[SafeTensor]]
) -> dict[str, SafeTensor]:
    """All tensors of all shards by name, checked against the index."""
    layout = layout_of(present)
    wanted = _weight_map(folder, layout) if layout.index in present else {}
    shards = shard_names(folder, present)
    found: dict[str, SafeTensor] = {}
    for shard in shards:
        for tensor in read_header(folder / shard):
            if tensor.name in found:
                raise CheckpointError(f"{folder}: {tensor.name} is in two shards")
            if wanted and wanted.get(tensor.name) != shard:
                raise CheckpointError(
                    f"{folder / shard}: {layout.index} knows no {tensor.name} in it"
                )
            found[tensor.name] = tensor
    for name in wanted:
        if name not in found:
            raise CheckpointError(
                f"{folder / wanted[name]}: {shown(name)} is missing, {layout.index} has it here"
            )
    return found


def _weight_map(folder: Path, layout: Layout) -> dict[str, str]:
    index = folder / layout.index
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: there is no weight_map in it")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _is_file_name(shard, layout.ends):
            raise CheckpointError(
                f"{index}: {shown(shard)} is no name of a {layout.ends[1:]} file beside it"
            )
    return weight_map


def _is_file_name(name: str, ending: str) -> bool:
    """Whether this can be a shard: no part of a path, on no system, and nothing else of the checkpoint."""
    return name.endswith(ending) and name.isprintable() and not any(mark in name for mark in "/\\:")


def _no_weights(folder: Path, present: Collection[str]) -> CodeLlamaError:
    pickles = sorted(name for name in present if name.endswith(_PICKLES))
    if pickles:
        return CheckpointError(
            f"{folder}: {pickles[0]} is there, but neither safetensors files nor pytorch_model.bin",
            "name the file with the weights pytorch_model.bin, or get the safetensors files",
        )
    return CheckpointError(f"{folder}: there are no safetensors files in it")
