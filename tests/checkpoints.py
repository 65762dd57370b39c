"""Writes small Hugging Face checkpoints for tests: random weights, a real SentencePiece model.

Only numpy: safetensors files and the SentencePiece protobuf are put together by hand, so tests can
also make them wrong on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from make_random_model import Shape
from stand_ins.checkpoint import tensor_shapes
from stand_ins.formats import Piece as Piece
from stand_ins.formats import safetensors_head as safetensors_head
from stand_ins.formats import sentencepiece_model as sentencepiece_model

INDEX = "model.safetensors.index.json"

_MOST_MERGES = 2000

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


@dataclass(frozen=True)
class Checkpoint:
    """What to write. `pieces` are those of tokenizer.model, `added` goes to added_tokens.json.

    `config` is laid over the config.json that the other fields make.
    """

    hidden: int = 256
    ffn: int = 512
    layers: int = 2
    heads: int = 8
    kv_heads: int = 2
    head_dim: int | None = None
    pieces: Sequence[Piece] = ()
    added: Mapping[str, int] | None = None
    dtype: str = "BF16"
    shards: int = 2
    seed: int = 0
    tied: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vocabulary(self) -> Sequence[Piece]:
        return self.pieces or tiny_pieces()

    @property
    def added_tokens(self) -> Mapping[str, int]:
        return {"<step>": len(self.vocabulary)} if self.added is None else self.added

    @property
    def vocab_size(self) -> int:
        return max([len(self.vocabulary), *(i + 1 for i in self.added_tokens.values())])


def tiny_pieces() -> list[Piece]:
    """A byte-level vocabulary with a few merges: 3 control pieces, 256 bytes, letters and words."""
    merges = ["▁", *"abcdefghijklmnopqrstuvwxyz:", "So", "▁So", "ur", "ce", "▁user", "S", "er"]
    return [
        ("<unk>", 0.0, UNKNOWN),
        ("<s>", 0.0, CONTROL),
        ("</s>", 0.0, CONTROL),
        *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)),
        *((piece, -float(rank), NORMAL) for rank, piece in enumerate(merges)),
    ]


def write_checkpoint(folder: Path, checkpoint: Checkpoint | None = None) -> Path:
    """Write `checkpoint` (default: a small one) into `folder`, which is made; returns `folder`."""
    checkpoint = checkpoint or Checkpoint()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config_json(checkpoint))
    write_json(folder / "added_tokens.json", dict(checkpoint.added_tokens))
    write_json(folder / "tokenizer_config.json", tokenizer_config(checkpoint))
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": [2, checkpoint.vocab_size - 1], "temperature": 0.2},
    )
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(checkpoint.vocabulary))
    write_shards(folder, list(random_tensors(checkpoint)), checkpoint.shards)
    return folder


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json with the keys the published ones have."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": checkpoint.hidden,
        "intermediate_size": checkpoint.ffn,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": checkpoint.heads,
        "num_hidden_layers": checkpoint.layers,
        "num_key_value_heads": checkpoint.kv_heads,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": checkpoint.tied,
        "torch_dtype": "bfloat16",
        "vocab_size": checkpoint.vocab_size,
        **({} if checkpoint.head_dim is None else {"head_dim": checkpoint.head_dim}),
        **checkpoint.config,
    }


def tokenizer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """tokenizer_config.json; added tokens are not special here, as some repositories have it."""
    rows = [(0, "<unk>", True), (1, "<s>", True), (2, "</s>", True)]
    rows += [(i, token, False) for token, i in checkpoint.added_tokens.items()]
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(i): {"content": token, "special": special} for i, token, special in rows
        },
        "bos_token": "<s>",
        "chat_template": "{{ messages }}",
        "eos_token": "</s>",
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }


def tokenizer_json(
    texts: Sequence[str], added: Mapping[int, tuple[str, bool]] | None = None
) -> dict[str, Any]:
    """tokenizer.json as transformers 5 writes it: `texts` by id, and `added` tokens with their `special`.

    The merges are in the order of the ids, which is not SentencePiece's; of many only the first.
    """
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    rows = {0: ("<unk>", True), 1: ("<s>", True), 2: ("</s>", True)} if added is None else added
    known = set(texts)
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": text, **flags, "special": special}
            for i, (text, special) in rows.items()
        ],
        "normalizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
            "pair": [
                {"SpecialToken": {"id": "<s>"}},
                {"Sequence": {"id": "A"}},
                {"SpecialToken": {"id": "<s>"}},
                {"Sequence": {"id": "B"}},
            ],
        },
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "unk_token": "<unk>",
            "vocab": {text: i for i, text in enumerate(texts)},
            "merges": [
                [text[:cut], text[cut:]]
                for text in texts[259:_MOST_MERGES]
                for cut in range(1, len(text))
                if {text[:cut], text[cut:]} <= known
            ],
        },
    }


def random_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """Name, dtype and data of every tensor; BF16 data is held as its upper 16 bits."""
    generator = np.random.default_rng(checkpoint.seed)
    measures = Shape(
        hidden=checkpoint.hidden,
        ffn=checkpoint.ffn,
        layers=checkpoint.layers,
        heads=checkpoint.heads,
        kv_heads=checkpoint.kv_heads,
        vocab=checkpoint.vocab_size,
    )
    for name, shape in tensor_shapes(measures, checkpoint.head_dim, checkpoint.tied):
        values = generator.standard_normal(shape, np.float32) * np.float32(0.05)
        if len(shape) == 1:
            values += np.float32(1)
        yield name, checkpoint.dtype, stored(values, checkpoint.dtype)


def stored(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """The values as `dtype`; BF16 by cutting off."""
    if dtype == "BF16":
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype])


def write_shards(
    folder: Path, tensors: Sequence[tuple[str, str, NDArray[Any]]], shards: int
) -> None:
    """Spread tensors over `shards` files; more than one get an index."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return
    weight_map: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = tensors[number * len(tensors) // shards : (number + 1) * len(tensors) // shards]
        write_safetensors(folder / name, part)
        weight_map |= {tensor: name for tensor, _, _ in part}
    total = sum(data.nbytes for _, _, data in tensors)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_safetensors(path: Path, tensors: Sequence[tuple[str, str, NDArray[Any]]]) -> None:
    """One shard."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, data in tensors:
        begin, end = end, end + data.nbytes
        header[name] = {"dtype": dtype, "shape": data.shape, "data_offsets": [begin, end]}
    with path.open("wb") as file:
        file.write(safetensors_head(header))
        for _, _, data in tensors:
            file.write(data.tobytes())
