from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codellama.errors import CheckpointError
from codellama.files.safetensors_header import read_safetensors_header
from tests.checkpoints import safetensors_head, write_safetensors

A = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
B = {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]}


def shard(header: dict[str, Any], data: int = 24) -> bytes:
    return safetensors_head(header) + bytes(data)


def test_reads_what_safetensors_writes(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, NDArray[Any]] = {
        "b": np.arange(6, dtype=np.float16).reshape(2, 3),
        "a": np.ones(5, np.float32),
    }
    path = tmp_path / "m.safetensors"
    save_file(arrays, path, metadata={"format": "pt"})
    found = {tensor.name: tensor for tensor in read_safetensors_header(path)}
    assert found.keys() == arrays.keys()
    data = path.read_bytes()
    for name, array in arrays.items():
        tensor = found[name]
        assert tensor.shape == array.shape
        assert data[tensor.offset : tensor.offset + tensor.nbytes] == array.tobytes()


def test_safetensors_reads_what_the_test_writer_writes(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    path = tmp_path / "m.safetensors"
    write_safetensors(path, [("x", "F32", np.eye(3, dtype=np.float32))])
    assert np.array_equal(load_file(path)["x"], np.eye(3))


CASES = {
    "empty": (b"", "it is empty"),
    "short": (b"12345", "truncated"),
    "long header": (struct.pack("<Q", 10**9) + bytes(99), "not a safetensors file"),
    "header cut": (struct.pack("<Q", 500) + b"{" + bytes(99), "truncated"),
    "no JSON": (struct.pack("<Q", 8) + b"notjson!" + bytes(9), "is not JSON"),
    "not UTF-8": (struct.pack("<Q", 8) + b"\xff" * 8 + bytes(9), "is not JSON"),
    "deep JSON": (struct.pack("<Q", 99_999) + b"[" * 99_999, "is not JSON"),
    "a list": (struct.pack("<Q", 8) + b"[1,2,3] " + bytes(9), "no JSON object"),
    "name twice": (struct.pack("<Q", 14) + b'{"a":1,"a":2 }', "twice"),
    "no dtype": (shard({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4), "entry of a"),
    "entry no object": (shard({"a": 5}, 4), "entry of a"),
    "one offset": (shard({"a": {**A, "data_offsets": [0]}}, 16), "entry of a"),
    "float shape": (shard({"a": {**A, "shape": [2.0, 2]}}, 16), "shape or offsets of a"),
    "negative shape": (shard({"a": {**A, "shape": [-2, -2]}}, 16), "shape or offsets of a"),
    "bool shape": (shard({"a": {**A, "shape": [True, 4]}}, 16), "shape or offsets of a"),
    "text shape": (shard({"a": {**A, "shape": "22"}}, 16), "shape or offsets of a"),
    "unknown dtype": (shard({"a": {**A, "dtype": "F12"}}, 16), "dtype 'F12'"),
    "list dtype": (shard({"a": {**A, "dtype": ["F32"]}}, 16), "dtype ['F32']"),
    "size and shape": (shard({"a": {**A, "shape": [2, 3]}}, 16), "24 bytes, but spans 16"),
    "name with escapes": (shard({"\x1b[2J": A}, 16), "is no name of a tensor"),
    "long name": (shard({"a" * 999: A}, 16), "is no name of a tensor"),
    "many dimensions": (shard({"a": {**A, "shape": [1] * 9 + [4]}}, 16), "shape or offsets of a"),
    "huge dimension": (shard({"a": {**A, "shape": [2**63, 0]}}, 16), "shape or offsets of a"),
    "overlap": (shard({"a": A, "b": {**B, "data_offsets": [8, 16]}}, 24), "overlaps"),
    "gap": (shard({"a": A, "b": {**B, "data_offsets": [20, 28]}}, 28), "overlaps or leaves a gap"),
    "truncated": (shard({"a": A, "b": B}, 23), "truncated"),
    "too long": (shard({"a": A, "b": B}, 25), "1 bytes behind its last tensor"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_shard_is_one_clear_error(tmp_path: Path, name: str) -> None:
    data, message = CASES[name]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_safetensors_header(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_every_truncation_is_found(tmp_path: Path) -> None:
    data = shard({"a": A, "b": B})
    path = tmp_path / "m.safetensors"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read_safetensors_header(path)
    path.write_bytes(data)
    assert len(read_safetensors_header(path)) == 2
