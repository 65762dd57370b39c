"""Made-up checkpoints are what they say: the same bytes each time, of the 70B's true size."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from codellama.files.safetensors_header import read_safetensors_header
from codellama.weights.convert import convert
from stand_ins.check import compare_rows, gguf_name
from stand_ins.checkpoint import CODELLAMA_70B, TINY, MadeUpCheckpoint, Shard
from stand_ins.formats import Piece


def pieces(size: int) -> list[Piece]:
    letters = [(f"x{i}", -float(i), 1) for i in range(size - 1 - 259)]
    byte_pieces = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    return [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *byte_pieces, *letters]


@pytest.fixture(scope="module")
def tiny() -> MadeUpCheckpoint:
    return MadeUpCheckpoint(TINY, pieces(TINY.vocab), 2 * 10**6)


def test_the_70b_has_its_published_size_and_number_of_files() -> None:
    made = MadeUpCheckpoint(CODELLAMA_70B, pieces(CODELLAMA_70B.vocab))
    assert made.weight_bytes == 137_953_820_672
    assert len(made.shards) == 29
    assert sum(len(shard.tensors) for shard in made.shards.values()) == 723
    index = json.loads(made.texts["model.safetensors.index.json"].data)
    assert index["metadata"]["total_size"] == made.weight_bytes


def test_a_shard_gives_the_same_bytes_wherever_reading_begins(tiny: MadeUpCheckpoint) -> None:
    shard: Shard = next(iter(tiny.shards.values()))
    whole = b"".join(bytes(piece) for piece in shard.pieces(0, shard.size))
    assert len(whole) == shard.size
    assert hashlib.sha256(whole).hexdigest() == shard.sha256
    rng = np.random.default_rng(0)
    for begin, end in np.sort(rng.integers(0, shard.size + 1, (200, 2))):
        part = b"".join(bytes(piece) for piece in shard.pieces(int(begin), int(end)))
        assert part == whole[begin:end]


def test_a_written_checkpoint_has_the_tensors_and_differing_rows(
    tiny: MadeUpCheckpoint, tmp_path: Path
) -> None:
    folder = tiny.write(tmp_path / "made")
    found = [t for name in tiny.shards for t in read_safetensors_header(folder / name)]
    wanted = [t for shard in tiny.shards.values() for t in shard.tensors]
    assert {(t.name, t.shape, t.offset) for t in found} == {
        (t.name, t.shape, t.offset) for t in wanted
    }
    tensor = next(t for t in wanted if t.name.endswith("q_proj.weight"))
    shard = next(s for s in tiny.shards.values() if tensor in s.tensors)
    data = b"".join(
        bytes(piece) for piece in shard.pieces(tensor.offset, tensor.offset + tensor.nbytes)
    )
    rows = {data[i : i + 512] for i in range(0, len(data), 512)}
    assert len(rows) == 256


@pytest.mark.parametrize("damage", [False, True])
def test_the_comparison_finds_a_wrong_byte(
    tiny: MadeUpCheckpoint, tmp_path: Path, damage: bool
) -> None:
    folder = tiny.write(tmp_path / "made")
    path = tmp_path / "x.gguf"
    convert(folder, path, "Q8_0")
    if not damage:
        assert compare_rows(path, tiny) == (2 * 44 + 13, 57)
        return
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(byte ^ 1 for byte in data[len(data) // 2 :])
    path.write_bytes(data)
    with pytest.raises(AssertionError, match="weight"):
        compare_rows(path, tiny)


def test_names() -> None:
    assert gguf_name("model.layers.12.mlp.down_proj.weight") == "blk.12.ffn_down.weight"
    assert gguf_name("lm_head.weight") == "output.weight"
