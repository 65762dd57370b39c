"""A checkpoint or a GGUF in, a GGUF of any llama.cpp type out, in one pass.

`convert` and `quantize` are the same run with another source: open it, ask llama.cpp for the types, lay
the file out, write it. Nothing is written before everything has been checked.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from codellama.errors import ConversionError
from codellama.weights.plan import make_plan
from codellama.weights.recipe import make_recipe, resolve_type
from codellama.weights.source import Source, open_checkpoint, open_gguf
from codellama.weights.writer import Progress, default_threads, write


@dataclasses.dataclass(frozen=True)
class Report:
    """What was written: `nbytes` of `path`, with `types` counting its tensors by type."""

    path: Path
    type: str
    nbytes: int
    n_tensors: int
    types: dict[str, int]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "path": str(self.path),
            "bytes": self.nbytes,
            "type": self.type,
            "tensors": self.n_tensors,
            "tensor_types": self.types,
            "seconds": round(self.seconds, 3),
        }


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    type_name: str = "BF16",
    *,
    force: bool = False,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Report:
    """Turn the Hugging Face checkpoint in the folder `source` into the GGUF `output`.

    `type_name` is any type llama.cpp quantizes to ("Q4_K_M", "bf16"). An existing `output` is an
    error unless `force`. `threads` defaults to all cores; `progress` gets bytes done and in all.

    Raises:
        CheckpointError: the checkpoint is incomplete, inconsistent or of an unknown kind.
        ConversionError: the type, the disk or the output is at fault. Nothing is left behind.
    """
    type_name = _check(output, type_name, force=force, threads=threads)
    with open_checkpoint(Path(source)) as opened:
        return _run(opened, Path(output), type_name, progress=progress, threads=threads)


def quantize(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    type_name: str,
    *,
    force: bool = False,
    allow_requantize: bool = False,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Report:
    """Turn the GGUF `source` into the GGUF `output` of another type; arguments as for `convert`.

    Weights that are quantized already are refused unless `allow_requantize`.

    Raises:
        ModelLoadError: `source` is no GGUF, damaged or truncated.
        ConversionError: the type, the disk or the output is at fault. Nothing is left behind.
    """
    type_name = _check(output, type_name, force=force, threads=threads)
    with open_gguf(Path(source)) as opened:
        return _run(
            opened,
            Path(output),
            type_name,
            progress=progress,
            threads=threads,
            allow_requantize=allow_requantize,
        )


def _check(
    output: str | os.PathLike[str], type_name: str, *, force: bool, threads: int | None
) -> str:
    output = Path(output)
    type_name = resolve_type(type_name)
    if threads is not None and threads < 1:
        raise ConversionError(f"threads must be at least 1, not {threads}")
    if output.is_dir():
        raise ConversionError(f"{output}: is a folder: name the file to write")
    if output.exists() and not force:
        raise ConversionError(f"{output}: exists already: choose another name or pass --force")
    if not output.absolute().parent.is_dir():
        raise ConversionError(f"{output.parent}: no such folder to write to")
    return type_name


def _run(
    source: Source,
    output: Path,
    type_name: str,
    *,
    progress: Progress | None,
    threads: int | None,
    allow_requantize: bool = False,
) -> Report:
    started = time.monotonic()
    recipe = make_recipe(source, type_name, allow_requantize=allow_requantize)
    plan = make_plan(source, recipe)
    write(plan, source, output, threads=threads or default_threads(), progress=progress)
    return Report(
        path=output,
        type=recipe.type_name,
        nbytes=plan.nbytes,
        n_tensors=len(plan.tensors),
        types=plan.types,
        seconds=time.monotonic() - started,
    )
