"""Several types from one reading, and GGUFs in several files."""

from __future__ import annotations

import ctypes
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from click.testing import CliRunner, Result

from codellama.cli import main
from codellama.errors import ConversionError, ModelLoadError
from codellama.files.gguf_header import Value, ValueType, encode_header, read_gguf_header
from codellama.files.split import read_parts
from codellama.llm import LLM
from codellama.native.ggml import file_types
from codellama.weights.convert import RunSettings, convert, convert_to, quantize
from codellama.weights.naming import output_paths
from codellama.weights.source import Source
from tests.checkpoints import Checkpoint, write_checkpoint

LIMIT = 300_000
"""Makes ten files of the small checkpoint in F16."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "m", Checkpoint(shards=3))


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    convert(folder, folder.parent / "whole.gguf", "F16")
    return folder.parent / "whole.gguf"


@pytest.fixture(scope="module")
def split(folder: Path) -> Path:
    """The first file of the same model, split."""
    report = convert(folder, folder.parent / "split.gguf", "F16", split_bytes=LIMIT)
    assert len(report.paths) == 10
    assert report.nbytes == sum(path.stat().st_size for path in report.paths)
    return report.path


def tensors_of(first: Path) -> dict[str, tuple[str, bytes]]:
    found = {}
    for part in read_parts(first):
        data = part.path.read_bytes()
        for t in part.tensors:
            found[t.name] = t.type_name, data[t.offset : t.offset + t.nbytes]
    return found


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_several_types_read_every_weight_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = ["Q4_K_M", "Q4_K_S", "Q8_0", "BF16"]
    alone = {}
    for name in types:
        convert(folder, tmp_path / f"alone.{name}.gguf", name)
        alone[name] = (tmp_path / f"alone.{name}.gguf").read_bytes()
    read: list[int] = []
    original = Source.read

    def count(self: Source, *arguments: object) -> None:
        read.append(arguments[2].nbytes)  # type: ignore[attr-defined]
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Source, "read", count)
    paths = {name: tmp_path / f"{name}.gguf" for name in types}
    reports = convert_to(folder, paths, RunSettings())
    assert {report.type: report.path.read_bytes() for report in reports} == alone
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert 0.99 * stored < sum(read) < stored


def test_names_of_outputs(tmp_path: Path) -> None:
    def names(output: Path, source: str, *types: str) -> list[str]:
        return [
            str(path.relative_to(tmp_path)) for path in output_paths(output, source, types).values()
        ]

    assert names(tmp_path / "x.gguf", "m", "F16") == ["x.gguf"]
    assert names(tmp_path, "Code-7b-hf", "F16") == ["Code-7b-hf.F16.gguf"]
    assert names(tmp_path, "a.b.BF16.gguf", "F16", "Q8_0") == ["a.b.F16.gguf", "a.b.Q8_0.gguf"]
    assert names(tmp_path, "a.f16-00001-of-00003.gguf", "Q8_0") == ["a.Q8_0.gguf"]
    assert names(tmp_path / "{name}-{type}", "m.x", "Q8_0") == ["m.x-Q8_0"]
    for types, reason in ((("F16", "F16"), "named twice"), (("F16", "Q8_0"), "a file each")):
        with pytest.raises(ConversionError, match=reason):
            output_paths(tmp_path / "x.gguf", "m", types)
    with pytest.raises(ConversionError, match="no such folder"):
        output_paths(tmp_path / "{type}" / "x.gguf", "m", ("F16",))


def test_the_command_takes_several_types_and_a_folder(folder: Path, tmp_path: Path) -> None:
    types = ["--type", "Q4_0", "--type", "q8_0"]
    result = run("convert", folder, "-o", tmp_path, *types, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    documents = json.loads(result.stdout)
    assert [document["type"] for document in documents] == ["Q4_0", "Q8_0"]
    assert sorted(path.name for path in tmp_path.glob("*.gguf")) == ["m.Q4_0.gguf", "m.Q8_0.gguf"]
    result = run("quantize", tmp_path / "m.Q8_0.gguf", "-o", tmp_path, "--type", "Q8_0")
    assert result.exit_code == 1
    assert "m.Q8_0.gguf: exists already" in result.stderr


def test_a_split_model_holds_the_same_tensors(whole: Path, split: Path) -> None:
    assert split.name.startswith("split-00001-of-00010")
    assert tensors_of(split) == tensors_of(whole)
    first, *rest = read_parts(split)
    keys = {"split.no", "split.count", "split.tensors.count"}
    assert {*first.values} - {*read_gguf_header(whole).values} == keys
    for number, part in enumerate([first, *rest]):
        assert {*part.values} >= keys
        assert part.metadata["split.no"] == number
        assert part.metadata["split.count"] == len(rest) + 1
        assert part.metadata["split.tensors.count"] == 21
        sizes = [-(-tensor.nbytes // 32) * 32 for tensor in part.tensors]
        assert sum(sizes) <= LIMIT or len(sizes) == 1
    assert all({*part.values} == keys for part in rest)


def test_llama_cpp_splits_to_the_same_bytes(split: Path, tmp_path: Path) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_types()["F16"]
    params.keep_split = True
    names = str(split).encode(), str(tmp_path / "theirs").encode()
    assert llama_cpp.llama_model_quantize(*names, ctypes.byref(params)) == 0
    theirs = sorted(tmp_path.iterdir())
    ours = [part.path for part in read_parts(split)]
    assert [p.read_bytes() for p in theirs[1:]] == [p.read_bytes() for p in ours[1:]]
    assert tensors_of(theirs[0]) == tensors_of(ours[0])
    first, second = (read_gguf_header(paths[0]).values for paths in (theirs, ours))
    assert [item for item in first.items() if "codellama." not in item[0]] == [
        item for item in second.items() if "codellama." not in item[0]
    ]
    assert [p.name[6:] for p in theirs] == [p.name[5:] for p in ours]


def test_llama_cpp_loads_a_split_model(whole: Path, split: Path) -> None:
    scores = []
    for path in (whole, split):
        llama = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
        llama.eval([1, 5, 9])
        scores.append(llama.scores[:3].copy())
    assert np.array_equal(scores[0], scores[1])


def test_our_runtime_loads_a_split_model(whole: Path, split: Path) -> None:
    answers = []
    for path in (whole, split):
        with LLM(path, n_ctx=64, n_seq_max=1, n_threads=1) as llm:
            answers.append(llm.complete("So", max_tokens=8, temperature=0.0).text())
    assert answers[0] == answers[1]


def test_a_split_source_is_quantized_as_a_whole_one(
    whole: Path, split: Path, tmp_path: Path
) -> None:
    quantize(whole, tmp_path / "a.gguf", "Q4_K_M")
    quantize(split, tmp_path / "b.gguf", "Q4_K_M")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_model_that_fits_one_file_is_not_split(folder: Path, whole: Path, tmp_path: Path) -> None:
    report = convert(folder, tmp_path / "x.gguf", "F16", split_bytes=10**9)
    assert report.paths == (tmp_path / "x.gguf",)
    assert report.path.read_bytes() == whole.read_bytes()


def test_the_command_splits(folder: Path, tmp_path: Path) -> None:
    arguments = "convert", folder, "-o", tmp_path / "x.gguf", "--type", "F16", "--split-max-size"
    result = run(*arguments, "500K", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    files = json.loads(result.stdout)["files"]
    assert sorted(map(str, tmp_path.glob("*.gguf"))) == files
    inspected = json.loads(run("inspect", files[0], "--json").stdout)
    assert (inspected["files"], inspected["tensors"]) == (len(files), 21)
    assert inspected["file_bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.gguf"))
    for size in ("0G", "10", "x", "1.5G", "-1G"):
        assert run(*arguments, size).exit_code == 2


def copied(first: Path, target: Path) -> Path:
    target.mkdir()
    for part in read_parts(first):
        shutil.copy(part.path, target)
    return target / first.name


def drop(first: Path) -> None:
    read_parts(first)[2].path.unlink()


def swap(first: Path) -> None:
    paths = [part.path for part in read_parts(first)]
    shutil.copy(paths[1], paths[2])


def cut(first: Path) -> None:
    path = read_parts(first)[1].path
    path.write_bytes(path.read_bytes()[:-100])


def rename(first: Path) -> None:
    first.rename(first.with_name("model.gguf"))


def same_tensors(first: Path) -> None:
    parts = read_parts(first)
    values = dict(parts[2].values)
    header = encode_header(values, parts[1].tensors)
    size = sum(-(-tensor.nbytes // 32) * 32 for tensor in parts[1].tensors)
    parts[2].path.write_bytes(header + bytes(size))


def other_total(first: Path) -> None:
    part = read_parts(first)[1]
    old = b"split.tensors.count" + struct.pack("<Ii", 5, 21)
    data = part.path.read_bytes()
    assert old in data
    part.path.write_bytes(data.replace(old, old[:-4] + struct.pack("<i", 22)))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (drop, "-00003-of-00010.*missing: the model is split into"),
        (swap, "-00003-of-00010.*not part 3 of"),
        (cut, "-00002-of-00010.*truncated"),
        (rename, "model.gguf: the first of 10 parts.*give them their names back"),
        (same_tensors, "is in another part too"),
        (other_total, "hold 21 tensors, not 22"),
    ],
)
def test_every_part_is_checked(
    split: Path, tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    first = copied(split, tmp_path / "m")
    harm(first)
    named = first if first.exists() else first.with_name("model.gguf")
    with pytest.raises(ModelLoadError, match=reason):
        quantize(named, tmp_path / "x.gguf", "Q8_0")
    with pytest.raises(ModelLoadError, match=reason):
        LLM(named)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_another_part_than_the_first_says_which_to_name(split: Path) -> None:
    second = read_parts(split)[1].path
    with pytest.raises(ModelLoadError, match="part 2 of 10 of a model: name split-00001-of-00010"):
        read_parts(second)


@pytest.mark.parametrize(
    "value",
    [Value(ValueType.STRING, "x"), Value(ValueType.INT32, -1), Value(ValueType.FLOAT32, 2.0)],
)
def test_a_nonsense_count_is_refused(tmp_path: Path, value: Value) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(encode_header({"split.count": value}, []))
    with pytest.raises(ModelLoadError, match="split.count. is of type .* not UINT16"):
        read_parts(path)
