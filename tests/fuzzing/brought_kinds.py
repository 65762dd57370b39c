"""Kinds that people bring beside checkpoints and models: tokenizer.json, pieces of a GGUF, other files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from codellama.errors import CheckpointError, ConversionError, ModelLoadError
from codellama.files.gguf_header import Value, ValueType, encode_header, read_gguf_header
from codellama.files.identify import LFS_POINTER, recognised
from codellama.files.lost_scores import check_mendable, mended_vocabulary, scores_are_lost
from codellama.files.tokenizer_json import llama_pieces, read_tokenizer_json
from codellama.models.stores import ollama_model, stored_models
from codellama.weights import vocab
from codellama.weights.config import read_config
from codellama.weights.gguf_source import open_gguf
from tests import tiny_model
from tests.fuzzing.gguf_mutators import Seed, mutate_gguf
from tests.fuzzing.kinds import CheckpointFile, Kind
from tests.fuzzing.mutators import havoc, mutate_json
from tests.llama_vocabulary import believe_the_slice, code_llama


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


class OllamaManifest(Kind):
    """What Ollama writes beside its files: which of them is the model."""

    errors = (ModelLoadError,)

    def make(self) -> Path:
        digest = "sha256:" + "0" * 64
        os.environ["OLLAMA_MODELS"] = str(self.folder)
        blob = self.folder / "blobs" / digest.replace(":", "-")
        manifest = self.folder.joinpath(
            "manifests", "registry.ollama.ai", "library", "small", "latest"
        )
        for path in (blob, manifest):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(b"GGUF")
        self.content: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"digest": "sha256:" + "1" * 64, "size": 485},
            "layers": [
                {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 4},
                {"mediaType": "application/vnd.ollama.image.license", "digest": digest, "size": 4},
            ],
        }
        manifest.write_text(json.dumps(self.content))
        return manifest

    def mutate(self, rng: Random) -> bytes:
        return havoc(rng, self.good) if rng.random() < 0.2 else mutate_json(rng, self.content)

    def read(self) -> None:
        found = {model.name: model.path for model in stored_models()}
        path = ollama_model("ollama:small")
        assert found["ollama:small:latest"] == path
        assert path.parent == self.folder / "blobs"


class LostScores(Kind):
    """A GGUF with Llama's pieces and no scores, and what is made of it."""

    errors = (ModelLoadError,)

    def make(self) -> Path:
        believe_the_slice(pytest.MonkeyPatch())
        pieces = [text for text, _, _ in code_llama(step=True)]
        columns = {
            "tokens": Value(ValueType.ARRAY, pieces, ValueType.STRING),
            "scores": Value(ValueType.ARRAY, [-1000.0] * len(pieces), ValueType.FLOAT32),
            "token_type": Value(ValueType.ARRAY, [1] * len(pieces), ValueType.INT32),
        }
        values = dict(read_gguf_header(tiny_model.write(self.folder / "tiny.gguf")).values)
        self.values = values | {f"tokenizer.ggml.{name}": v for name, v in columns.items()}
        path = self.folder / "x.gguf"
        path.write_bytes(encode_header(self.values, []))
        with mended_vocabulary(read_gguf_header(path)) as mended:
            assert mended is not None, "the good file is one that is mended"
        return path

    def mutate(self, rng: Random) -> bytes:
        if rng.random() < 0.3:
            return havoc(rng, self.good)
        values = dict(self.values)
        for _ in range(rng.randint(1, 3)):
            key = "tokenizer.ggml." + rng.choice(("tokens", "scores", "token_type"))
            value = list(values[key].value) if key in values else []
            match rng.randrange(5):
                case 0:
                    values.pop(key, None)
                    continue
                case 1:
                    value = value[: rng.choice((0, 1, 3, 31999, 32000, 32015, 32016))]
                case 2:
                    value += value[: rng.choice((1, 16, 2000))]
                case 3 if value:
                    at = rng.randrange(len(value))
                    value[at] = value[rng.randrange(len(value))]
                case _ if value:
                    value = value[:1] * len(value)
            kind = _ITEMS[key.rpartition(".")[2]]
            values[key] = Value(ValueType.ARRAY, value, kind)
        return encode_header(values, [])

    def read(self) -> None:
        header = read_gguf_header(self.path)
        if scores_are_lost(header.metadata):
            check_mendable(header)
        with mended_vocabulary(header) as path:
            if path is not None:
                assert not scores_are_lost(read_gguf_header(path).metadata)


_ITEMS = {
    "tokens": ValueType.STRING,
    "scores": ValueType.FLOAT32,
    "token_type": ValueType.INT32,
}
_HEADS = (
    *(b"", LFS_POINTER + b"v1\noid sha256:", bytes(100), b"<!DOCTYPE html>", b" <html>", b"hi"),
    *(b"GGUF\0\0\0\3", b"GGUF\1\0\0\0", b"GGUF", b"tjgg", b"\x80\x02", b"PK\x03\x04 a/data.pkl"),
    *(b"\x40\0\0\0\0\0\0\0{", b"\xff" * 8 + b"{"),
)

BROUGHT: Mapping[str, Callable[[Path], Kind]] = {
    "tokenizer.json": TokenizerJson,
    "cut": CutFile,
    "unknown": Unknown,
    "ollama": OllamaManifest,
    "lost scores": LostScores,
}
