"""A LoRA GGUF of a PEFT adapter: the bytes of llama.cpp's own converter, where that one is right.

llama.cpp scales a change by `alpha / rank`, with one alpha for the file. peft's scale is another one with
rsLoRA (`alpha / sqrt(rank)`), and differs between modules where `alpha_pattern` says so. So the file's
alpha is the one that most modules need, and B of the others is multiplied by what is missing. What such a
file has no place for, or what llama.cpp leaves out when it loads one, is refused by name.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np

from codellama.errors import CheckpointError, ConversionError
from codellama.files.gguf_header import (
    TensorInfo,
    Value,
    ValueType,
    alignment_of,
    encode_header,
    tensor_offsets,
)
from codellama.files.peft_adapter import read_adapter
from codellama.files.provenance import manifest, manifest_path
from codellama.kernels.quantizers import quantize_rows
from codellama.native.arrays import Floats
from codellama.native.ggml import TensorType, tensor_type
from codellama.weights.adapter import Fitted, LowRank, fit
from codellama.weights.adapter_base import base_of_adapter
from codellama.weights.convert import Report
from codellama.weights.metadata import adapter_metadata
from codellama.weights.naming import check_absent, check_folder
from codellama.weights.numbers import NumberReader
from codellama.weights.tensors import interleave_heads

log = logging.getLogger(__name__)

TYPES = ("F32", "F16", "BF16", "Q8_0")
"""What the tensors of an adapter can be stored as; the first is the default."""

_MERGE = "merge it while the checkpoint is converted (codellama convert, {merge})"
_BLOCK = 2**20


@dataclass(frozen=True)
class AdapterPlan:
    """The file, before any weight is read: its header, and what follows it."""

    fitted: Fitted
    header: bytes
    infos: tuple[TensorInfo, ...]
    offsets: tuple[int, ...]
    alpha: float

    @property
    def nbytes(self) -> int:
        return self.offsets[-1]


def plan_adapter(fitted: Fitted, type_name: str = TYPES[0]) -> AdapterPlan:
    """Lay out the LoRA GGUF of an adapter.

    Raises:
        CheckpointError: the adapter changes more than such a file can say; the remedy is to merge it.
        ConversionError: no type for adapters.
    """
    if type_name not in TYPES:
        raise ConversionError(f"an adapter cannot be {type_name}: choose one of {', '.join(TYPES)}")
    _check_expressible(fitted)
    alpha = _alpha(fitted)
    infos = [info for change in _ordered(fitted) for info in _infos(change, tensor_type(type_name))]
    values = adapter_metadata(fitted.adapter.folder)
    values["adapter.lora.alpha"] = Value(ValueType.FLOAT32, float(np.float32(alpha)))
    if fitted.adapter.invocation:
        ids = list(fitted.adapter.invocation)
        values["adapter.alora.invocation_tokens"] = Value(ValueType.ARRAY, ids, ValueType.UINT32)
    version = Value(ValueType.UINT32, gguf.GGML_QUANT_VERSION)
    values["general.quantization_version"] = version
    header = encode_header(values, infos)
    sizes = [info.nbytes for info in infos]
    offsets = tensor_offsets(len(header), sizes, alignment_of(values))
    return AdapterPlan(fitted, header, tuple(infos), tuple(offsets), alpha)


def _check_expressible(fitted: Fitted) -> None:
    path = fitted.adapter.weights
    dora = [change.magnitude for change in fitted.low_rank.values() if change.magnitude]
    for tensor, what in (
        *((tensor, "a magnitude (DoRA)") for tensor in dora),
        *((tensor, "a whole tensor (modules_to_save)") for tensor in fitted.whole.values()),
        *(
            (tensor, "trained tokens (trainable_token_indices)")
            for _, tensor in fitted.rows.values()
        ),
    ):
        raise CheckpointError(
            f"{path}: {tensor.name} is {what}, and a LoRA file has a place for low-rank changes only",
            _MERGE,
        )
    if not fitted.low_rank:
        raise CheckpointError(f"{path}: there are no low-rank changes in it")
    for tensor in fitted.frozen.values():
        log.warning("%s: %s is a copy of the model's weights and left out", path, tensor.name)


def _alpha(fitted: Fitted) -> float:
    return Counter(change.strength for change in fitted.low_rank.values()).most_common(1)[0][0]


def _ordered(fitted: Fitted) -> list[LowRank]:
    """In the order of the tensors' names in the adapter, as llama.cpp's converter writes them."""
    return sorted(fitted.low_rank.values(), key=lambda change: change.a.name)


def _infos(change: LowRank, kind: TensorType) -> Iterator[TensorInfo]:
    """Both halves; `lora_a` of an embedding is stored by token, which is how it is looked up."""
    rank, columns = change.a.shape
    shape_a = (rank, columns) if change.embedding else (columns, rank)
    for half, shape in (("lora_a", shape_a), ("lora_b", (rank, change.b.shape[0]))):
        fits = kind if shape[0] % kind.block_size == 0 else tensor_type("F16")
        nbytes = shape[1] * fits.row_bytes(shape[0])
        yield TensorInfo(f"{change.expected.name}.{half}", shape, fits.name, 0, nbytes)


def write_adapter(plan: AdapterPlan, path: Path) -> None:
    """Write the file that `plan` describes; only some rows are in memory at a time.

    Raises:
        ConversionError: the adapter cannot be read or holds what is not finite; the disk is full.
    """
    try:
        with NumberReader() as reader, path.open("wb") as file:
            file.write(plan.header)
            places = iter(zip(plan.infos, plan.offsets, strict=False))
            for change in _ordered(plan.fitted):
                for blocks in (_blocks_a(reader, change), _blocks_b(reader, change, plan.alpha)):
                    info, offset = next(places)
                    file.write(bytes(offset - file.tell()))
                    _write_blocks(file, info, blocks)
            file.write(bytes(plan.nbytes - file.tell()))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConversionError(f"{path}: cannot be written: {error.strerror}") from error


def convert_adapter(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    type_name: str = TYPES[0],
    *,
    base: str | None = None,
    force: bool = False,
) -> Report:
    """Turn the PEFT adapter in the folder `source` into the LoRA GGUF `output`.

    `base` is the model that it belongs to (a GGUF, a checkpoint's folder or a repository on the hub);
    by default the one that adapter_config.json names. Only its shapes are read.

    Raises:
        CheckpointError: the adapter cannot be read, or changes what a LoRA GGUF has no place for.
        ConversionError: the type, the disk or the output is at fault.
    """
    started = time.monotonic()
    path = Path(output)
    check_folder(path)
    if not force:
        check_absent(path)
    adapter = read_adapter(Path(source))
    plan = plan_adapter(fit(adapter, base_of_adapter(adapter, base)), type_name.upper())
    part = path.with_name(path.name + ".part")
    try:
        write_adapter(plan, part)
        described = {"source": adapter.name, "recipe": f"LoRA, {type_name.upper()}"}
        written = manifest({path.name: part}, described)
        os.replace(part, path)
        manifest_path(path).write_bytes(written)
    finally:
        part.unlink(missing_ok=True)
    return Report(
        paths=(path,),
        type=type_name.upper(),
        nbytes=plan.nbytes,
        n_tensors=len(plan.infos),
        types=dict(Counter(info.type_name for info in plan.infos)),
        seconds=time.monotonic() - started,
    )


def _write_blocks(file: BinaryIO, info: TensorInfo, blocks: Iterator[Floats]) -> None:
    kind = tensor_type(info.type_name)
    for block in blocks:
        rows = np.ascontiguousarray(block, np.float32)
        out = np.empty(len(rows) * kind.row_bytes(rows.shape[1]), np.uint8)
        quantize_rows(kind, rows, out)
        file.write(out.data)


def _blocks_a(reader: NumberReader, change: LowRank) -> Iterator[Floats]:
    rank, columns = change.a.shape
    if change.embedding:
        step = max(1, _BLOCK // rank)
        for first in range(0, columns, step):
            yield reader.columns(change.a, first, min(step, columns - first)).T
        return
    step = max(1, _BLOCK // columns)
    for first in range(0, rank, step):
        yield reader.rows(change.a, first, min(step, rank - first))


def _blocks_b(reader: NumberReader, change: LowRank, alpha: float) -> Iterator[Floats]:
    rows, rank = change.b.shape
    heads = change.expected.heads
    head_dim = rows // heads if heads else 1
    step = max(1, _BLOCK // rank // head_dim) * head_dim
    factor = np.float32(change.strength / alpha)
    for first in range(0, rows, step):
        block = reader.rows(change.b, first, min(step, rows - first))
        if heads:
            block = interleave_heads(block, head_dim)
        yield block if factor == 1 else block * factor
