from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.errors import ModelLoadError
from codellama.files.gguf_header import (
    TensorInfo,
    Value,
    ValueType,
    encode_header,
    read_gguf_header,
)

VALUES = {
    "general.architecture": Value(ValueType.STRING, "llama"),
    "a.u8": Value(ValueType.UINT8, 255),
    "a.i64": Value(ValueType.INT64, -(2**63)),
    "a.f32": Value(ValueType.FLOAT32, 0.5),
    "a.f64": Value(ValueType.FLOAT64, 0.1),
    "a.bool": Value(ValueType.BOOL, True),
    "a.strings": Value(ValueType.ARRAY, ["▁x", "", "<step>"], ValueType.STRING),
    "a.numbers": Value(ValueType.ARRAY, [1, -2, 3], ValueType.INT32),
}
TENSORS = [
    TensorInfo("token_embd.weight", (256, 3), "Q4_K", 0, 3 * 144),
    TensorInfo("output_norm.weight", (5,), "F32", 0, 20),
]
# 432 bytes are padded to 448, 20 to 32.
DATA_BYTES = 480


def file_bytes() -> bytes:
    return encode_header(VALUES, TENSORS) + bytes(DATA_BYTES)


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    return path


def head(n_tensors: int, n_values: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_values)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def tensor(name: str = "t", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + dims + struct.pack("<IQ", kind, offset)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    header = read_gguf_header(write(tmp_path, file_bytes()))
    assert header.values == VALUES
    assert header.metadata["a.strings"] == ["▁x", "", "<step>"]
    assert [t.name for t in header.tensors] == ["token_embd.weight", "output_norm.weight"]
    assert [t.shape for t in header.tensors] == [(256, 3), (5,)]
    assert [t.offset - header.data_offset for t in header.tensors] == [0, 448]
    assert header.data_offset % 32 == 0
    assert header.data_offset + DATA_BYTES == len(file_bytes())


def test_alignment_is_followed(tmp_path: Path) -> None:
    values = {"general.alignment": Value(ValueType.UINT32, 256)}
    data = encode_header(values, TENSORS) + bytes(1024)
    header = read_gguf_header(write(tmp_path, data))
    assert [t.offset - header.data_offset for t in header.tensors] == [0, 512]
    assert header.data_offset % 256 == 0


def test_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    import gguf

    reader = gguf.GGUFReader(write(tmp_path, file_bytes()))
    assert [t.name for t in reader.tensors] == [t.name for t in TENSORS]
    assert reader.fields["a.numbers"].contents() == [1, -2, 3]
    ours = read_gguf_header(reader.data.filename)  # type: ignore[arg-type]
    assert [t.data_offset for t in reader.tensors] == [t.offset for t in ours.tensors]


CASES = {
    "empty": (b"", "it is empty"),
    "text": (b"hello there, this is text", "not a GGUF file"),
    "version 1": (head(0, 0, 1), "GGUF of version 1"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "too many tensors": (head(2**60, 0), "do not fit"),
    "too many values": (head(0, 2**40), "do not fit"),
    "long string": (head(0, 1) + struct.pack("<Q", 2**62) + bytes(99), "claims"),
    "long value": (
        head(0, 1) + string("k") + struct.pack("<IQ", 8, 2**24) + bytes(99),
        "truncated GGUF: the file ends inside metadata 'k'",
    ),
    "key twice": (head(0, 2) + (string("k") + struct.pack("<IB", 0, 1)) * 2 + bytes(9), "twice"),
    "unknown value type": (head(0, 1) + string("k") + struct.pack("<I", 13) + bytes(9), "type 13"),
    "array of arrays": (
        head(0, 1) + string("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(99),
        "array of arrays",
    ),
    "huge array": (
        head(0, 1) + string("k") + struct.pack("<IIQ", 9, 4, 2**61) + bytes(99),
        "claims",
    ),
    "long array": (
        head(0, 1) + string("k") + struct.pack("<IIQ", 9, 4, 2**20) + bytes(99),
        "truncated",
    ),
    "many strings": (
        head(0, 1) + string("k") + struct.pack("<IIQ", 9, 8, 2**20) + bytes(99),
        "truncated",
    ),
    "not UTF-8": (
        head(0, 1) + struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<IB", 0, 1) + bytes(9),
        "not UTF-8",
    ),
    "alignment 3": (
        head(0, 1) + string("general.alignment") + struct.pack("<II", 4, 3),
        "power of two",
    ),
    "alignment 0": (
        head(0, 1) + string("general.alignment") + struct.pack("<II", 4, 0),
        "power of two",
    ),
    "alignment 2 GB": (
        head(0, 1) + string("general.alignment") + struct.pack("<II", 4, 2**31),
        "alignment",
    ),
    "no dimensions": (head(1, 0) + tensor(shape=()) + bytes(99), "0 dimensions"),
    "five dimensions": (head(1, 0) + tensor(shape=(1,) * 5) + bytes(99), "5 dimensions"),
    "empty tensor": (head(1, 0) + tensor(shape=(8, 0)) + bytes(99), "empty"),
    "overflowing shape": (head(1, 0) + tensor(shape=(2**62, 2**62)) + bytes(99), "truncated"),
    "unknown tensor type": (head(1, 0) + tensor(kind=4000) + bytes(99), "type 4000"),
    "removed tensor type": (head(1, 0) + tensor(kind=4) + bytes(99), "type 4"),
    "broken block": (head(1, 0) + tensor(shape=(8,), kind=12) + bytes(99), "multiple of 256"),
    "tensor twice": (head(2, 0) + tensor() + tensor(offset=32) + bytes(200), "twice"),
    "overlap": (head(2, 0) + tensor("a") + tensor("b", offset=0) + bytes(200), "not at 32"),
    "gap": (head(2, 0) + tensor("a") + tensor("b", offset=64) + bytes(200), "not at 32"),
    "long name": (head(1, 0) + tensor("n" * 64) + bytes(200), "claims 64 bytes"),
    "NUL in a key": (
        head(0, 1) + string("general.alignment\0x") + struct.pack("<II", 4, 64),
        "is no name: 'general.alignment\\x00x'",
    ),
    "escapes in a key": (head(0, 1) + string("\x1b[2J") + struct.pack("<II", 4, 64), "is no name"),
    "no name": (head(1, 0) + tensor("") + bytes(200), "is no name"),
    "NUL in a name": (head(1, 0) + tensor("a\0b") + bytes(200), "is no name"),
    "absurdly many tensors": (head(2**17, 0) + bytes(24 * 2**17), "absurdly many"),
    "many items": (
        head(0, 2)
        + (string("a") + struct.pack("<IIQ", 9, 7, 2**19) + bytes(2**19))
        + (string("b") + struct.pack("<IIQ", 9, 7, 2**19 + 1) + bytes(2**19 + 1)),
        "metadata 'b' claims 524289 items",
    ),
    "a long header": (
        head(0, 2)
        + (string("a") + struct.pack("<IQ", 8, 2**24) + bytes(2**24))
        + (string("b") + struct.pack("<IQ", 8, 2**24) + bytes(2**24)),
        "claims more than 33554432 bytes",
    ),
    "data missing": (head(1, 0) + tensor(shape=(1000,)) + bytes(99), "truncated"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, name: str) -> None:
    data, message = CASES[name]
    path = write(tmp_path, data)
    with pytest.raises(ModelLoadError) as caught:
        read_gguf_header(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="No such file"):
        read_gguf_header(tmp_path / "none.gguf")


def test_every_truncation_is_found(tmp_path: Path) -> None:
    data = file_bytes()
    needed = len(data) - 12  # the padding behind the last tensor is no loss
    for length in range(needed):
        with pytest.raises(ModelLoadError):
            read_gguf_header(write(tmp_path, data[:length]))
    read_gguf_header(write(tmp_path, data[:needed]))


@given(position=st.integers(0, len(file_bytes()) - DATA_BYTES - 1), byte=st.integers(0, 255))
def test_a_damaged_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    data = bytearray(file_bytes())
    data[position] = byte
    path = tmp_path_factory.mktemp("damaged") / "x.gguf"
    path.write_bytes(data)
    try:
        read_gguf_header(path)
    except ModelLoadError:
        return
