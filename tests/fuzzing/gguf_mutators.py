"""Mutations of GGUF files: of the numbers that hold the format together, and of what the file says."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from random import Random
from typing import Any

from codellama.files.gguf_header import (
    GGUFHeader,
    TensorInfo,
    Value,
    ValueType,
    encode_header,
    read_gguf_header,
)
from codellama.native.ggml import tensor_types
from tests.fuzzing.mutators import COUNTS, NAMES, havoc, set_number

_RANGES = {
    ValueType.UINT8: (0, 2**8 - 1), ValueType.INT8: (-(2**7), 2**7 - 1),
    ValueType.UINT16: (0, 2**16 - 1), ValueType.INT16: (-(2**15), 2**15 - 1),
    ValueType.UINT32: (0, 2**32 - 1), ValueType.INT32: (-(2**31), 2**31 - 1),
    ValueType.UINT64: (0, 2**64 - 1), ValueType.INT64: (-(2**63), 2**63 - 1),
}  # fmt: skip
_FLOATS = (0.0, -1.0, 1e-5, 1.0, 1e30, 1e-30, 10000.0, float("inf"), float("-inf"), float("nan"))
_TEXTS = (*NAMES[:10], "llama", "linear", "yarn", "longrope", "phi3", "gpt2", "no_vocab", "adapter")
_EXTRA = (
    *("llama.expert_count", "llama.expert_used_count", "llama.rope.scaling.type", "general.name"),
    *("llama.rope.scaling.factor", "llama.nextn_predict_layers", "llama.pooling_type", "split.no"),
    *("llama.attention.key_length", "llama.attention.value_length", "llama.attention.causal"),
    *(
        "llama.attention.key_length_swa",
        "llama.embedding_length_out",
        "split.count",
        "general.type",
    ),
    *("llama.classifier.output_labels", "tokenizer.ggml.padding_token_id", "tokenizer.ggml.merges"),
    *("tokenizer.ggml.add_eos_token", "tokenizer.ggml.suppress_tokens", "tokenizer.chat_template"),
    *("tokenizer.ggml.token_type_count", "llama.rope.dimension_count_swa", "general.file_type"),
    *("general.alignment", "tokenizer.ggml.pre", "adapter.lora.alpha", "quantize.imatrix.file"),
    *(
        "llama.attention.sliding_window",
        "llama.rope.scaling.yarn_log_multiplier",
        "imatrix.datasets",
    ),
    *(
        "tokenizer.ggml.precompiled_charsmap",
        "tokenizer.ggml.normalizer.lowercase",
        "llama.vocab_size",
    ),
)


@dataclasses.dataclass(frozen=True)
class Seed:
    """A good file in pieces: what its header says, its bytes, and where the numbers in them are."""

    header: GGUFHeader
    data: bytes
    numbers: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, path: Path) -> Seed:
        """Of the file at `path`; `numbers` are place and width of lengths, counts, types, offsets."""
        header, data = read_gguf_header(path), path.read_bytes()
        return cls(header, data, tuple(_numbers(header)))

    @property
    def weights(self) -> bytes:
        return self.data[self.header.data_offset :]


def _numbers(header: GGUFHeader) -> list[tuple[int, int]]:
    """Found again by writing the header piece by piece."""
    places = [(4, 4), (8, 8), (16, 8)]
    position = 24
    for key, value in header.values.items():
        places += [(position, 8), (position + 8 + len(key.encode()), 4)]
        inside = position + 8 + len(key.encode()) + 4
        places += [(inside, 4), (inside + 4, 8)] if value.type is ValueType.ARRAY else [(inside, 8)]
        position += len(encode_header({key: value, "general.alignment": _ONE}, ())) - _EMPTY
    for tensor in header.tensors:
        name = position + 8 + len(tensor.name.encode())
        places += [(position, 8), (name, 4), (name + 4, 8)]
        after = name + 4 + 8 * len(tensor.shape)
        places += [(after, 4), (after + 4, 8)]
        position = after + 12
    return places


_ONE = Value(ValueType.UINT32, 1)  # with an alignment of one nothing is padded
_MOST_PADDING = 4096  # of files that are written; damage may claim any alignment
_EMPTY = len(encode_header({"general.alignment": _ONE}, ()))


def mutate_gguf(rng: Random, seed: Seed) -> bytes:
    """Bytes of a file that is damaged, or says something else."""
    kind = rng.random()
    if kind < 0.15:
        return havoc(rng, seed.data)
    if kind < 0.25:
        end = seed.header.data_offset
        return havoc(rng, seed.data[:end]) + seed.data[end:]
    if kind < 0.5:
        data = seed.data
        for _ in range(rng.randint(1, 3)):
            data = set_number(rng, bytearray(data), *rng.choice(seed.numbers))
        return data
    return another(rng, seed)


def another(rng: Random, seed: Seed, most: int = 3) -> bytes:
    """A well-formed file that says something else."""
    values, tensors = dict(seed.header.values), list(seed.header.tensors)
    for _ in range(rng.randint(1, most)):
        kind = rng.random()
        if kind < 0.5:
            key = rng.choice([*values, rng.choice(_EXTRA)])
            values[key] = _other_value(rng, key, values.get(key, Value(ValueType.UINT32, 1)))
        elif kind < 0.6 and values:
            values.pop(rng.choice(list(values)))
        elif kind < 0.65:
            values[rng.choice(_EXTRA)] = rng.choice(list(values.values()) or [_ONE])
        elif tensors:
            _other_tensor(rng, tensors)
    alignment = values.get("general.alignment", _ONE).value
    if isinstance(alignment, (int, float)) and not 0 < alignment <= _MOST_PADDING:
        del values["general.alignment"]
    return _encoded(values, tensors, seed.weights)


def _encoded(values: dict[str, Value], tensors: list[TensorInfo], weights: bytes) -> bytes:
    """The file, as far as the format can say it; a value that it cannot say is left out."""
    while True:
        try:
            header = encode_header(values, tensors)
        except (struct.error, UnicodeEncodeError, ValueError, TypeError, ArithmeticError):
            del values[next(key for key in values if not _can_be_written(key, values[key]))]
        else:
            break
    needed = sum(-(-t.nbytes // 32) * 32 for t in tensors)
    return (
        header + (weights * (1 + min(needed, 2**21) // max(1, len(weights))))[: min(needed, 2**21)]
    )


def _can_be_written(key: str, value: Value) -> bool:
    try:
        encode_header({"general.alignment": _ONE, key: value}, ())
    except (struct.error, UnicodeEncodeError, ValueError, TypeError, ArithmeticError):
        return False
    return True


def _other_value(rng: Random, key: str, old: Value) -> Value:
    if old.type is ValueType.ARRAY and rng.random() < 0.8:
        return dataclasses.replace(old, value=_other_items(rng, old))
    kind = old.type if rng.random() < 0.7 and old.type is not ValueType.ARRAY else _kind(rng)
    if kind is ValueType.ARRAY:
        item = rng.choice([k for k in ValueType if k is not ValueType.ARRAY])
        return Value(kind, [_scalar(rng, item, 0) for _ in range(rng.randint(0, 3))], item)
    return Value(kind, _scalar(rng, kind, old.value))


def _kind(rng: Random) -> ValueType:
    return rng.choice(list(ValueType))


def _scalar(rng: Random, kind: ValueType, old: Any) -> Any:
    if kind is ValueType.STRING:
        return rng.choice(_TEXTS)
    if kind is ValueType.BOOL:
        return rng.random() < 0.5
    if kind in (ValueType.FLOAT32, ValueType.FLOAT64):
        return rng.choice(_FLOATS)
    least, most = _RANGES[kind]
    near = old + rng.randint(-2, 2) if isinstance(old, int) else 1
    new = rng.choice((rng.choice(COUNTS), near, 2 ** rng.randint(0, 9), rng.randint(0, 300)))
    return min(max(new, least), most)


def _other_items(rng: Random, old: Value) -> list[Any]:
    items, kind = list(old.value), old.item_type
    assert kind is not None
    place = rng.randrange(len(items)) if items else 0
    choice = rng.random()
    if choice < 0.15 or not items:
        return items[:place]
    if choice < 0.3:
        return [*items, items[place]]
    if choice < 0.45:
        items[place] = rng.choice(items)
    elif choice < 0.5:
        rng.shuffle(items)
    else:
        items[place] = _scalar(rng, kind, items[place])
    return items


def _other_tensor(rng: Random, tensors: list[TensorInfo]) -> None:
    place = rng.randrange(len(tensors))
    tensor, kind = tensors[place], rng.random()
    if kind < 0.15:
        del tensors[place]
    elif kind < 0.25:
        tensors.insert(rng.randint(0, len(tensors)), dataclasses.replace(tensor, name=_name(rng)))
    elif kind < 0.35:
        tensors[place] = dataclasses.replace(tensor, name=_name(rng))
    elif kind < 0.45:
        other = rng.randrange(len(tensors))
        tensors[place], tensors[other] = tensors[other], tensors[place]
    elif kind < 0.75:
        tensors[place] = retyped(rng, tensor)
    else:
        tensors[place] = _reshaped(rng, tensor)


def _name(rng: Random) -> str:
    names = ("blk.0.attn_q.bias", "rope_freqs.weight", "blk.511.attn_q.weight", "output.bias")
    return rng.choice((*NAMES[:-4], *names)).encode("utf-8", "replace").decode()[:63]


def retyped(rng: Random, tensor: TensorInfo) -> TensorInfo:
    """The tensor with another type, and the size that goes with it."""
    kind = rng.choice([k for k in tensor_types().values() if not tensor.shape[0] % k.block_size])
    nbytes = kind.row_bytes(tensor.shape[0])
    for dimension in tensor.shape[1:]:
        nbytes *= dimension
    return dataclasses.replace(tensor, type_name=kind.name, nbytes=nbytes)


def _reshaped(rng: Random, tensor: TensorInfo) -> TensorInfo:
    shape = list(tensor.shape)
    kind = rng.random()
    if kind < 0.25:
        shape = shape[::-1]
    elif kind < 0.5:
        shape.append(rng.choice((1, 1, 2)))
    else:
        shape[rng.randrange(len(shape))] = rng.choice((*COUNTS[:12], rng.randint(1, 300)))
    nbytes = 4
    for dimension in shape:
        nbytes *= dimension
    return TensorInfo(tensor.name, tuple(shape[:4]), "F32", 0, min(nbytes, 2**21))
