"""Files that pass our checks and then reach llama.cpp: it has to load them, or fail without a crash."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from codellama.cli.vocabulary import load_vocabulary
from codellama.errors import CodeLlamaError
from codellama.files.gguf_header import TensorInfo, Value, ValueType, encode_header
from codellama.files.loadable import check_adapter, read_vocabulary
from codellama.llm import LLM
from codellama.native.ggml import tensor_types
from codellama.weights.convert import convert
from codellama.weights.gguf_source import open_gguf
from codellama.weights.recipe import make_recipe
from tests import tiny_model
from tests.checkpoints import Checkpoint, write_checkpoint
from tests.fuzzing.gguf_mutators import Seed, another, mutate_gguf, retyped
from tests.fuzzing.kinds import Kind, write_adapter
from tests.fuzzing.mutators import havoc

TEXT = "def f(x):\n\treturn x + 1  # ▁ é 😀 \x00 <step> <s>"
SMALL: dict[str, Any] = {"n_ctx": 64, "n_seq_max": 1, "n_threads": 1, "cache_ram": 0}


class Native(Kind):
    """Errors may be any of ours; what counts as accepted is what our checks let through."""

    errors: tuple[type[CodeLlamaError], ...] = (CodeLlamaError,)
    limited = False

    def passes(self) -> bool:
        """Whether our checks let the file through to llama.cpp."""
        try:
            self.check()
        except CodeLlamaError:
            return False
        return True

    def check(self) -> None:
        """Our checks."""
        read_vocabulary(self.path)

    def write(self, rng: Random) -> None:
        """A case is the first of a few files that passes."""
        for _ in range(50):
            super().write(rng)
            if self.passes():
                return


class Model(Native):
    """A model: its vocabulary, then all of it, then an answer of three tokens."""

    def make(self) -> Path:
        narrow = tiny_model.write(self.folder / "narrow.gguf")
        checkpoint = Checkpoint(hidden=256, ffn=256, layers=1, heads=4, kv_heads=2, dtype="F32")
        wide = self.folder / "wide.gguf"
        convert(write_checkpoint(self.folder / "wide", checkpoint), wide, "F32")
        self.seeds = Seed.read(narrow), Seed.read(wide)
        path = self.folder / "model.gguf"
        path.write_bytes(self.seeds[0].data)
        return path

    def mutate(self, rng: Random) -> bytes:
        seed, kind = rng.choice(self.seeds), rng.random()
        if kind < 0.1:
            return mutate_gguf(rng, seed)
        if kind < 0.2:
            return seed.data[: seed.header.data_offset] + havoc(rng, seed.weights)
        if kind < 0.5:
            return _retyped(rng, seed)
        if kind < 0.7:
            return _revalued(rng, seed)
        return another(rng, seed, 2)

    def read(self) -> None:
        with load_vocabulary(self.path) as (prompts, tokenizer):
            tokens = tokenizer.encode(TEXT, add_bos=True, parse_special=True)
            tokenizer.decode([*tokens, *range(tokenizer.n_vocab)])
            sorted(tokenizer.eog_tokens)
            prompts.complete(TEXT)
        with LLM(self.path, **SMALL) as llm:
            llm.complete("def", max_tokens=3, seed=1).result()


class Adapter(Native):
    """An adapter, with an answer of the model it is added to."""

    def make(self) -> Path:
        self.model = tiny_model.write(self.folder / "tiny.gguf")
        names = ("blk.0.attn_q.weight", "blk.1.attn_output.weight", "output_norm.weight")
        self.seeds = [
            Seed.read(write_adapter(self.folder / f"{n}.gguf", rank=n + 1, name=name))
            for n, name in enumerate(names)
        ]
        path = self.folder / "a.gguf"
        path.write_bytes(self.seeds[0].data)
        return path

    def check(self) -> None:
        check_adapter(self.path)

    def mutate(self, rng: Random) -> bytes:
        seed, kind = rng.choice(self.seeds), rng.random()
        if kind < 0.2:
            return _retyped(rng, seed)
        if kind < 0.6:
            return _other_pair(rng, seed)
        return another(rng, seed, 2)

    def read(self) -> None:
        with LLM(self.model, lora=[self.path], **SMALL) as llm:
            llm.complete("def", max_tokens=3, seed=1).result()


class Recipe(Native):
    """A model that llama.cpp's quantizer is asked about."""

    def make(self) -> Path:
        path = tiny_model.write(self.folder / "tiny.gguf")
        self.seed = Seed.read(path)
        return path

    def check(self) -> None:
        open_gguf(self.path).close()

    def mutate(self, rng: Random) -> bytes:
        return another(rng, self.seed, 2)

    def read(self) -> None:
        with open_gguf(self.path) as source:
            make_recipe(source, "Q4_0")


def _retyped(rng: Random, seed: Seed) -> bytes:
    """All matrices, or one, of another type; their bytes are whatever they were."""
    tensors = list(seed.header.tensors)
    matrices = [place for place, tensor in enumerate(tensors) if len(tensor.shape) > 1]
    if rng.random() < 0.5:
        tensors = [_of_type(rng, tensor) for tensor in tensors]
    else:
        place = rng.choice(matrices)
        tensors[place] = retyped(rng, tensors[place])
    return _file(dict(seed.header.values), tensors, seed.weights)


def _of_type(rng: Random, tensor: TensorInfo) -> TensorInfo:
    kind = rng.choice(list(tensor_types().values()))
    if len(tensor.shape) < 2 or tensor.shape[0] % kind.block_size:
        return tensor
    nbytes = kind.row_bytes(tensor.shape[0]) * tensor.shape[1]
    return dataclasses.replace(tensor, type_name=kind.name, nbytes=nbytes)


def _revalued(rng: Random, seed: Seed) -> bytes:
    """Another vocabulary of the same length, or other numbers that go together."""
    values = dict(seed.header.values)
    types = values["tokenizer.ggml.token_type"]
    n_tokens = len(types.value)
    kind = rng.random()
    if kind < 0.4:
        chosen = [rng.choice((k, rng.randint(0, 6))) for k in types.value]
        values["tokenizer.ggml.token_type"] = dataclasses.replace(types, value=chosen)
    if 0.2 < kind < 0.6:
        tokens = list(values["tokenizer.ggml.tokens"].value)
        rng.shuffle(tokens)
        values["tokenizer.ggml.tokens"] = Value(ValueType.ARRAY, tokens, ValueType.STRING)
    if kind > 0.5:
        for name in rng.sample(_IDS, 3):
            token_id = rng.choice((rng.randrange(n_tokens), n_tokens, 2**31, 2**32 - 1))
            values[f"tokenizer.ggml.{name}_token_id"] = Value(ValueType.UINT32, token_id)
    if kind > 0.7:
        heads = rng.choice((1, 2, 4, 8, 32))
        values["llama.attention.head_count"] = Value(ValueType.UINT32, heads)
        values["llama.attention.head_count_kv"] = Value(ValueType.UINT32, max(1, heads // 2))
        for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
            values.pop(f"llama.{name}", None)
    if kind > 0.9:
        values["general.name"] = Value(ValueType.STRING, rng.choice(("phi-3", "modern-bert", "x")))
    return _file(values, seed.header.tensors, seed.weights)


_IDS = ("bos", "eos", "eot", "eom", "unknown", "padding", "fim_pre", "fim_suf", "fim_pad", "mask")


def _other_pair(rng: Random, seed: Seed) -> bytes:
    """The pair for another tensor of the model, with other ranks and widths."""
    name = rng.choice((*_TARGETS, "nothing.weight"))
    rank, width, rows = (rng.choice((1, 2, 32, 64, 128, 395, 396)) for _ in range(3))
    shapes = {"a": (width, rank), "b": (rng.choice((rank, rank, width)), rows)}
    tensors = [
        retyped(rng, TensorInfo(f"{name}.lora_{half}", shape, "F32", 0, 0))
        for half, shape in shapes.items()
    ]
    return _file(dict(seed.header.values), tensors, seed.weights)


_TARGETS = (
    *("token_embd.weight", "output.weight", "output_norm.weight", "blk.0.attn_norm.weight"),
    *("blk.0.attn_k.weight", "blk.0.ffn_down.weight", "blk.1.attn_output.weight"),
)


def _file(values: dict[str, Value], tensors: list[TensorInfo], weights: bytes) -> bytes:
    needed = sum(-(-tensor.nbytes // 32) * 32 for tensor in tensors)
    return encode_header(values, tensors) + (weights * (1 + needed // len(weights)))[:needed]


NATIVE: Mapping[str, Callable[[Path], Native]] = {
    "model": Model,
    "lora": Adapter,
    "recipe": Recipe,
}
