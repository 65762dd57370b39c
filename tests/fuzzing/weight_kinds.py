"""Adapters of PEFT, torch's pickles, Meta's own files and quantized checkpoints, mutated: none does harm."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from codellama.errors import CheckpointError, ConversionError
from codellama.files.peft_adapter import read_adapter
from codellama.files.torch_file import read_torch_header
from codellama.weights.adapter import fit
from codellama.weights.adapter_gguf import plan_adapter
from codellama.weights.config import read_config
from codellama.weights.meta import open_meta
from codellama.weights.source import open_checkpoint
from tests.checkpoints import Checkpoint, write_checkpoint
from tests.fuzzing.kinds import SMALL, Kind, rewrite
from tests.fuzzing.mutators import havoc, mutate_json
from tests.peft_folder import low_rank, write_peft
from tests.quantized_folder import KINDS as QUANTIZED_KINDS
from tests.quantized_folder import write_quantized
from tests.torch_archive import program, tensor, write_archive, write_meta

WHOLE = Checkpoint(hidden=8, ffn=8, layers=1, heads=2, kv_heads=1, added={})


class PeftSettings(Kind):
    """adapter_config.json, beside weights that fit the model."""

    def make(self) -> Path:
        write_checkpoint(self.folder / "base", SMALL)
        self.config = read_config(self.folder / "base" / "config.json")
        write_peft(self.folder / "a", low_rank(_SMALL_MODULES), **_PEFT_SETTINGS)
        return self.folder / "a" / "adapter_config.json"

    def mutate(self, rng: Random) -> bytes:
        return mutate_json(rng, json.loads(self.good))

    def read(self) -> None:
        plan_adapter(fit(read_adapter(self.path.parent), self.config))


class PeftWeights(PeftSettings):
    """The header of adapter_model.safetensors, beside settings that fit it."""

    def make(self) -> Path:
        return super().make().with_name("adapter_model.safetensors")

    def mutate(self, rng: Random) -> bytes:
        end = 8 + int.from_bytes(self.good[:8], "little")
        if rng.random() < 0.2:
            return havoc(rng, self.good[:end]) + self.good[end:]
        header = json.loads(self.good[8:end])
        if rng.random() < 0.4:
            # Names and shapes that go together, and not with the rest.
            old, new = rng.choice(list(header)), rng.choice(_PEFT_NAMES)
            header = {new if name == old else name: entry for name, entry in header.items()}
            text = json.dumps(header).encode()
        else:
            text = mutate_json(rng, header)
        return struct.pack("<Q", len(text)) + text + self.good[end:]


class TorchFile(Kind):
    """A file that torch.save wrote: the zip, or the pickle in it; nothing in any of them does harm."""

    def make(self) -> Path:
        data = struct.pack("<4f", 1, 2, 3, 4)
        self.storages = {"0": data, "1": data}
        entries = {"a": tensor("0", "F32", [2, 2]), "b": tensor("1", "BF16", [4], first=1, count=8)}
        self.program = program(entries)
        return write_archive(self.folder / "m.bin", self.program, self.storages)

    def mutate(self, rng: Random) -> bytes:
        if rng.random() < 0.4:
            return havoc(rng, self.good)
        pickled = self.program
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(2, len(pickled))
            cut = at + rng.choice((0, 0, 1, 2, 5, 20))
            pickled = pickled[:at] + rng.choice(_INSTRUCTIONS) + pickled[cut:]
        if rng.random() < 0.2:
            pickled = havoc(rng, pickled)
        path = write_archive(self.folder / "other.bin", pickled, self.storages)
        return path.read_bytes()

    def read(self) -> None:
        read_torch_header(self.path)


class MetaFolder(Kind):
    """params.json of Meta's own download, or one of its files with weights."""

    def make(self) -> Path:
        write_meta(self.folder / "m", WHOLE, 1)
        self.archive = self.folder / "m" / "consolidated.00.pth"
        self.weights = self.archive.read_bytes()
        return self.folder / "m" / "params.json"

    def mutate(self, rng: Random) -> bytes:
        return mutate_json(rng, json.loads(self.good))

    def write(self, rng: Random) -> None:
        rewrite(self.archive, self.weights)
        if rng.random() < 0.5:
            rewrite(self.path, self.good)
            rewrite(self.archive, havoc(rng, self.weights))
        else:
            super().write(rng)

    def read(self) -> None:
        open_meta(self.path.parent).close()


_SMALL_MODULES = {
    "model.layers.0.self_attn.q_proj": (8, 8),
    "model.layers.0.mlp.down_proj": (8, 8),
}

_PEFT_SETTINGS: Mapping[str, Any] = {
    "alpha_pattern": {r"layers\.0\..*q_proj": 8},
    "rank_pattern": {"down_proj": 4},
    "trainable_token_indices": {"embed_tokens": [1]},
    "use_rslora": True,
}

_PEFT_NAMES = tuple(
    "base_model.model." + name
    for name in (
        *("model.layers.0.self_attn.k_proj.lora_A.weight", "model.norm.lora_B.weight"),
        *("lm_head.lora_magnitude_vector", "model.embed_tokens.lora_embedding_A", "x", ".weight"),
        *("model.layers.0.self_attn.q_proj.bias", "model.embed_tokens.base_layer.weight"),
        "model.embed_tokens.token_adapter.trainable_tokens_delta",
    )
)

_INSTRUCTIONS = (
    *(
        bytes([code])
        for code in b"(.})tsuQRbNq2l]ae0\x85\x86\x87\x88\x89\x81\x94\x93\x97\x98\x82\x92"
    ),
    *(
        b"q\x05",
        b"h\x05",
        b"j\xff\xff\xff\x7f",
        b"r\xff\xff\xff\xff",
        b"K\x00",
        b"J\xff\xff\xff\xff",
    ),
    *(
        b"X\xff\xff\xff\x7f",
        b"\x8d" + b"\xff" * 8,
        b"\x8e" + b"\x7f" * 8,
        b"\x8a\xff",
        b"\x8b\xff\xff\xff\x7f",
    ),
    *(b"cbuiltins\nlen\n", b"cposix\ngetpid\n", b"ctorch\nFloatStorage\n", b"\x95" + b"\xff" * 8),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"I99\n", b"S'a'\n"),
    *(b"\x8a\x08" + b"\x7f" * 8, b"X\x03\x00\x00\x00../", b"(" * 50, b"}" * 3000, b"K\x01" * 3000),
)


class Prequantized(Kind):
    """A checkpoint quantized by GPTQ, AWQ or compressed-tensors: header, settings or numbers are changed."""

    errors = (CheckpointError, ConversionError)

    def make(self) -> Path:
        for kind in QUANTIZED_KINDS:
            write_quantized(self.folder / kind, kind)
        paths = [self.folder / kind / "model.safetensors" for kind in QUANTIZED_KINDS]
        self.weights = {path: path.read_bytes() for path in paths}
        self.configs = {path: path.with_name("config.json").read_bytes() for path in paths}
        return paths[0]

    def mutate(self, rng: Random) -> bytes:
        good = self.weights[self.path]
        end = 8 + int.from_bytes(good[:8], "little")
        header = json.loads(good[8:end])
        if rng.random() < 0.4:  # numbers, also those that say how to decode
            data = bytearray(good[end:])
            name = rng.choice([n for n in header if "_proj." in n])
            begin, stop = header[name]["data_offsets"]
            data[begin:stop] = havoc(rng, bytes(data[begin:stop]))[: stop - begin]
            return good[:end] + bytes(data)
        if rng.random() < 0.5:  # shapes that the bytes still fit
            rng.shuffle(header[rng.choice([n for n in header if "_proj." in n])]["shape"])
            text = json.dumps(header).encode()
        else:
            old, new = rng.choice(list(header)), rng.choice(_QUANTIZED_NAMES)
            header = {new if n == old else n: entry for n, entry in header.items()}
            text = json.dumps(header).encode() if rng.random() < 0.5 else mutate_json(rng, header)
        return struct.pack("<Q", len(text)) + text + good[end:]

    def write(self, rng: Random) -> None:
        self.path = rng.choice(list(self.weights))
        config = self.configs[self.path]
        if rng.random() < 0.3:
            config = mutate_json(rng, json.loads(config))
            rewrite(self.path, self.weights[self.path])
        else:
            super().write(rng)
        rewrite(self.path.with_name("config.json"), config)

    def read(self) -> None:
        with open_checkpoint(self.path.parent) as source:
            for tensor in source.tensors:
                if tensor.nbytes < 2**24:
                    source.read(tensor, 0, np.empty(tensor.nbytes, np.uint8))


_QUANTIZED_NAMES = tuple(
    "model.layers.0.self_attn.q_proj" + ending
    for ending in (
        *(".qweight", ".qzeros", ".scales", ".biases", ".bias", ".g_idx", ".SCB", ".weight"),
        *(
            ".weight_packed",
            ".weight_scale",
            ".weight_zero_point",
            ".weight_g_idx",
            ".weight_shape",
        ),
        *(".weight.absmax", ".weight.quant_map", ".weight_scale_inv", ".weight_format"),
        ".weight.quant_state.bitsandbytes__nf4",
    )
)

WEIGHT_KINDS: Mapping[str, Callable[[Path], Kind]] = {
    "peft settings": PeftSettings,
    "peft weights": PeftWeights,
    "torch file": TorchFile,
    "meta": MetaFolder,
    "prequantized": Prequantized,
}
