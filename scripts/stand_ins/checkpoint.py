"""A checkpoint of any shape that is made up while it is read: config, tokenizer, weights; nothing is stored.

Weights are a pool of normal numbers that every tensor reads from a place of its own, round and round; so
any byte of a 138 GB checkpoint is there at the speed of memory, and the same each time. Shards hold the
tensors in the order transformers saves them, as many as fit.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from make_random_model import Shape
from stand_ins.formats import Piece, safetensors_head, sentencepiece_model
from stand_ins.hub import blob_id, is_large

SHARD_BYTES = 5 * 10**9
"""transformers' limit when the 70B was published: it makes the 29 files that its repository has."""

_PIECE_BYTES = 2**20
_POOL = 2**24 - 3  # weights; a prime, so no row of a matrix begins where another does
_DEVIATION = 0.02  # about that of Llama's weights
_BF16_ONE = 0x3F80


CODELLAMA_70B = Shape(hidden=8192, ffn=28672, layers=80, heads=64, kv_heads=8, vocab=32016)
TINY = Shape(hidden=256, ffn=512, layers=6, heads=8, kv_heads=2, vocab=512)


@dataclass(frozen=True)
class Tensor:
    """A tensor of a shard: its bytes begin at `offset` of the file."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return 2 * math.prod(self.shape)


def tensor_shapes(
    shape: Shape, head_dim: int | None = None, tied: bool = False
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of the model, in the order transformers saves them; `tied` ones lack the last.

    `head_dim` is the width of a head, None for the hidden size by the number of heads.
    """
    hidden, ffn = shape.hidden, shape.ffn
    head_dim = head_dim or hidden // shape.heads
    q, kv = head_dim * shape.heads, head_dim * shape.kv_heads
    yield "model.embed_tokens.weight", (shape.vocab, hidden)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield f"{prefix}self_attn.q_proj.weight", (q, hidden)
        yield f"{prefix}self_attn.k_proj.weight", (kv, hidden)
        yield f"{prefix}self_attn.v_proj.weight", (kv, hidden)
        yield f"{prefix}self_attn.o_proj.weight", (hidden, q)
        yield f"{prefix}mlp.gate_proj.weight", (ffn, hidden)
        yield f"{prefix}mlp.up_proj.weight", (ffn, hidden)
        yield f"{prefix}mlp.down_proj.weight", (hidden, ffn)
        yield f"{prefix}input_layernorm.weight", (hidden,)
        yield f"{prefix}post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (shape.vocab, hidden)


@functools.cache
def _pool() -> npt.NDArray[np.uint16]:
    """The pool as BF16, and its beginning once more, so that no piece has to be put together."""
    rng = np.random.default_rng(70)
    values = rng.standard_normal(_POOL, dtype=np.float32) * np.float32(_DEVIATION)
    stored = ((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
    return np.concatenate([stored, stored[:_PIECE_BYTES]])


@functools.cache
def _ones() -> npt.NDArray[np.uint16]:
    return np.full(_PIECE_BYTES, _BF16_ONE, dtype=np.uint16)


def _place(name: str) -> int:
    return zlib.crc32(name.encode()) * 7919 % _POOL


def weights(name: str, first: int, count: int) -> npt.NDArray[np.uint16]:
    """`count` (at most 2^20) weights of a matrix from number `first` on, as the upper halves of F32."""
    begin = (_place(name) + first) % _POOL
    return _pool()[begin : begin + count]


def _tensor_pieces(tensor: Tensor, begin: int, end: int) -> Iterator[memoryview]:
    """Bytes of a tensor, by offsets in it; a vector (a norm) is all ones."""
    while begin < end:
        first = begin // 2
        count = min(_PIECE_BYTES // 2, -(-end // 2) - first)
        made = _ones()[:count] if len(tensor.shape) == 1 else weights(tensor.name, first, count)
        piece = made.view(np.uint8).data[begin - 2 * first :][: end - begin]
        begin += len(piece)
        yield piece


class Text:
    """A small file that is all there."""

    def __init__(self, name: str, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.sha256 = hashlib.sha256(data).hexdigest() if is_large(name) else None
        self.blob_id = blob_id(data)

    def pieces(self, begin: int, end: int) -> Iterator[bytes | memoryview]:
        """The bytes from `begin` to `end`."""
        yield self.data[begin:end]


class Shard:
    """A safetensors file of made-up weights. `sha256` is worked out when it is first asked for."""

    def __init__(self, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in tensors:
            begin, end = end, end + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        self.head = safetensors_head(header)
        self.tensors = [
            Tensor(name, shape, len(self.head) + header[name]["data_offsets"][0])
            for name, shape in tensors
        ]
        self.size = len(self.head) + end
        self.blob_id = blob_id(self.head)

    @functools.cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self.pieces(0, self.size):
            digest.update(piece)
        return digest.hexdigest()

    def pieces(self, begin: int, end: int) -> Iterator[bytes | memoryview]:
        """The bytes from `begin` to `end`."""
        if begin < len(self.head):
            yield self.head[begin:end]
        for tensor in self.tensors:
            first = max(begin, tensor.offset)
            last = min(end, tensor.offset + tensor.nbytes)
            if first < last:
                yield from _tensor_pieces(tensor, first - tensor.offset, last - tensor.offset)


class MadeUpCheckpoint:
    """A checkpoint in CodeLlama-70b-Instruct's layout. `files` are its files by name.

    `pieces` are those of tokenizer.model; `<step>` follows as last id. Shards have at most `shard_bytes`.
    """

    def __init__(
        self, shape: Shape, pieces: Sequence[Piece], shard_bytes: int = SHARD_BYTES
    ) -> None:
        if len(pieces) != shape.vocab - 1:
            raise ValueError(f"{len(pieces)} pieces and <step> for a vocabulary of {shape.vocab}")
        self.shape = shape
        groups = _groups(list(tensor_shapes(shape)), shard_bytes)
        self.shards = {
            f"model-{i + 1:05}-of-{len(groups):05}.safetensors": Shard(group)
            for i, group in enumerate(groups)
        }
        texts = {
            "config.json": _json(config_json(shape)),
            "generation_config.json": _json(
                {"bos_token_id": 1, "eos_token_id": [2, shape.vocab - 1]}
            ),
            "added_tokens.json": _json({"<step>": shape.vocab - 1}),
            "tokenizer_config.json": _json(_tokenizer_config(shape)),
            "tokenizer.model": sentencepiece_model(pieces),
            "model.safetensors.index.json": _json(self._index()),
        }
        self.texts = {name: Text(name, data) for name, data in texts.items()}

    @property
    def files(self) -> Mapping[str, Text | Shard]:
        return {**self.texts, **self.shards}

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, without headers."""
        return sum(tensor.nbytes for shard in self.shards.values() for tensor in shard.tensors)

    def _index(self) -> dict[str, Any]:
        places = {t.name: name for name, shard in self.shards.items() for t in shard.tensors}
        return {"metadata": {"total_size": self.weight_bytes}, "weight_map": places}

    def hash_all(self, threads: int) -> None:
        """Work out the hashes of all shards, as a hub has them before anybody asks."""
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda shard: shard.sha256, self.shards.values()))

    def write(self, folder: Path) -> Path:
        """Write all files into `folder`, which is made; returns it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in self.files.items():
            with (folder / name).open("wb") as out:
                for piece in file.pieces(0, file.size):
                    out.write(piece)
        return folder


def _groups(
    tensors: Sequence[tuple[str, tuple[int, ...]]], limit: int
) -> list[list[tuple[str, tuple[int, ...]]]]:
    groups: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    held = 0
    for name, shape in tensors:
        nbytes = 2 * math.prod(shape)
        if held + nbytes > limit and groups[-1]:
            groups.append([])
            held = 0
        groups[-1].append((name, shape))
        held += nbytes
    return groups


def _json(content: object) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"


def config_json(shape: Shape) -> dict[str, Any]:
    """config.json as CodeLlama-70b-Instruct has it: 4096 tokens, rope base 1e4."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocab,
    }


def _tokenizer_config(shape: Shape) -> dict[str, Any]:
    rows = [(0, "<unk>"), (1, "<s>"), (2, "</s>"), (shape.vocab - 1, "<step>")]
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(i): {"content": text, "special": True} for i, text in rows},
        "bos_token": "<s>",
        "chat_template": "{{ messages }}",
        "eos_token": "</s>",
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }
