"""GGUFs that were cut by bytes: read as one file where only bytes are needed, else named with the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from codellama.cli import main
from codellama.errors import ModelLoadError
from codellama.files.gguf_header import read_gguf_header
from codellama.files.loadable import read_model, read_vocabulary
from codellama.weights.convert import quantize
from tests import tiny_model

Names = Callable[[int, int], str]

STYLES: dict[str, Names] = {
    "letters": lambda number, count: f"m.gguf-split-{'abcdefgh'[number]}",
    "numbers": lambda number, count: f"m.gguf.part{number + 1}of{count}",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("whole") / "m.gguf")


def cut(whole: Path, folder: Path, names: Names, *places: int) -> list[Path]:
    """The file cut at these bytes, as `split` and `dd` do it."""
    data = whole.read_bytes()
    ends = [*places, len(data)]
    paths = [folder / names(number, len(ends)) for number in range(len(ends))]
    for path, begin, end in zip(paths, [0, *places], ends, strict=True):
        path.write_bytes(data[begin:end])
    return paths


@pytest.mark.parametrize("names", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("places", [(300_001,), (5_000, 5_001, 400_000)])
def test_a_cut_file_is_quantized_as_the_whole_one(
    tmp_path: Path, whole: Path, names: Names, places: tuple[int, ...]
) -> None:
    first = cut(whole, tmp_path, names, *places)[0]
    ours, theirs = read_gguf_header(first), read_gguf_header(whole)
    assert (ours.metadata, ours.data_offset) == (theirs.metadata, theirs.data_offset)
    assert ours.tensors == theirs.tensors
    quantize(first, tmp_path / "a.gguf", "F16", threads=2)
    quantize(whole, tmp_path / "b.gguf", "F16", threads=2)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_cut_file_is_inspected_and_has_to_be_joined_to_run(tmp_path: Path, whole: Path) -> None:
    first, second = cut(whole, tmp_path, STYLES["letters"], 300_000)
    result = CliRunner().invoke(main, ["inspect", str(first), "--json"])
    assert json.loads(result.stdout)["file_bytes"] == whole.stat().st_size
    shown = CliRunner().invoke(main, ["inspect", str(first)]).stdout
    command = "`cat m.gguf-split-a m.gguf-split-b > m.gguf`"
    assert "would not load" in shown
    assert command in shown
    for read in (read_model, read_vocabulary):
        with pytest.raises(
            ModelLoadError, match="is the first of 2 pieces of a file: join them"
        ) as caught:
            read(first)
        assert command in str(caught.value)
    with pytest.raises(ModelLoadError, match=f"a later piece of a file that was cut, name {first}"):
        read_gguf_header(second)


def test_the_letters_may_be_large(tmp_path: Path, whole: Path) -> None:
    first = cut(whole, tmp_path, lambda number, _: f"M.GGUF-split-{'AB'[number]}", 1000)[0]
    assert read_gguf_header(first).tensors == read_gguf_header(whole).tensors


@pytest.mark.parametrize(
    ("style", "missing", "message"),
    [
        ("letters", 1, "the first piece of a file, and m.gguf-split-b is not beside it"),
        ("numbers", 1, "the first of 3 pieces of a file, and m.gguf.part2of3 is not beside it"),
        ("letters", 2, "truncated GGUF"),  # nothing says that there was a third
    ],
)
def test_a_missing_piece_is_named(
    tmp_path: Path, whole: Path, style: str, missing: int, message: str
) -> None:
    paths = cut(whole, tmp_path, STYLES[style], 200_000, 400_000)
    paths[missing].unlink()
    with pytest.raises(ModelLoadError, match=message):
        read_gguf_header(paths[0])


@pytest.mark.parametrize("name", ["m.gguf.part0of2", "m.gguf.part3of2", "m.gguf.part1of0"])
def test_numbers_that_make_no_sense_are_an_error(tmp_path: Path, whole: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match=r"(truncated|later piece|makes no sense)"):
        read_gguf_header(path)
