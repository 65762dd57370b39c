"""A checkpoint or a GGUF in, GGUFs of any llama.cpp types out, in one pass.

`convert` and `quantize` are the same run with another source: open it, ask llama.cpp for the types, lay
the files out, write them. Nothing is written before everything has been checked. A run that was
interrupted goes on where it was when it is started again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codellama.errors import ConversionError
from codellama.kernels.quantizers import described, quantizers_of
from codellama.params import Progress
from codellama.weights.folders import open_folder
from codellama.weights.forecast import Forecast, forecast, steps
from codellama.weights.gguf_source import open_gguf
from codellama.weights.merge import merged
from codellama.weights.naming import check_absent, check_folder
from codellama.weights.options import QuantOptions
from codellama.weights.output import Output
from codellama.weights.plan import make_plan
from codellama.weights.rates import measure, measure_hashing
from codellama.weights.recipe import make_recipe, resolve_type
from codellama.weights.shards import SHARD_ENDINGS
from codellama.weights.source import Source
from codellama.weights.unusable import UnusableWeightsError
from codellama.weights.writer import default_threads, write

log = logging.getLogger(__name__)

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Report:
    """What was written: `nbytes` in `paths`, with `types` counting the tensors by type.

    `path` is the file to load: of a split GGUF the first.
    """

    paths: tuple[Path, ...]
    type: str
    nbytes: int
    n_tensors: int
    types: dict[str, int]
    seconds: float

    @property
    def path(self) -> Path:
        return self.paths[0]

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "path": str(self.path),
            "files": [str(path) for path in self.paths],
            "bytes": self.nbytes,
            "type": self.type,
            "tensors": self.n_tensors,
            "tensor_types": self.types,
            "seconds": round(self.seconds, 3),
        }


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How a run goes, and with `options` and `split_bytes` what it makes beyond the type.

    `force` replaces files that exist. `restart` forgets an unfinished run of the same outputs instead
    of going on with it. `threads` defaults to all cores. With `split_bytes` an output is spread over
    files of at most so many bytes of weights. `progress` gets bytes done and in all, and then `hashing`
    those of the outputs, which are read again for their SHA-256. Of a source on the hub, `revision` is
    a branch, tag or commit, and `keep` leaves what was fetched in a folder named after the repository.
    `merge` are PEFT adapters, folders with scales, that become part of the weights on the way.
    """

    force: bool = False
    restart: bool = False
    threads: int | None = None
    split_bytes: int | None = None
    progress: Progress | None = None
    hashing: Progress | None = None
    options: QuantOptions = QuantOptions()
    revision: str | None = None
    keep: bool = False
    merge: Sequence[tuple[str | os.PathLike[str], float]] = ()

    @classmethod
    def names(cls) -> list[str]:
        """The names of the fields."""
        return [field.name for field in dataclasses.fields(cls)]

    def __post_init__(self) -> None:
        for name in ("threads", "split_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConversionError(f"{name} must be at least 1, not {value}")


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    type_name: str = "BF16",
    **settings: Any,
) -> Report:
    """Turn the Hugging Face checkpoint `source` into the GGUF `output`.

    `source` is a folder, or `organisation/name` on the Hugging Face hub: its files then come one at a time
    while they are used, into a folder beside the output, and go when they are used up.
    `type_name` is any type llama.cpp quantizes to ("Q4_K_M", "bf16"); `settings` are the fields of
    `RunSettings`. An existing `output` is an error unless `force`.

    Raises:
        CheckpointError: the checkpoint is incomplete, inconsistent or of an unknown kind.
        ConversionError: the type, the disk or the output is at fault.
    """
    return convert_to(source, {type_name: Path(output)}, RunSettings(**settings))[0]


def convert_to(
    source: str | os.PathLike[str], outputs: Mapping[str, Path], settings: RunSettings
) -> list[Report]:
    """As `convert`, to several types (type to output) with one reading of the source."""
    outputs = _check(outputs, settings)
    if not is_local(source):
        return _convert_repository(os.fspath(source), outputs, settings)
    with merged(open_folder(Path(source)), settings.merge) as opened:
        return _run(opened, outputs, settings)


def is_local(source: str | os.PathLike[str]) -> bool:
    """Whether this names a folder here, and not a repository on the hub."""
    text = os.fspath(source)
    return os.path.exists(text) or text.startswith(".") or not _REPOSITORY.fullmatch(text)


def _convert_repository(
    name: str, outputs: Mapping[str, Path], settings: RunSettings
) -> list[Report]:
    from codellama.weights.hub import find_repository
    from codellama.weights.hub_source import open_repository

    first = next(iter(outputs.values()))
    folder = first.absolute().parent if settings.keep else download_folder(first)
    try:
        repository = find_repository(name, settings.revision)
        source = open_repository(repository, folder, keep=settings.keep)
        with merged(source, settings.merge) as opened:
            reports = _run(opened, outputs, settings)
    except BaseException as error:
        fetched = any(any(folder.rglob(f"*{ending}*")) for ending in SHARD_ENDINGS)
        useless = isinstance(error, UnusableWeightsError) or not fetched
        if not settings.keep and useless and not any(map(Output.begun, outputs.values())):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if not settings.keep:
        shutil.rmtree(folder)
    return reports


def make_forecast(
    source: str | os.PathLike[str], types: Sequence[str], settings: RunSettings
) -> Forecast:
    """What converting or quantizing `source` to `types` will give and cost; only headers are read.

    `source` is a checkpoint folder, a GGUF, or a repository on the hub.

    Raises:
        CheckpointError, ModelLoadError, ConversionError: as `convert` and `quantize`.
    """
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(merged(_open_any(source, settings, stack), settings.merge))
        recipes = [make_recipe(opened, name, settings.options) for name in types]
        plans = [make_plan(opened, recipe, settings.split_bytes) for recipe in recipes]
        threads = settings.threads or default_threads()
        rates = measure(steps(opened, plans), threads)
        return forecast(opened, plans, threads, rates, measure_hashing())


def _open_any(
    source: str | os.PathLike[str], settings: RunSettings, stack: contextlib.ExitStack
) -> Source:
    path = Path(source)
    if path.is_file():
        return open_gguf(path)
    if is_local(source):
        return open_folder(path)
    from codellama.weights.hub import find_repository, require
    from codellama.weights.hub_source import open_repository

    require(os.fspath(source))
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="codellama-"))
    repository = find_repository(os.fspath(source), settings.revision)
    return open_repository(repository, Path(folder), keep=settings.keep)


def download_folder(output: Path) -> Path:
    """Where the files of a repository lie while `output` is made of them."""
    return output.absolute().with_name(output.name + ".download")


def quantize(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    type_name: str,
    **settings: Any,
) -> Report:
    """Turn the GGUF `source` into the GGUF `output` of another type; arguments as for `convert`.

    Weights that are quantized already are refused unless the options allow it.

    Raises:
        ModelLoadError: `source` is no GGUF, damaged or truncated.
        ConversionError: the type, the disk or the output is at fault.
    """
    outputs = {type_name: Path(output)}
    return quantize_to(source, outputs, RunSettings(**settings))[0]


def quantize_to(
    source: str | os.PathLike[str],
    outputs: Mapping[str, Path],
    settings: RunSettings,
) -> list[Report]:
    """As `quantize`, to several types (type to output) with one reading of the source."""
    outputs = _check(outputs, settings)
    with open_gguf(Path(source)) as opened:
        return _run(opened, outputs, settings)


def _check(outputs: Mapping[str, Path], settings: RunSettings) -> dict[str, Path]:
    """The outputs under llama.cpp's names of the types; what can be refused at once is."""
    for output in outputs.values():
        if output.is_dir():
            raise ConversionError(f"{output}: is a folder: name the file to write")
        if not (settings.force or Output.begun(output)):
            check_absent(output)
        check_folder(output)
    return {resolve_type(type_name): output for type_name, output in outputs.items()}


def _run(
    source: Source,
    targets: Mapping[str, Path],
    settings: RunSettings,
) -> list[Report]:
    started = time.monotonic()
    outputs = []
    for type_name, path in targets.items():
        recipe = make_recipe(source, type_name, settings.options)
        plan = make_plan(source, recipe, settings.split_bytes)
        log.info("%s: quantizers: %s", path, described(quantizers_of(plan.made_types)))
        outputs.append(Output(plan, path))
    write(
        outputs,
        source,
        threads=settings.threads or default_threads(),
        progress=settings.progress,
        hashing=settings.hashing,
        force=settings.force,
        restart=settings.restart,
    )
    return [_report(output, time.monotonic() - started) for output in outputs]


def _report(output: Output, seconds: float) -> Report:
    plan = output.plan
    return Report(
        paths=tuple(output.paths),
        type=plan.type_name,
        nbytes=plan.nbytes,
        n_tensors=len(plan.tensors),
        types=plan.types,
        seconds=seconds,
    )
