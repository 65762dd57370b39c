"""Nothing of a saved KV state reaches llama.cpp before it has been checked."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from codellama.engine.batch import KVState
from codellama.running.kv_file import (
    MAGIC,
    OLD_MAGIC,
    Owner,
    StaleStateError,
    read_state,
    settings_digest,
    write_state,
)

ME = Owner("mine", "f16")


def written(tmp_path: Path) -> Path:
    path = tmp_path / "talk.kv"
    write_state(path, ME, KVState([1, 2, 3], bytearray(b"abcdef"), chunks=(2, 3)))
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    state = read_state(written(tmp_path), ME)
    assert (state.tokens, state.data) == ([1, 2, 3], bytearray(b"abcdef"))
    assert state.chunks == (2, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["talk.kv"]


@pytest.mark.parametrize(
    ("owner", "reason"),
    [
        (Owner("yours", "f16"), "another model, or to this one with other weights"),
        (Owner("mine", "q8_0"), "another llama.cpp, other KV settings or other adapters"),
    ],
)
def test_another_owner(tmp_path: Path, owner: Owner, reason: str) -> None:
    with pytest.raises(StaleStateError, match=reason):
        read_state(written(tmp_path), owner)


def test_a_file_of_an_earlier_version_says_so(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().replace(MAGIC, OLD_MAGIC))
    with pytest.raises(StaleStateError, match="earlier version"):
        read_state(path, ME)


@pytest.mark.parametrize("size", range(0, 150, 7))
def test_any_truncation_is_noticed(tmp_path: Path, size: int) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    assert size < len(whole)
    path.write_bytes(whole[:size])
    with pytest.raises(StaleStateError):
        read_state(path, ME)


def test_more_than_it_says(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(StaleStateError, match="truncated"):
        read_state(path, ME)


def test_a_changed_byte(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(StaleStateError, match="damaged"):
        read_state(path, ME)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {},
        {"weights": "mine"},
        {"weights": "mine", "settings": "f16"},
        {"weights": "mine", "settings": "f16", "n_bytes": 0},
    ],
)
def test_a_header_that_lacks_something(tmp_path: Path, header: object) -> None:
    path = tmp_path / "bad.kv"
    text = json.dumps(header).encode()
    path.write_bytes(MAGIC + struct.pack("<Q", len(text)) + text)
    with pytest.raises(StaleStateError):
        read_state(path, ME)


@pytest.mark.parametrize(
    "tokens", ["[-1]", "[2147483648]", "[1.0]", '["1"]', "[true]", "{}", "[" * 9999]
)
def test_a_header_with_nonsense_for_tokens(tmp_path: Path, tokens: str) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    text = whole[len(MAGIC) + 8 : -6].replace(b"[1, 2, 3]", tokens.encode())
    path.write_bytes(MAGIC + struct.pack("<Q", len(text)) + text + whole[-6:])
    with pytest.raises(StaleStateError):
        read_state(path, ME)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StaleStateError, match="cannot be read"):
        read_state(tmp_path / "none", ME)


def test_pieces_beyond_the_tokens_are_none(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    text = whole[len(MAGIC) + 8 : -6].replace(b'"chunks": [2, 3]', b'"chunks": [2, 9]')
    path.write_bytes(MAGIC + struct.pack("<Q", len(text)) + text + whole[-6:])
    assert read_state(path, ME).chunks == (2,)


def test_settings_are_told_apart() -> None:
    assert settings_digest("f16", ("a",)) == settings_digest("f16", ("a",))
    assert settings_digest("f16", ("a",)) != settings_digest("f16", ("b",))
