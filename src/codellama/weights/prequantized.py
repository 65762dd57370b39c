"""Which dequantizer a matrix of a quantized checkpoint needs, from the headers of its tensors.

Sizes are believed and not settings: bits and groups follow from the shapes, which have to fit config.json.
Settings are asked only for what no shape tells. Each tool marks its matrices by the names of its tensors:

- `qweight qzeros scales` (`g_idx`): GPTQ, and AWQ where the shape is the other way round
- `weight_packed weight_scale weight_shape`: compressed-tensors' packed integers
- `weight weight_scale`: its FP8 and INT8, and FBGEMM's; `weight_scale_inv`: FP8 in blocks
- `weight.absmax weight.quant_map`: bitsandbytes' NF4 and FP4; `SCB`: its LLM.int8
- `weight scales biases`: MLX
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import CheckpointError
from codellama.files.quantized import quantization
from codellama.files.safetensors_header import SafeTensor
from codellama.files.small_files import read_json
from codellama.weights.blockwise import MOST_STATE, Blockwise, Nested
from codellama.weights.dequantizers import (
    FLOATS,
    Affine,
    Columnwise,
    Dequantizer,
    Grid,
    Scaled,
    Stripes,
)

OLD_GPTQ = "quantize_config.json"
"""Where GPTQ's settings were before config.json had them."""

_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_STATE = ".weight.quant_state.bitsandbytes__"
_NESTED_BLOCK = 256
_LEAST_BLOCK, _MOST_BLOCK = 32, 4096
_AWQ_BITS = 4
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word each of eight columns is: AutoAWQ packs them as 0 2 4 6 1 3 5 7."""
_FP8_BLOCK = (128, 128)
_ACTIVATIONS = (
    *(".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point"),
    *(".k_scale", ".v_scale", ".k_zero_point", ".v_zero_point", ".input_scale_ub"),
)
"""Of activations and caches, which are not quantized here."""


@dataclass(frozen=True)
class Settings:
    """What shapes do not tell: GPTQ's convention for zeros, and sizes that do not divide a row."""

    zero_offset: int = 1
    group_size: int | None = None
    block: tuple[int, int] = _FP8_BLOCK


def settings_files(folder: Path) -> list[Path]:
    """The files that `read_settings` reads: what they say is part of what the weights are."""
    return [path for path in (folder / "config.json", folder / OLD_GPTQ) if path.is_file()]


def read_settings(folder: Path) -> Settings:
    """Those in config.json, or in GPTQ's older file beside it."""
    entry = quantization(read_json(folder / "config.json"))
    if entry is None and (folder / OLD_GPTQ).is_file():
        entry = read_json(folder / OLD_GPTQ)
    if not isinstance(entry, dict):
        return Settings()
    size = entry.get("group_size")
    return Settings(
        zero_offset=0 if entry.get("checkpoint_format") == "gptq_v2" else 1,
        group_size=size if type(size) is int and size > 0 else None,
        block=_block(entry) or _FP8_BLOCK,
    )


def _block(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """The block of FP8: under transformers' name, or in a group of compressed-tensors."""
    groups = entry.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    structure = weights.get("block_structure") if isinstance(weights, dict) else None
    sizes = entry.get("weight_block_size") or structure
    if not isinstance(sizes, list) or len(sizes) != 2:
        return None
    rows, columns = sizes
    sound = type(rows) is int and type(columns) is int and min(rows, columns) > 0
    return (rows, columns) if sound else None


class Dequantizers:
    """Finds those of the checkpoint in `folder`; its tensors are `left`, which loses those in use."""

    def __init__(self, folder: Path, settings: Settings, left: dict[str, SafeTensor]) -> None:
        self._folder = folder
        self._settings = settings
        self._left = left
        self._stripes = Stripes()

    def of(self, name: str, shape: tuple[int, ...]) -> Dequantizer | None:
        """The dequantizer of the tensor `name`; None if it is stored plainly, or not there.

        Raises:
            CheckpointError: a part is missing, or its size does not fit.
        """
        base = name.removesuffix(".weight")
        if len(shape) != 2:
            return None
        parts = _Parts(self._folder, self._left, base, shape)
        if parts.has(".qweight"):
            return self._columnwise(parts)
        if parts.has(".weight_packed"):
            return _packed(parts, self._settings)
        if not parts.has(".weight"):
            return None
        if parts.has(".weight.absmax"):
            return _blockwise(parts)
        if parts.has(".SCB"):
            return _vectorwise(parts)
        if parts.has(".scales"):
            return _affine(parts)
        for scale in (".weight_scale", ".weight_scale_inv"):
            if parts.has(scale):
                return _scaled(parts, scale, self._settings)
        return None

    def drop_activations(self) -> list[str]:
        """Take out what belongs to activations; the names."""
        names = [name for name in self._left if name.endswith(_ACTIVATIONS)]
        for name in names:
            del self._left[name]
        return names

    def _columnwise(self, parts: _Parts) -> Dequantizer:
        rows, columns = parts.shape
        weight = parts.take(".qweight", ("I32",))
        awq = weight.shape == (columns, rows * _AWQ_BITS // 32)
        height = weight.shape[0] if len(weight.shape) == 2 else 0
        bits = _AWQ_BITS if awq else 32 * height // columns
        if not awq and (weight.shape != (columns * bits // 32, rows) or bits not in (2, 4, 8)):
            raise parts.misfit(weight, "is no matrix of 2, 4 or 8 bits")
        scales = parts.take(".scales", FLOATS)
        n_groups = scales.shape[0] if len(scales.shape) == 2 else 0
        parts.check(scales, (n_groups, rows))
        zeros = parts.take(".qzeros", ("I32",), (n_groups, rows * bits // 32))
        size = self._settings.group_size
        if n_groups and (size is None or -(-columns // size) != n_groups):
            size = -(-columns // n_groups)
        if not n_groups or not size or -(-columns // size) != n_groups or rows * bits % 32:
            raise parts.misfit(scales, "has groups that do not divide a row")
        order = parts.take_if(".g_idx", ("I32",), (columns,))
        bias = parts.take_if(".bias", FLOATS, (rows,))
        return Columnwise(
            *(weight, zeros, scales, bits, size, self._stripes, None if awq else order, bias),
            zero_offset=0 if awq else self._settings.zero_offset,
            places=_AWQ_PLACES if awq else (),
        )


class _Parts:
    """The tensors of one matrix of `shape`, by what stands behind its name."""

    def __init__(
        self, folder: Path, left: dict[str, SafeTensor], base: str, shape: tuple[int, ...]
    ) -> None:
        self._folder = folder
        self._left = left
        self.base = base
        self.shape = shape[0], shape[1]

    def has(self, ending: str) -> bool:
        return self.base + ending in self._left

    def endings(self, begin: str) -> list[str]:
        """What stands behind the name where it begins so."""
        start = self.base + begin
        return [name.removeprefix(self.base) for name in self._left if name.startswith(start)]

    def take(
        self, ending: str, dtypes: Iterable[str], shape: tuple[int, ...] | None = None
    ) -> SafeTensor:
        tensor = self._left.pop(self.base + ending, None)
        if tensor is None:
            raise CheckpointError(
                f"{self._folder}: {self.base}{ending} is in no shard, other parts of it are",
                "download the missing files",
            )
        if tensor.dtype not in tuple(dtypes):
            raise self.misfit(tensor, f"is {tensor.dtype}, not {' or '.join(dtypes)}")
        if shape is not None:
            self.check(tensor, shape)
        return tensor

    def take_if(
        self, ending: str, dtypes: Iterable[str], shape: tuple[int, ...]
    ) -> SafeTensor | None:
        return self.take(ending, dtypes, shape) if self.has(ending) else None

    def check(self, tensor: SafeTensor, shape: tuple[int, ...]) -> None:
        if tensor.shape != shape:
            raise self.misfit(
                tensor, f"has shape {list(tensor.shape)}, config.json makes it {list(shape)}"
            )

    def misfit(self, tensor: SafeTensor, what: str) -> CheckpointError:
        return CheckpointError(
            f"{tensor.path}: {tensor.name} {what} (for {list(self.shape)} quantized weights)",
            "take the checkpoint that it was made from, in BF16 or F16",
        )

    def grid(self, tensor: SafeTensor, block: tuple[int, int] | None = None) -> Grid:
        """How a scale, or another number of groups, is spread over the matrix."""
        rows, columns = self.shape
        shape = tensor.shape
        if math.prod(shape) == 1:
            return Grid(tensor, rows, columns, 1)
        if shape in ((rows,), (rows, 1)):
            return Grid(tensor, 1, columns, 1)
        if len(shape) == 2 and shape[1]:
            if shape[0] == rows and columns % shape[1] == 0:
                return Grid(tensor, 1, columns // shape[1], shape[1])
            if block and shape == (-(-rows // block[0]), -(-columns // block[1])):
                return Grid(tensor, *block, shape[1])
        raise self.misfit(tensor, f"has shape {list(shape)}, which fits no groups")


def _packed(parts: _Parts, settings: Settings) -> Dequantizer:
    rows, columns = parts.shape
    weight = parts.take(".weight_packed", ("I32",))
    layouts = [
        (bits, stream)
        for stream in (True, False)  # compressed-tensors from 0.20 on, and before
        for bits in (4, 8, 2, 3, 5, 6, 7, 1)
        if weight.shape == (rows, -(-columns * bits // 32 if stream else -columns // (32 // bits)))
    ]
    if not layouts:
        raise parts.misfit(weight, f"has shape {list(weight.shape)}, which fits no number of bits")
    bits, stream = layouts[0]
    scale = parts.grid(parts.take(".weight_scale", FLOATS))
    shape = parts.take(".weight_shape", ("I64", "I32"), (2,))
    zero = None
    if parts.has(".weight_zero_point"):
        tensor = parts.take(".weight_zero_point", ("I32", "I8"))
        if tensor.dtype == "I8":
            zero = parts.grid(tensor)
        elif not stream or scale.rows > 1:
            raise parts.misfit(tensor, "is packed in an order that is not read here")
        else:
            parts.check(tensor, (-(-rows * bits // 32), scale.across))
            zero = Grid(tensor, 1, scale.columns, scale.across, packed=bits)
    order = parts.take_if(".weight_g_idx", ("I32",), (columns,))
    return Scaled(
        *(weight, columns, scale, zero, order, bits, stream), checks=((shape, parts.shape),)
    )


def _scaled(parts: _Parts, scale: str, settings: Settings) -> Dequantizer:
    weight = parts.take(".weight", (*_FLOAT8, "I8"), parts.shape)
    grid = parts.grid(parts.take(scale, FLOATS), settings.block)
    zero = None
    if parts.has(".weight_zero_point"):
        zero = parts.grid(parts.take(".weight_zero_point", ("I8", "I32", *_FLOAT8)), settings.block)
    order = parts.take_if(".weight_g_idx", ("I32",), (parts.shape[1],))
    return Scaled(weight, parts.shape[1], grid, zero, order)


def _vectorwise(parts: _Parts) -> Dequantizer:
    """LLM.int8: a row's largest value is 127."""
    rows, columns = parts.shape
    weight = parts.take(".weight", ("I8",), parts.shape)
    grid = Grid(parts.take(".SCB", ("F32",), (rows,)), 1, columns, 1)
    checks = []
    if parts.has(".weight_format"):  # how rows are laid out for the GPU: 0 is as they are
        layout = parts.take(".weight_format", ("U8", "I8", "I32", "I64"))
        if math.prod(layout.shape) != 1:
            raise parts.misfit(layout, "is not one number")
        checks.append((layout, (0,)))
    return Scaled(weight, columns, grid, factor=1 / 127, checks=tuple(checks))


def _affine(parts: _Parts) -> Dequantizer:
    rows, columns = parts.shape
    weight = parts.take(".weight", ("U32",))
    width = weight.shape[1] if len(weight.shape) == 2 else 0
    bits = 32 * width // columns
    if weight.shape != (rows, columns * bits // 32) or bits not in (2, 3, 4, 5, 6, 8):
        raise parts.misfit(weight, f"has shape {list(weight.shape)}, which fits no number of bits")
    scale = parts.grid(parts.take(".scales", FLOATS))
    bias = parts.grid(parts.take(".biases", FLOATS, scale.tensor.shape))
    return Affine(weight, bits, scale, bias)


def _blockwise(parts: _Parts) -> Dequantizer:
    n_weights = math.prod(parts.shape)
    weight = parts.take(".weight", ("U8", "I8", "F16", "BF16", "F32"))
    if 2 * weight.nbytes != n_weights or parts.shape[1] % 2:
        raise parts.misfit(weight, f"has {weight.nbytes} bytes, which are not 4 bits a weight")
    absmax = parts.take(".weight.absmax", ("F32", "U8"))
    block = _LEAST_BLOCK
    while block < _MOST_BLOCK and absmax.shape != (-(-n_weights // block),):
        block *= 2
    parts.check(absmax, (-(-n_weights // block),))
    table = parts.take(".weight.quant_map", ("F32",), (16,))
    states = parts.endings(_STATE)
    kind = states[0].removeprefix(_STATE) if len(states) == 1 else ""
    if kind not in ("nf4", "fp4"):
        raise parts.misfit(weight, "has no description that it is nf4 or fp4")
    state = parts.take(states[0], ("U8",))
    if state.nbytes > MOST_STATE:
        raise parts.misfit(state, f"has {state.nbytes} bytes, {MOST_STATE} are the most")
    nested = None
    if absmax.dtype == "U8":
        n_nested = -(-absmax.shape[0] // _NESTED_BLOCK)
        scales = parts.take(".weight.nested_absmax", ("F32",), (n_nested,))
        codes = parts.take(".weight.nested_quant_map", ("F32",), (256,))
        nested = Nested(scales, codes, _NESTED_BLOCK)
    return Blockwise(weight, parts.shape, kind, block, absmax, table, state, nested)
