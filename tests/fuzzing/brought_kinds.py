"""Kinds that people bring beside checkpoints and models: tokenizer.json, pieces of a GGUF, other files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import numpy as np

from codellama.errors import CheckpointError, ConversionError, ModelLoadError
from codellama.files.identify import LFS_POINTER, recognised
from codellama.files.tokenizer_json import llama_pieces, read_tokenizer_json
from codellama.weights import vocab
from codellama.weights.config import read_config
from codellama.weights.gguf_source import open_gguf
from tests import tiny_model
from tests.fuzzing.gguf_mutators import Seed, mutate_gguf
from tests.fuzzing.kinds import CheckpointFile, Kind
from tests.fuzzing.mutators import havoc, mutate_json


class TokenizerJson(CheckpointFile):
    """tokenizer.json: beside a tokenizer.model, and as if it were alone."""

    name = "tokenizer.json"

    def make(self) -> Path:
        path = super().make()
        self.config = read_config(self.folder / "config.json")
        return path

    def mutate(self, rng: Random) -> bytes:
        if rng.random() < 0.2:
            return havoc(rng, self.good)
        return mutate_json(rng, json.loads(self.good))

    def read(self) -> None:
        vocab.read_vocabulary(self.folder, self.config)
        with contextlib.suppress(CheckpointError):  # it is not Llama's
            llama_pieces(read_tokenizer_json(self.path), self.config.vocab_size)


class CutFile(Kind):
    """A GGUF that was cut by bytes: the pieces are there, or too short, or missing, or others."""

    errors = (ModelLoadError, ConversionError)

    def make(self) -> Path:
        whole = tiny_model.write(self.folder / "tiny.gguf")
        self.seed = Seed.read(whole)
        path = self.folder / "x.gguf-split-a"
        path.write_bytes(self.seed.data[:9999])
        path.with_name("x.gguf-split-b").write_bytes(self.seed.data[9999:])
        return path

    def mutate(self, rng: Random) -> bytes:
        return self.seed.data if rng.random() < 0.5 else mutate_gguf(rng, self.seed)

    def write(self, rng: Random) -> None:
        for old in self.folder.glob("x.gguf*"):
            old.unlink()
        style = rng.choice(("x.gguf-split-{}", "x.gguf.part{}of2", "x.gguf.part{}of3"))
        labels = "abc" if "split" in style else "123"
        data = self.mutate(rng)
        places = sorted(rng.randint(0, len(data)) for _ in range(rng.randint(1, 2)))
        pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
        paths = [self.folder / style.format(label) for label in labels]
        for path, piece in zip(paths, pieces, strict=False):
            path.write_bytes(piece if rng.random() < 0.9 else havoc(rng, piece or b"x"))
        if rng.random() < 0.1:
            rng.choice(paths).unlink(missing_ok=True)
        self.path = rng.choice(paths) if rng.random() < 0.1 else paths[0]

    def read(self) -> None:
        with open_gguf(self.path) as source:
            for tensor in source.tensors:
                source.read(tensor, 0, np.empty(tensor.nbytes, np.uint8))


class Unknown(Kind):
    """Whatever is named in place of a GGUF or a shard: heads of other files."""

    errors = (ModelLoadError, CheckpointError)

    def make(self) -> Path:
        path = self.folder / "x.gguf"
        path.write_bytes(b"hello there")
        return path

    def mutate(self, rng: Random) -> bytes:
        data = rng.choice(_HEADS) + rng.randbytes(rng.choice((0, 1, 8, 600)))
        return havoc(rng, data) if data and rng.random() < 0.5 else data

    def read(self) -> None:
        error = recognised(self.path, ModelLoadError)
        if error is not None:
            raise error


_HEADS = (
    *(b"", LFS_POINTER + b"v1\noid sha256:", bytes(100), b"<!DOCTYPE html>", b" <html>", b"hi"),
    *(b"GGUF\0\0\0\3", b"GGUF\1\0\0\0", b"GGUF", b"tjgg", b"\x80\x02", b"PK\x03\x04 a/data.pkl"),
    *(b"\x40\0\0\0\0\0\0\0{", b"\xff" * 8 + b"{"),
)

BROUGHT: Mapping[str, Callable[[Path], Kind]] = {
    "tokenizer.json": TokenizerJson,
    "cut": CutFile,
    "unknown": Unknown,
}
