"""Meta's own download as a source: params.json, tokenizer.model and consolidated.00.pth to .07.pth.

The weights are spread over as many files as GPUs ran the model. Each file has a share of the rows of most
matrices and a share of the columns of the others; `MetaSource` puts rows together while they are read.
Meta keeps the rows of wq and wk in llama.cpp's order already (see `tensors`). Source: `llama/model.py` of
meta-llama/codellama, whose layers are fairscale's `ColumnParallelLinear` and `RowParallelLinear`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codellama.errors import CheckpointError
from codellama.files.gguf_header import Value, ValueType
from codellama.files.safetensors_header import SafeTensor
from codellama.files.small_files import check_small_files, read_json, shown
from codellama.files.torch_file import read_torch_header
from codellama.native.arrays import Bytes
from codellama.native.ggml import tensor_type
from codellama.weights.config import LlamaConfig, config_of
from codellama.weights.metadata import checkpoint_metadata
from codellama.weights.source import WEIGHT_DTYPES, Source, SourceTensor, local_identity
from codellama.weights.tensors import Expected, expected_tensors
from codellama.weights.vocab import TokenTable, read_vocabulary

PARAMS = "params.json"

_SHARD = re.compile(r"consolidated\.(\d\d)\.pth", re.ASCII)
_IGNORED = "rope.freqs"
_LONG_ROPE, _LONG, _SHORT = 10000.0, 16384, 4096

_ROWS, _COLUMNS = 0, 1
_NAMES: Mapping[str, tuple[str, int | None]] = {
    "token_embd": ("tok_embeddings", _COLUMNS),
    "output_norm": ("norm", None),
    "output": ("output", _ROWS),
    "attn_norm": ("attention_norm", None),
    "attn_q": ("attention.wq", _ROWS),
    "attn_k": ("attention.wk", _ROWS),
    "attn_v": ("attention.wv", _ROWS),
    "attn_output": ("attention.wo", _COLUMNS),
    "ffn_norm": ("ffn_norm", None),
    "ffn_gate": ("feed_forward.w1", _ROWS),
    "ffn_up": ("feed_forward.w3", _ROWS),
    "ffn_down": ("feed_forward.w2", _COLUMNS),
}
"""Meta's name of a tensor by the GGUF's, and what of it the files share: rows, columns, or nothing."""


@dataclass(frozen=True)
class _Parts:
    """The shares of a tensor, file by file; `axis` is None where each file has the whole."""

    axis: int | None
    tensors: tuple[SafeTensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.tensors[0].shape)
        if self.axis is not None and len(shape) == 2:
            shape[self.axis] = sum(part.shape[self.axis] for part in self.tensors)
        return tuple(shape)


class MetaSource(Source):
    """A source whose tensors are put together from their shares."""

    def __init__(
        self, folder: Path, metadata: dict[str, Value], parts: Mapping[str, _Parts]
    ) -> None:
        tensors = [_source_tensor(name, each) for name, each in parts.items()]
        files = [tensor.path for each in parts.values() for tensor in each.tensors]
        identity = local_identity(folder, files)
        super().__init__(folder, metadata, tensors, verbatim=False, identity=identity)
        self._parts = parts

    def read(self, tensor: SourceTensor, first_row: int, out: Bytes) -> None:
        parts = self._parts[tensor.name]
        if parts.axis is None or len(parts.tensors) == 1:
            super().read(tensor, first_row, out)
        elif parts.axis == _ROWS:
            self._read_rows(parts, tensor, first_row, out)
        else:
            self._read_columns(parts, tensor, first_row, out)

    def _read_rows(self, parts: _Parts, tensor: SourceTensor, first_row: int, out: Bytes) -> None:
        width = tensor.row_bytes
        wanted = range(first_row, first_row + out.nbytes // width)
        start = 0
        for part in parts.tensors:
            held = range(max(wanted.start, start), min(wanted.stop, start + part.shape[0]))
            if held:
                place = (held.start - wanted.start) * width
                position = part.offset + (held.start - start) * width
                rows = out[place : place + len(held) * width]
                self._read_at(part.path, position, rows, part.name)
            start += part.shape[0]

    def _read_columns(
        self, parts: _Parts, tensor: SourceTensor, first_row: int, out: Bytes
    ) -> None:
        rows = out.reshape(-1, tensor.row_bytes)
        start = 0
        for part in parts.tensors:
            width = tensor.type.row_bytes(part.shape[1])
            share = np.empty((len(rows), width), np.uint8)
            self._read_at(part.path, part.offset + first_row * width, share, part.name)
            rows[:, start : start + width] = share
            start += width


def open_meta(folder: Path) -> Source:
    """The weights that Meta publishes, in a local folder, as a source.

    Raises:
        CheckpointError: a file is missing, truncated or at odds with the others or with params.json;
            a pickle that holds anything but tensors.
    """
    folder = Path(os.path.abspath(folder))
    check_small_files(folder)
    parts = _parts(folder, [_read_shard(path) for path in _shards(folder)])
    config = _config(folder, parts)
    found = _match(folder, config, parts)
    n_parameters = sum(math.prod(each.shape) for each in found.values())
    vocabulary = read_vocabulary(folder, config)
    metadata = checkpoint_metadata(folder, config, vocabulary, n_parameters)
    return MetaSource(folder, metadata | _special_tokens(metadata, vocabulary), found)


def _shards(folder: Path) -> list[Path]:
    names = sorted(path.name for path in folder.iterdir() if _SHARD.fullmatch(path.name))
    if not names:
        raise CheckpointError(
            f"{folder}: params.json is there, but not consolidated.00.pth", "download it"
        )
    for number, name in enumerate(names):
        if name != f"consolidated.{number:02}.pth":
            raise CheckpointError(f"{folder}: consolidated.{number:02}.pth is missing: download it")
    return [folder / name for name in names]


def _read_shard(path: Path) -> dict[str, SafeTensor]:
    tensors = read_torch_header(path)
    return {tensor.name: tensor for tensor in tensors if not tensor.name.endswith(_IGNORED)}


def _parts(folder: Path, shards: list[dict[str, SafeTensor]]) -> dict[str, _Parts]:
    """All tensors by Meta's names."""
    axes = dict(_NAMES.values())
    found = {}
    for name in sorted({name for shard in shards for name in shard}):
        kind = re.sub(r"^layers\.\d+\.|\.weight$", "", name)
        tensors = tuple(shard[name] for shard in shards if name in shard)
        if len(tensors) != len(shards) or kind not in axes:
            raise CheckpointError(
                f"{folder}: {name} is not in all files, or no tensor of Code Llama"
            )
        _check_alike(tensors, axes[kind])
        found[name] = _Parts(axes[kind], tensors)
    return found


def _check_alike(parts: Iterable[SafeTensor], axis: int | None) -> None:
    first, *others = parts
    for part in others:
        if part.dtype != first.dtype or _without(part.shape, axis) != _without(first.shape, axis):
            raise CheckpointError(
                f"{part.path}: {part.name} is {part.dtype} {list(part.shape)}, which does not go "
                f"with {first.dtype} {list(first.shape)} in {first.path.name}"
            )


def _without(shape: tuple[int, ...], axis: int | None) -> tuple[int | None, ...]:
    return tuple(None if i == axis else length for i, length in enumerate(shape))


def _config(folder: Path, parts: Mapping[str, _Parts]) -> LlamaConfig:
    """The hyperparameters under the names of config.json, as the published config.json files have them."""
    path = folder / PARAMS
    params = read_json(path)
    if params.get("use_scaled_rope"):
        raise CheckpointError(f"{path}: use_scaled_rope is set: no Code Llama model has it")
    theta = params.get("rope_theta", _LONG_ROPE)
    values: dict[str, Any] = {
        "hidden_size": params.get("dim"),
        "num_hidden_layers": params.get("n_layers"),
        "num_attention_heads": params.get("n_heads"),
        "num_key_value_heads": params.get("n_kv_heads"),
        "rms_norm_eps": params.get("norm_eps"),
        "rope_theta": theta,
        # params.json does not say it; Meta trained those with the long base, and no others, for more.
        "max_position_embeddings": _LONG if theta != _LONG_ROPE else _SHORT,
        "vocab_size": _length(folder, parts, "tok_embeddings.weight"),
        "intermediate_size": _length(folder, parts, "layers.0.feed_forward.w1.weight"),
    }
    return config_of(path, values)


def _length(folder: Path, parts: Mapping[str, _Parts], name: str) -> int:
    if name not in parts or len(parts[name].shape) != 2:
        raise CheckpointError(f"{folder}: there is no matrix {name} in the files")
    return parts[name].shape[0]


def _match(folder: Path, config: LlamaConfig, parts: Mapping[str, _Parts]) -> dict[str, _Parts]:
    """The tensors under their GGUF names; they must be exactly those that params.json asks for."""
    left = dict(parts)
    found = {}
    for expected in expected_tensors(config):
        name = _meta_name(expected)
        each = left.pop(name, None)
        if each is None:
            raise CheckpointError(f"{folder}: {name} is in none of the files: download them again")
        if each.shape != expected.shape:
            raise CheckpointError(
                f"{folder}: {name} has shape {list(each.shape)} in all files together, params.json "
                f"makes it {list(expected.shape)}",
                "a file consolidated.XX.pth is missing, or one of another model is there",
            )
        if each.tensors[0].dtype not in WEIGHT_DTYPES:
            raise CheckpointError(
                f"{folder}: {name} is {each.tensors[0].dtype}, no type of weights"
            )
        found[expected.name] = each
    if left:
        raise CheckpointError(
            f"{folder}: {shown(min(left))} is no tensor of what params.json describes"
        )
    return found


def _meta_name(expected: Expected) -> str:
    layer = re.match(r"blk\.(\d+)\.", expected.name)
    kind = expected.name.removesuffix(".weight").rpartition(".")[2]
    return f"{f'layers.{layer[1]}.' if layer else ''}{_NAMES[kind][0]}.weight"


def _source_tensor(name: str, parts: _Parts) -> SourceTensor:
    first = parts.tensors[0]
    return SourceTensor(name, parts.shape, tensor_type(first.dtype), first.path, first.offset)


def _special_tokens(metadata: Mapping[str, Value], vocabulary: TokenTable) -> dict[str, Value]:
    """What Hugging Face's files say beside the vocabulary: the special tokens of Meta's tokenizer.py."""
    keys = {}
    for name, token in (("bos", "<s>"), ("eos", "</s>"), ("unknown", "<unk>")):
        if token in vocabulary.tokens:
            number = vocabulary.tokens.index(token)
            keys[f"tokenizer.ggml.{name}_token_id"] = Value(ValueType.UINT32, number)
    keys["tokenizer.ggml.add_bos_token"] = Value(ValueType.BOOL, True)
    keys["tokenizer.ggml.add_eos_token"] = Value(ValueType.BOOL, False)
    return {key: value for key, value in keys.items() if key not in metadata}
