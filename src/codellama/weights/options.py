"""What a caller may ask of the quantizer beyond the type, with llama-quantize's meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from codellama.errors import ConversionError
from codellama.files.imatrix_file import ImportanceMatrix
from codellama.native.arrays import Floats
from codellama.native.ggml import TensorType, quantizable, tensor_types


@dataclass(frozen=True)
class QuantOptions:
    """How tensors get their types and how they are rounded; the defaults are llama-quantize's.

    Types of tensors are ggml's ("Q8_0", in any case), not types of files.

    - `imatrix`: which columns matter how much.
    - `output_type`, `embedding_type`: the type of output.weight and of token_embd.weight.
    - `tensor_types`: pairs of a regular expression, searched in tensor names in lower case, and a type;
      the first match counts. It is ignored where the file's type is F32, F16 or BF16.
    - `pure`: no mixture, every matrix gets the same type.
    - `leave_output`: output.weight keeps the type it has in the source.
    - `allow_requantize`: accept weights that are quantized already.
    """

    imatrix: ImportanceMatrix | None = None
    output_type: str | None = None
    embedding_type: str | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    pure: bool = False
    leave_output: bool = False
    allow_requantize: bool = False

    def __post_init__(self) -> None:
        for name in (
            self.output_type,
            self.embedding_type,
            *(kind for _, kind in self.tensor_types),
        ):
            if name is not None:
                weight_type(name)
        for pattern, _ in self.tensor_types:
            if not pattern or "\0" in pattern:
                raise ConversionError(f"{pattern!r} matches no tensor: give a part of its name")

    @property
    def importance(self) -> Mapping[str, Floats]:
        return self.imatrix.entries if self.imatrix else {}

    @property
    def names_types(self) -> bool:
        """Whether the type of some tensor is not llama.cpp's own choice."""
        return bool(self.output_type or self.embedding_type or self.tensor_types or self.pure)

    def describe(self) -> str:
        """All that is not default, in one line; equal for equal results."""
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, ImportanceMatrix):
                value = value.digest[:16]
            if isinstance(value, tuple):
                value = ",".join(f"{pattern}={kind.upper()}" for pattern, kind in value)
            if value and field.name != "allow_requantize":
                parts.append(field.name if value is True else f"{field.name} {value}")
        return "; ".join(parts) or "none"


def weight_type(name: str) -> TensorType:
    """The ggml type called `name`, in any case.

    Raises:
        ConversionError: there is none, or weights cannot be quantized to it; the message lists all.
    """
    known = {kind.name: kind for kind in tensor_types().values() if quantizable(kind)}
    if name.upper() not in known:
        raise ConversionError(f"unknown tensor type {name!r}; ggml has {', '.join(known)}")
    return known[name.upper()]
