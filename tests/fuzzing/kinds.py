"""What is fuzzed: how each kind of file is mutated, how it is read, which errors it may raise.

A kind keeps one good file (or folder), writes a mutated one over it and reads that. Only files that people
get from others are here.
"""

from __future__ import annotations

import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from codellama.cli.inspect import describe
from codellama.engine.batch import KVState
from codellama.errors import CheckpointError, CodeLlamaError, ConversionError, ModelLoadError
from codellama.files.gguf_header import Value, ValueType, encode_header
from codellama.files.imatrix_file import read_imatrix
from codellama.files.loadable import check_adapter, read_model, read_vocabulary
from codellama.files.provenance import manifest, manifest_path, read_manifest
from codellama.files.safetensors_header import read_safetensors_header
from codellama.files.small_files import INDEX
from codellama.files.split import read_model_header
from codellama.running.kv_file import MAGIC, Owner, StaleStateError, read_state, write_state
from codellama.variants import recognise
from codellama.weights import vocab
from codellama.weights.config import read_config
from codellama.weights.source import open_checkpoint
from tests import tiny_model
from tests.checkpoints import Checkpoint, sentencepiece_model, tokenizer_json, write_checkpoint
from tests.fuzzing.gguf_mutators import Seed, mutate_gguf
from tests.fuzzing.mutators import COUNTS, havoc, mutate_json

SMALL = Checkpoint(hidden=8, ffn=8, layers=1, heads=2, kv_heads=1)


class Kind(ABC):
    """One kind of file. `write` puts the case of a generator on the disk, `read` reads it."""

    errors: tuple[type[CodeLlamaError], ...] = (CheckpointError,)
    seconds = 5.0
    """How much processor time reading one may take."""
    limited = True
    """Whether it is all Python's work, whose memory can be limited, and whose messages name the file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = self.make()
        self.good = self.path.read_bytes()

    @abstractmethod
    def make(self) -> Path:
        """Write a good file, and what belongs to it; the path of the one to mutate."""

    @abstractmethod
    def mutate(self, rng: Random) -> bytes:
        """The bytes of a case."""

    @abstractmethod
    def read(self) -> None:
        """Read what is there as the program does."""

    def write(self, rng: Random) -> None:
        rewrite(self.path, self.mutate(rng))


def rewrite(path: Path, data: bytes) -> None:
    """Put `data` in place of a file: some file systems write to the disk when one is emptied first."""
    path.unlink()
    path.write_bytes(data)


class SafeTensors(Kind):
    """The header of a shard."""

    def make(self) -> Path:
        write_checkpoint(self.folder, Checkpoint(hidden=8, ffn=8, layers=1, heads=2, shards=1))
        return self.folder / "model.safetensors"

    def mutate(self, rng: Random) -> bytes:
        length = int.from_bytes(self.good[:8], "little")
        if rng.random() < 0.25:
            return havoc(rng, self.good[: 8 + length]) + self.good[8 + length :]
        text = mutate_json(rng, json.loads(self.good[8 : 8 + length]))
        claimed = rng.choice((*COUNTS, len(text) + rng.randint(-9, 9)))
        claimed = len(text) if rng.random() < 0.8 else claimed
        return struct.pack("<Q", claimed & (2**64 - 1)) + text + self.good[8 + length :]

    def read(self) -> None:
        read_safetensors_header(self.path)


class Gguf(Kind):
    """The header of a model, read by everything that reads one."""

    errors = (ModelLoadError,)

    def make(self) -> Path:
        path = tiny_model.write(self.folder / "tiny.gguf")
        self.seed = Seed.read(path)
        return path

    def mutate(self, rng: Random) -> bytes:
        return mutate_gguf(rng, self.seed)

    def read(self) -> None:
        header = read_model_header(self.path)
        recognise(header.metadata)
        json.dumps(describe([header]))
        read_vocabulary(self.path)
        read_model(self.path)


class CheckpointFile(Kind):
    """A small file of a checkpoint, read when the checkpoint is opened."""

    name: str

    def make(self) -> Path:
        write_checkpoint(self.folder, SMALL)
        for name, content in _OTHER_FILES.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (self.folder / name).write_text(text, encoding="utf-8")
        return self.folder / self.name

    def mutate(self, rng: Random) -> bytes:
        return mutate_json(rng, json.loads(self.good))

    def read(self) -> None:
        open_checkpoint(self.folder).close()


class Index(CheckpointFile):
    """The index of the shards."""

    name = INDEX


class Config(CheckpointFile):
    """config.json."""

    name = "config.json"


class TokenizerModel(CheckpointFile):
    """tokenizer.model: protobuf."""

    name = "tokenizer.model"

    def make(self) -> Path:
        path = super().make()
        self.config = read_config(self.folder / "config.json")
        return path

    def mutate(self, rng: Random) -> bytes:
        if rng.random() < 0.4:
            return havoc(rng, self.good)
        pieces: list[list[Any]] = [list(piece) for piece in SMALL.vocabulary]
        for _ in range(rng.randint(1, 3)):
            field = rng.randrange(3)
            rng.choice(pieces)[field] = rng.choice(_PIECE_FIELDS[field])
        if rng.random() < 0.1:
            pieces = pieces[: rng.randrange(len(pieces))] + pieces[rng.randrange(len(pieces)) :]
        data = sentencepiece_model([(p[0], p[1], p[2]) for p in pieces])
        return havoc(rng, data, 2) if rng.random() < 0.2 else data

    def read(self) -> None:
        vocab.read_vocabulary(self.folder, self.config)


class SmallFile(CheckpointFile):
    """The other JSON files, the model card and the template, one of them at a time."""

    name = "tokenizer_config.json"

    def make(self) -> Path:
        super().make()
        self.names = ("tokenizer_config.json", "added_tokens.json", *_OTHER_FILES)
        self.contents = {name: (self.folder / name).read_bytes() for name in self.names}
        return self.folder / self.name

    def write(self, rng: Random) -> None:
        rewrite(self.path, self.contents[self.path.name])
        self.path = self.folder / rng.choice(self.names)
        good = self.contents[self.path.name]
        if self.path.suffix == ".json":
            rewrite(self.path, mutate_json(rng, json.loads(good)))
        elif rng.random() < 0.5:
            rewrite(self.path, havoc(rng, good))
        else:
            card = rng.choice(_CARDS) * rng.choice((1, 1, 10, 5000))
            rewrite(self.path, f"---\n{card}\n---\n".encode())


class Imatrix(Kind):
    """An importance matrix of either format."""

    errors = (ConversionError,)

    def make(self) -> Path:
        import numpy as np

        from codellama.weights.imatrix import Sums, _write

        path = self.folder / "i.gguf"
        sums = Sums({"blk.0.attn_q.weight": np.ones(8)}, {"blk.0.attn_q.weight": 4}, 2)
        _write(path, sums, "text", 512)
        self.seed = Seed.read(path)
        name = b"blk.0.attn_q.weight"
        entry = struct.pack("<i", len(name)) + name + struct.pack("<ii8f", 2, 8, *range(8))
        self.legacy = struct.pack("<i", 1) + entry + struct.pack("<ii", 2, 4) + b"text"
        return path

    def mutate(self, rng: Random) -> bytes:
        return havoc(rng, self.legacy) if rng.random() < 0.3 else mutate_gguf(rng, self.seed)

    def read(self) -> None:
        read_imatrix(self.path)


class Adapter(Kind):
    """A LoRA adapter."""

    errors = (ModelLoadError,)

    def make(self) -> Path:
        path = write_adapter(self.folder / "a.gguf")
        self.seed = Seed.read(path)
        return path

    def mutate(self, rng: Random) -> bytes:
        return mutate_gguf(rng, self.seed)

    def read(self) -> None:
        check_adapter(self.path)


class Manifest(Kind):
    """The manifest of an output."""

    errors = (ModelLoadError,)

    def make(self) -> Path:
        self.output = self.folder / "x.gguf"
        self.output.write_bytes(b"GGUF")
        path = manifest_path(self.output)
        path.write_bytes(manifest({"x.gguf": self.output}, {"source": "x"}))
        return path

    def mutate(self, rng: Random) -> bytes:
        return mutate_json(rng, json.loads(self.good))

    def read(self) -> None:
        read_manifest(self.output)


OWNER = Owner("weights", "settings")


class State(Kind):
    """A saved KV state, as far as it is ours."""

    errors = (StaleStateError,)

    def make(self) -> Path:
        path = self.folder / "x.kv"
        write_state(path, OWNER, KVState([1, 2, 3], bytearray(b"state")))
        return path

    def mutate(self, rng: Random) -> bytes:
        if rng.random() < 0.3:
            return havoc(rng, self.good)
        end = len(MAGIC) + 8 + int.from_bytes(self.good[len(MAGIC) : len(MAGIC) + 8], "little")
        text = mutate_json(rng, json.loads(self.good[len(MAGIC) + 8 : end]))
        return MAGIC + struct.pack("<Q", len(text)) + text + self.good[end:]

    def read(self) -> None:
        read_state(self.path, OWNER)


def write_adapter(path: Path, *, rank: int = 2, name: str = "blk.0.attn_q.weight") -> Path:
    """A LoRA adapter for the tiny model."""
    from codellama.files.gguf_header import TensorInfo

    values = {
        "general.type": Value(ValueType.STRING, "adapter"),
        "general.architecture": Value(ValueType.STRING, "llama"),
        "adapter.type": Value(ValueType.STRING, "lora"),
        "adapter.lora.alpha": Value(ValueType.FLOAT32, 2.0),
    }
    width = tiny_model.HIDDEN
    tensors = [
        TensorInfo(f"{name}.lora_a", (width, rank), "F32", 0, 4 * width * rank),
        TensorInfo(f"{name}.lora_b", (rank, width), "F32", 0, 4 * width * rank),
    ]
    data = struct.pack("<f", 0.5) * (2 * width * rank)
    path.write_bytes(encode_header(values, tensors) + data)
    return path


_OTHER_FILES: Mapping[str, Any] = {
    "generation_config.json": {
        "bos_token_id": 1, "eos_token_id": [2], "temperature": 0.2, "top_k": 50, "top_p": 0.9,
    },
    "chat_template.json": {"chat_template": "{{ messages }}"},
    "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>"}},
    "tokenizer.json": tokenizer_json(
        [text for text, _, _ in SMALL.vocabulary],
        {0: ("<unk>", True), 1: ("<s>", True), len(SMALL.vocabulary): ("<step>", True)},
    ),
    "README.md": "---\nlicense: llama2\nlanguage:\n- code\ntags:\n- llama-2\nbase_model: a/b\n---\n# x\n",
}  # fmt: skip

_PIECE_FIELDS: tuple[tuple[Any, ...], ...] = (
    ("", "a\0b", "<unk>", "<0x00>", "a" * 2000, "<0xZZ>", "new", "\x1b", "[EMPTY_1]", "▁▁▁▁"),
    (0.0, -1.0, -1e38, 1e-45, float("nan"), float("inf")),
    (*range(8), 1, 4, 2**31, 2**63),
)

_CARDS = (
    *("license: llama2\n", "name: [", "a: &a [x]\nb: *a\n", "a: &a [*a]\n", "tags: {a: {b: c}}\n"),
    *("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\ntags: [*c,*c]\n", "base_model: [[a]]\n"),
    *("license: 2020-01-01\n", "license: 1:1:1:1\n", "? [a]\n: b\n", "tags: !!set {a, b}\n"),
    *(
        "language: no\n",
        "datasets: 5\n",
        "model_name: 0x" + "f" * 99 + "\n",
        "name: !!binary aGk=\n",
    ),
    *("x: [", "x: {", "- [", "tags:\n- \u2028\n- \x07\n", "!!python/name:os.system x: y\n"),
)

KINDS: Mapping[str, Callable[[Path], Kind]] = {
    "safetensors": SafeTensors,
    "gguf": Gguf,
    "index": Index,
    "tokenizer.model": TokenizerModel,
    "config.json": Config,
    "small": SmallFile,
    "imatrix": Imatrix,
    "adapter": Adapter,
    "manifest": Manifest,
    "state": State,
}
