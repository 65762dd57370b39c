"""Tensor types and row conversion of ggml, which llama_cpp does not bind.

Rows come and go as contiguous numpy arrays that the caller owns. Every call drops the GIL, so a thread
pool converts on all cores. Nothing here decides anything: which type a tensor gets is `weights.recipe`.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llama_cpp

from codellama.native.shared_library import libggml

if TYPE_CHECKING:
    from codellama.native.arrays import Bytes, Floats


@dataclass(frozen=True)
class TensorType:
    """A ggml type: its number in GGUF files, its name ("Q4_K"), elements and bytes of one block."""

    id: int
    name: str
    block_size: int
    block_bytes: int
    quantized: bool

    def row_bytes(self, n_elements: int) -> int:
        """Bytes of a row; `n_elements` must be a multiple of `block_size`."""
        return n_elements // self.block_size * self.block_bytes


class _Traits(ctypes.Structure):
    """`ggml_type_traits` of ggml.h."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]


@functools.cache
def _ggml() -> ctypes.CDLL:
    ggml = libggml()
    ggml.ggml_get_type_traits.argtypes = [ctypes.c_int]
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    ggml.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
    ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    ggml.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    ggml.ggml_validate_row_data.restype = ctypes.c_bool
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    return ggml


@functools.cache
def _traits(type_id: int) -> Any:
    return _ggml().ggml_get_type_traits(type_id).contents


@functools.cache
def tensor_types() -> Mapping[int, TensorType]:
    """Every type that this build of ggml can store, by its number; removed ones are left out."""
    types = {}
    for number in range(llama_cpp.GGML_TYPE_COUNT):
        traits = _traits(number)
        if traits.blck_size > 0:
            name = traits.type_name.decode().upper()
            types[number] = TensorType(
                number, name, traits.blck_size, traits.type_size, traits.is_quantized
            )
    return types


def tensor_type(name: str) -> TensorType:
    """The type with this name, as `TensorType.name` writes it; KeyError if there is none."""
    for candidate in tensor_types().values():
        if candidate.name == name:
            return candidate
    raise KeyError(name)


@functools.cache
def file_types() -> Mapping[str, int]:
    """What a file can be quantized to, name ("Q4_K_M") to `llama_ftype`, in llama.cpp's order."""
    types = {}
    for constant in dir(llama_cpp):
        prefix, found, name = constant.partition("LLAMA_FTYPE_")
        # NVFP4 is made by converters only: llama_model_quantize has no such target.
        if found and not prefix and name not in ("GUESSED", "MOSTLY_NVFP4"):
            types[name.partition("_")[2]] = int(getattr(llama_cpp, constant))
    return dict(sorted(types.items(), key=lambda item: item[1]))


def library_version() -> str:
    """Which quantizers these are: the version of the package that brought them."""
    return f"llama-cpp-python {llama_cpp.__version__}"


def to_float(source: TensorType, rows: Bytes, out: Floats) -> None:
    """Decode `rows`, the bytes of whole blocks of type `source`, into the floats of `out`."""
    if source.name == "F32":
        out.reshape(-1).view("u1")[:] = rows.reshape(-1)
    elif source.name == "F64":  # ggml cannot; too large a number becomes infinity
        import numpy as np  # not above: to read a header needs none of it

        with np.errstate(over="ignore"):
            out.reshape(-1)[:] = rows.reshape(-1).view(np.float64)
    else:
        _traits(source.id).to_float(rows.ctypes.data, out.ctypes.data, out.size)


def can_decode(source: TensorType) -> bool:
    """Whether `to_float` knows this type (integers it does not)."""
    return source.name in ("F32", "F64") or bool(_traits(source.id).to_float)


def quantizable(target: TensorType) -> bool:
    """Whether `quantize_rows` can make this type; integers and types of intermediates it cannot."""
    return target.name in ("F32", "F16", "BF16") or (
        target.quantized and target.name not in ("Q8_1", "Q8_K")
    )


def requires_importance(target: TensorType) -> bool:
    """Whether `quantize_rows` would abort the process without `importance`."""
    return bool(_ggml().ggml_quantize_requires_imatrix(target.id))


def quantize_rows(
    target: TensorType, rows: Floats, out: Bytes, importance: Floats | None = None
) -> None:
    """Encode `rows` (rows by columns) as `target` into `out`, which has exactly their size.

    `importance` has a weight for each column. The bytes are those of `llama_model_quantize`, whatever
    rows are encoded together.

    Raises:
        ValueError: the arrays do not fit each other.
    """
    check_rows(target, rows, out, importance)
    n_rows, n_columns = rows.shape
    weights = None if importance is None else importance.ctypes.data
    _ggml().ggml_quantize_chunk(
        target.id, rows.ctypes.data, out.ctypes.data, 0, n_rows, n_columns, weights
    )


def check_rows(target: TensorType, rows: Floats, out: Bytes, importance: Floats | None) -> None:
    """Raise ValueError unless `quantize_rows` can take these arrays; C code would believe them."""
    n_rows, n_columns = rows.shape
    if out.nbytes != n_rows * target.row_bytes(n_columns):
        raise ValueError(f"out has {out.nbytes} bytes, {n_rows} rows of {target.name} need others")
    if importance is None and requires_importance(target):
        raise ValueError(f"{target.name} needs an importance for each column")
    if importance is not None and importance.size != n_columns:
        raise ValueError(f"{importance.size} importances for {n_columns} columns")


def valid_rows(stored: TensorType, rows: Bytes) -> bool:
    """Whether encoded rows hold no infinity and no NaN; ggml says on stderr where one is."""
    return bool(_ggml().ggml_validate_row_data(stored.id, rows.ctypes.data, rows.nbytes))
