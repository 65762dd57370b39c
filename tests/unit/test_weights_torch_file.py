"""Torch archives: tensors are found where they lie; whatever else a pickle says is refused by name."""

from __future__ import annotations

import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codellama.errors import CheckpointError
from codellama.files import torch_pickle
from codellama.files.torch_file import read_torch_header
from tests.torch_archive import (
    ORDERED,
    name,
    number,
    numbers,
    program,
    tensor,
    text,
    write_archive,
    write_torch,
)

FOUR = {"0": np.arange(4, dtype=np.float32).tobytes()}


def test_tensors_are_found_where_they_lie(tmp_path: Path) -> None:
    arrays: dict[str, tuple[str, NDArray[Any]]] = {
        "a": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3)),
        "b": ("BF16", np.arange(5, dtype=np.uint16)),
        "c": ("I64", np.array([7], np.int64)),
    }
    path = write_torch(
        tmp_path / "m.bin", [(key, dtype, data) for key, (dtype, data) in arrays.items()]
    )
    data = path.read_bytes()
    found = {t.name: t for t in read_torch_header(path)}
    assert found.keys() == arrays.keys()
    for key, (dtype, array) in arrays.items():
        entry = found[key]
        assert (entry.dtype, entry.shape) == (dtype, array.shape)
        assert data[entry.offset : entry.offset + entry.nbytes] == array.tobytes()


def test_tensors_may_share_a_storage_and_begin_inside_it(tmp_path: Path) -> None:
    entries = {
        "all": tensor("0", "F32", [4]),
        "tied": tensor("0", "F32", [4]),
        "end": tensor("0", "F32", [1, 2], first=2, count=4),
    }
    path = write_archive(tmp_path / "m.bin", program(entries), FOUR)
    found = {t.name: t for t in read_torch_header(path)}
    assert found["tied"].offset == found["all"].offset
    assert found["end"].offset == found["all"].offset + 8
    assert found["end"].nbytes == 8


def test_a_parameter_and_the_attributes_of_a_state_dict(tmp_path: Path) -> None:
    parameter = name("torch._utils", "_rebuild_parameter") + b"(" + tensor("0", "F32", [4])
    parameter += b"\x88" + ORDERED + b"tR"
    metadata = b"}" + text("_metadata") + ORDERED + text("") + b"}" + text("version") + number(1)
    pickled = program({"p": parameter})[:-1] + metadata + b"ssb" + b"."
    path = write_archive(tmp_path / "m.bin", pickled.replace(b"ssb", b"sssb"), FOUR)
    assert [t.name for t in read_torch_header(path)] == ["p"]


def evil(module: str, attribute: str) -> bytes:
    """What would call something harmless, if anything were ever called."""
    return b"\x80\x02" + name(module, attribute) + b"(" + text("1") + b"tR."


REFUSED = {
    "eval": (evil("builtins", "len"), r"names 'builtins.len': it holds more than tensors"),
    "system": (evil("posix", "getpid"), r"names 'posix.getpid'"),
    "dotted": (evil("torch", "_utils._rebuild_tensor_v2"), r"names 'torch._utils._reb"),
    "storage as function": (
        b"\x80\x02" + name("torch", "FloatStorage") + b"(" + number(4) + b"tR.", "a call of"),
    "from the stack": (b"\x80\x04\x8c\x02os\x8c\x06getpid\x93.", "names 'os.getpid'"),
    "instance": (b"\x80\x02(" + text("x") + b"ios\ngetpid\n.", r"instruction b'i'"),
    "object": (b"\x80\x02c\x00", "damaged pickle"),
    "newobj": (b"\x80\x02" + name("collections", "OrderedDict") + b")\x81.", r"b'\\x81'"),
    "extension": (b"\x80\x02\x82\x01.", r"b'\\x82'"),
    "next buffer": (b"\x80\x05\x97.", r"b'\\x97'"),
    "persistent text": (b"\x80\x02P0\n.", r"instruction b'P'"),
    "a list": (b"\x80\x02].", r"b'\]'"),
    "protocol": (b"\x80\x09.", "protocol 9"),
    "a number": (b"\x80\x02K\x05.", "no dictionary of tensors"),
    "a number in it": (program({"a": number(5)}), "'a' in its pickle is no tensor"),
    "nested": (program({"state_dict": program({})[2:-1]}), "'state_dict' in its pickle is no"),
    "twice": (
        b"\x80\x02}(" + (text("a") + tensor("0", "F32", [4])) * 2 + b"u.", "'a', which is"),
    "key": (b"\x80\x02}" + number(1) + number(1) + b"s.", "the entry 1"),
    "no dictionary": (b"\x80\x02" + text("x") + text("y") + text("z") + b"s.", "without a dict"),
    "odd": (b"\x80\x02}(" + text("x") + b"u.", "without a dictionary"),
    "transposed": (program({"t": tensor("0", "F32", [2, 2], strides=[1, 2])}), "t has shape .* strides"),
    "beyond": (program({"t": tensor("0", "F32", [3], first=2, count=4)}), "beyond the end"),
    "negative": (program({"t": tensor("0", "F32", [4], first=-1)}), "impossible shape"),
    "huge": (program({"t": tensor("0", "F32", [2**40, 2**40], count=4)}), "beyond the end"),
    "dimensions": (program({"t": tensor("0", "F32", [1] * 9, count=4)}), "impossible shape"),
    "no storage": (program({"t": tensor("9", "F32", [4])}), "storage of t is missing"),
    "short storage": (program({"t": tensor("0", "F32", [4], count=5)}), "storage of t is missing"),
    "folder": (program({"t": tensor("../0", "F32", [4])}), "storage of t is missing"),
    "name": (program({"\x1b[2J": tensor("0", "F32", [4])}), "no name of a tensor"),
    "cut": (program({"t": tensor("0", "F32", [4])})[:-9], "damaged pickle: the program ends"),
    "memo": (b"\x80\x02h\x05.", "never kept"),
    "mark": (b"\x80\x02t.", "a mark is missing"),
    "empty stack": (b"\x80\x02R.", "a value is missing"),
    "below the mark": (b"\x80\x02}(R.", "a value is missing"),
    "two results": (b"\x80\x02}}.", "the end"),
    "text": (b"\x80\x02X\xff\xff\xff\xff.", "a text of 4294967295 bytes"),
    "not UTF-8": (b"\x80\x02X\x01\x00\x00\x00\xff.", "not UTF-8"),
    "build": (b"\x80\x02" + text("a") + b"}b.", "attributes of something else"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_everything_but_tensors_is_refused(tmp_path: Path, case: str) -> None:
    pickled, message = REFUSED[case]
    path = write_archive(tmp_path / "m.bin", pickled, FOUR)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_torch_header(path)
    assert "m.bin" in str(caught.value)


def test_a_program_that_goes_on_and_on_is_ended(tmp_path: Path) -> None:
    pickled = b"\x80\x02" + b"}" * (torch_pickle.MOST_INSTRUCTIONS + 1) + b"."
    path = write_archive(tmp_path / "m.bin", pickled, {})
    with pytest.raises(CheckpointError, match="more than 524288 instructions"):
        read_torch_header(path)


def test_a_shape_is_not_unrolled_before_its_length_is_known(tmp_path: Path) -> None:
    """A long shape that is kept and used again and again would take hours."""
    shape = b"(" + b"K\x01" * 100_000 + b"tq\x07"
    call = name("torch._utils", "_rebuild_tensor_v2") + b"(" + text("x") + number(0) + shape
    path = write_archive(tmp_path / "m.bin", b"\x80\x02" + call + b"h\x07\x89}tR.", {})
    with pytest.raises(CheckpointError, match="a call of an unknown form"):
        read_torch_header(path)
    path = write_archive(tmp_path / "m.bin", program({"t": tensor("0", "F32", [1] * 9)}), {})
    with pytest.raises(CheckpointError, match="impossible shape"):
        read_torch_header(path)


def test_every_instruction_that_is_known_is_pickles_own() -> None:
    """The letters mean here what they mean in Python's documentation of pickle."""
    names = {code.code: code.name for code in pickletools.opcodes}
    known = {names[code.decode("latin-1")] for code in torch_pickle._INSTRUCTIONS}
    assert known == {
        "PROTO", "FRAME", "GLOBAL", "STACK_GLOBAL", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET",
        "LONG_BINGET", "MARK", "BINUNICODE", "SHORT_BINUNICODE", "BININT1", "BININT2", "BININT",
        "LONG1", "NEWTRUE", "NEWFALSE", "NONE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
        "EMPTY_DICT", "SETITEM", "SETITEMS", "BUILD", "BINPERSID", "REDUCE",
    }  # fmt: skip
    assert not {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"} & known


def change(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


def test_archives_that_are_none(tmp_path: Path) -> None:
    good = program({"t": tensor("0", "F32", [4])})
    path = tmp_path / "m.bin"
    path.write_bytes(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    with pytest.raises(CheckpointError, match=r"before 1.6.* write it anew with torch: torch.save"):
        read_torch_header(path)
    for data, message in (
        (b"", "it is empty: download it again"), (b"{}" * 40, "does not begin as a zip file"),
        (b"PK\3\4" + bytes(40), "its end is missing"),
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            read_torch_header(path)
    path = write_archive(path, good, FOUR)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="its end is missing: download it again"):
        read_torch_header(path)
    path = write_archive(path, good, FOUR, **{"constants.pkl": b"x"})
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_torch_header(path)
    change(write_archive(path, good, FOUR), b"little", b"bigger")
    with pytest.raises(CheckpointError, match="big-endian"):
        read_torch_header(path)


def test_a_record_that_is_not_there_or_not_whole(tmp_path: Path) -> None:
    good = program({"t": tensor("0", "F32", [4])})
    path = write_archive(tmp_path / "m.bin", good, FOUR)
    data = path.read_bytes()
    at = data.rindex(b"PK\1\2", 0, data.rindex(b"m/data/0"))
    cases = {
        "compressed": (at + 10, struct.pack("<H", 8)),
        "encrypted": (at + 8, struct.pack("<H", 1)),
        "of another size": (at + 20, struct.pack("<II", 12, 12)),
        "the size of": (at + 20, struct.pack("<I", 2**32 - 1)),
        "truncated torch archive: the record": (at + 20, struct.pack("<II", 2**20, 2**20)),
        "not where it should be": (at + 42, struct.pack("<I", 1)),
        "truncated or damaged": (at + 42, struct.pack("<I", 2**31)),
    }
    for message, (place, new) in cases.items():
        path.write_bytes(data[:place] + new + data[place + len(new) :])
        with pytest.raises(CheckpointError, match=message):
            read_torch_header(path)


def test_numbers_help_the_tests_themselves() -> None:
    assert numbers([1, 2]) == b"(J\x01\0\0\0J\x02\0\0\0t"
