"""The files of the LoRA adapters that a model is loaded with: checked, and made where they are not GGUFs.

A PEFT folder becomes a GGUF while the model is loaded: planned and checked first, from headers; written to
a temporary folder when llama.cpp is about to read it, and gone afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.errors import CodeLlamaError, ModelLoadError
from codellama.files.gguf_header import GGUFHeader, TensorInfo, read_gguf_header
from codellama.files.loadable import check_adapter
from codellama.params import ModelConfig

if TYPE_CHECKING:
    from codellama.weights.adapter_gguf import AdapterPlan


@dataclass(frozen=True)
class AdapterFile:
    """An adapter to load: a GGUF, or with a `plan` the folder of one that has to be made a GGUF."""

    path: str
    scale: float
    plan: AdapterPlan | None = None


def plan_adapters(config: ModelConfig, model: GGUFHeader) -> list[AdapterFile]:
    """The adapters of `config`, checked, for the model with this header.

    Raises ModelLoadError or CheckpointError naming `lora`, for a file that llama.cpp cannot be trusted
    with, and for an adapter that would not act as it should.
    """
    adapters = []
    for path, scale in config.adapters:
        try:
            adapters.append(_plan(path, scale, model))
        except CodeLlamaError as error:
            raise error.about("lora") from error.__cause__
    return adapters


def adapter_bytes(adapters: Sequence[AdapterFile]) -> int:
    """About what these adapters will take in memory: as much as on disk."""
    paths = [Path(adapter.path) for adapter in adapters]
    files = [
        f for path in paths for f in (path.glob("adapter_model.*") if path.is_dir() else [path])
    ]
    return sum(file.stat().st_size for file in files)


def _plan(path: str, scale: float, model: GGUFHeader) -> AdapterFile:
    from codellama.files.peft_adapter import check_adapter_is_there, read_adapter

    check_adapter_is_there(Path(path))
    if _is_peft(Path(path)):
        from codellama.weights.adapter import fit
        from codellama.weights.adapter_base import base_of_gguf
        from codellama.weights.adapter_gguf import plan_adapter

        adapter = read_adapter(Path(path))
        plan = plan_adapter(fit(adapter, base_of_gguf(model)))
        return AdapterFile(str(adapter.folder), scale, plan)
    check_adapter(path)
    tensors = read_gguf_header(path).tensors
    _check_embedding(path, tensors, model)
    _check_norms(path, tensors, model)
    return AdapterFile(path, scale)


def _is_peft(path: Path) -> bool:
    return path.is_dir() or path.name.startswith("adapter_model.")


def _check_embedding(path: str, tensors: Sequence[TensorInfo], model: GGUFHeader) -> None:
    """Where the output is the embedding, llama.cpp would multiply with the change of a look-up, and abort."""
    tied = all(tensor.name != "output.weight" for tensor in model.tensors)
    if tied and any(tensor.name.startswith("token_embd.weight.") for tensor in tensors):
        raise ModelLoadError(
            f"{path}: changes token_embd.weight, which in this model is the output matrix too"
        )


def _check_norms(path: str, tensors: Sequence[TensorInfo], model: GGUFHeader) -> None:
    """llama.cpp leaves norms out of an adapter, without a word: they may be there if they change nothing."""
    known = {tensor.name: tensor for tensor in model.tensors}
    for tensor in tensors:
        if tensor.name.endswith("_norm.weight"):
            own = known.get(tensor.name)
            if own is None or _bytes(Path(path), tensor) != _bytes(model.path, own):
                raise ModelLoadError(
                    f"{path}: {tensor.name} is not that of the model, and llama.cpp applies low-rank "
                    "changes only",
                    "merge the adapter while the checkpoint is converted (codellama convert, {merge})",
                )


def _bytes(path: Path, tensor: TensorInfo) -> tuple[str, bytes]:
    with path.open("rb") as file:
        file.seek(tensor.offset)
        return tensor.type_name, file.read(tensor.nbytes)


@contextmanager
def adapter_paths(adapters: Sequence[AdapterFile]) -> Iterator[list[str]]:
    """A GGUF for each of the adapters; those that had to be made are gone when this is left.

    Raises ConversionError naming `lora` if one cannot be made.
    """
    if not any(adapter.plan for adapter in adapters):
        yield [adapter.path for adapter in adapters]
        return
    from codellama.weights.adapter_gguf import write_adapter

    with tempfile.TemporaryDirectory(prefix="codellama-lora-") as folder:
        paths = []
        for number, adapter in enumerate(adapters):
            path = adapter.path
            if adapter.plan is not None:
                path = str(Path(folder, f"{number}.gguf"))
                try:
                    write_adapter(adapter.plan, Path(path))
                except CodeLlamaError as error:
                    raise error.about("lora") from error.__cause__
            paths.append(path)
        yield paths
