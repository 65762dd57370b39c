from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codellama.cli import main
from codellama.errors import ModelLoadError
from codellama.files.gguf_header import read_gguf_header
from codellama.files.provenance import manifest_path, verify
from codellama.weights.convert import convert, quantize
from tests.checkpoints import Checkpoint, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "m", Checkpoint(shards=3))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_file_says_where_it_comes_from(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "bf16.gguf")
    quantize(tmp_path / "bf16.gguf", tmp_path / "q.gguf", "Q4_0")
    values = read_gguf_header(tmp_path / "q.gguf").metadata
    own = {key: value for key, value in values.items() if key.startswith("codellama.")}
    assert list(values)[-len(own) :] == list(own)
    assert own["codellama.source"] == "m"
    assert own["codellama.recipe"] == "Q4_0"
    assert own["codellama.quantizer"].startswith("llama-cpp-python 0.")
    manifest = json.loads(manifest_path(tmp_path / "q.gguf").read_text())
    data = (tmp_path / "q.gguf").read_bytes()
    row = {"name": "q.gguf", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert manifest["files"] == [row]
    assert (manifest["source"], manifest["recipe"]) == ("m", "Q4_0")
    assert str(tmp_path) not in json.dumps(manifest)


def test_the_same_source_and_recipe_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        convert(folder, tmp_path / name / "x.gguf", "Q4_K_M")
    for name in ("x.gguf", "x.gguf.manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_verifying_reads_every_byte(folder: Path, tmp_path: Path) -> None:
    report = convert(folder, tmp_path / "x.gguf", "F16", split_bytes=500_000)
    assert len(report.paths) > 2
    calls: list[tuple[int, int]] = []
    listed = verify(report.path, lambda *call: calls.append(call))
    assert [entry.path for entry in listed] == list(report.paths)
    assert calls[-1] == (report.nbytes, report.nbytes)
    assert verify(report.paths[1]) == listed
    result = run("verify", report.path, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(json.loads(result.stdout)["files"]) == len(report.paths)
    assert "bytes as written, SHA-256" in run("verify", report.path).stdout


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove(path: Path) -> None:
    path.unlink()


def no_manifest(path: Path) -> None:
    manifest_path(path).unlink()


def cut_manifest(path: Path) -> None:
    manifest_path(path).write_bytes(manifest_path(path).read_bytes()[:-20])


def other_version(path: Path) -> None:
    manifest_path(path).write_text('{"codellama manifest": 7, "files": [1]}')


def path_outside(path: Path) -> None:
    text = manifest_path(path).read_text()
    manifest_path(path).write_text(text.replace('"x.gguf"', '"../x.gguf"'))


def another_name(path: Path) -> None:
    text = manifest_path(path).read_text()
    manifest_path(path).write_text(text.replace('"x.gguf"', '"y.gguf"'))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (flip, "its bytes are not those that were written"),
        (shorten, "bytes, not "),
        (remove, "missing"),
        (no_manifest, "missing: only files that this program has written"),
        (cut_manifest, "damaged"),
        (other_version, "damaged: of an unknown version"),
        (path_outside, "is no name of a file beside it"),
        (another_name, "does not list it"),
    ],
)
def test_whatever_has_changed_is_found(
    folder: Path, tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    convert(folder, tmp_path / "x.gguf", "Q4_0")
    harm(tmp_path / "x.gguf")
    with pytest.raises(ModelLoadError, match=reason):
        verify(tmp_path / "x.gguf")
    result = run("verify", tmp_path / "x.gguf")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
