"""Nothing of a saved KV state reaches llama.cpp before it has been checked."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from codellama.engine.batch import KVState
from codellama.running.kv_file import MAGIC, StaleStateError, fingerprint, read_state, write_state


def written(tmp_path: Path) -> Path:
    path = tmp_path / "talk.kv"
    write_state(path, "me", KVState([1, 2, 3], bytearray(b"abcdef")))
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    state = read_state(written(tmp_path), "me")
    assert (state.tokens, state.data) == ([1, 2, 3], bytearray(b"abcdef"))
    assert [p.name for p in tmp_path.iterdir()] == ["talk.kv"]


def test_another_owner(tmp_path: Path) -> None:
    with pytest.raises(StaleStateError, match="another model"):
        read_state(written(tmp_path), "you")


@pytest.mark.parametrize("size", range(0, 150, 7))
def test_any_truncation_is_noticed(tmp_path: Path, size: int) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    assert size < len(whole)
    path.write_bytes(whole[:size])
    with pytest.raises(StaleStateError):
        read_state(path, "me")


def test_more_than_it_says(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(StaleStateError, match="truncated"):
        read_state(path, "me")


def test_a_changed_byte(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(StaleStateError, match="damaged"):
        read_state(path, "me")


@pytest.mark.parametrize("header", [[], {}, {"owner": "me"}, {"owner": "me", "n_bytes": 0}])
def test_a_header_that_lacks_something(tmp_path: Path, header: object) -> None:
    path = tmp_path / "bad.kv"
    text = json.dumps(header).encode()
    path.write_bytes(MAGIC + struct.pack("<Q", len(text)) + text)
    with pytest.raises(StaleStateError):
        read_state(path, "me")


@pytest.mark.parametrize(
    "tokens", ["[-1]", "[2147483648]", "[1.0]", '["1"]', "[true]", "{}", "[" * 9999]
)
def test_a_header_with_nonsense_for_tokens(tmp_path: Path, tokens: str) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    text = whole[len(MAGIC) + 8 : -6].replace(b"[1, 2, 3]", tokens.encode())
    path.write_bytes(MAGIC + struct.pack("<Q", len(text)) + text + whole[-6:])
    with pytest.raises(StaleStateError):
        read_state(path, "me")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StaleStateError, match="cannot be read"):
        read_state(tmp_path / "none", "me")


def test_a_fingerprint_tells_models_and_settings_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"header" + b"weights")
    two.write_bytes(b"header" + b"more weights")
    assert fingerprint(one, 6, "f16") == fingerprint(one, 6, "f16")
    assert fingerprint(one, 6, "f16") != fingerprint(one, 6, "q8_0")
    assert fingerprint(one, 6, "f16") != fingerprint(two, 6, "f16")
