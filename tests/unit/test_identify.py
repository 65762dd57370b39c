"""What files and folders are that are not what was asked for: every row of the table, as tools write it."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

from codellama.cli import main
from codellama.errors import CheckpointError, CodeLlamaError, ModelLoadError
from codellama.files.gguf_header import read_gguf_header
from codellama.files.identify import FILES, FOLDERS, identify, recognised
from codellama.files.loadable import read_model
from codellama.files.safetensors_header import read_safetensors_header
from codellama.files.small_files import read_json
from codellama.models import resolve_model
from codellama.weights.gguf_source import open_gguf
from codellama.weights.source import open_checkpoint
from tests.checkpoints import write_checkpoint
from tests.lora_file import write_adapter

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 9976636896\n"
)
"""docs/spec.md of git-lfs."""


def git_lfs(path: Path) -> None:
    path.write_bytes(POINTER)


def empty(path: Path) -> None:
    path.touch()


def unfinished(path: Path) -> None:
    """As a download that sets the size first leaves it."""
    with path.open("wb") as file:
        file.truncate(10_000)


def web_page(path: Path) -> None:
    path.write_text('\n<!doctype html>\n<html class=""><head><title>x</title></head></html>')


def big_endian(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("a.weight", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_1(path: Path) -> None:
    """Counts had four bytes then (docs/gguf.md of ggml)."""
    path.write_bytes(b"GGUF" + struct.pack("<III", 1, 0, 0))


def ggml(path: Path) -> None:
    """`ggjt` as a number, version 3."""
    path.write_bytes(struct.pack("<II", 0x67676A74, 3) + bytes(99))


def safetensors_file(path: Path) -> None:
    safetensors.numpy.save_file({"a": np.ones(64, np.float32)}, path)


def adapter_weights(path: Path) -> None:
    safetensors_file(path)


def torch_zip(path: Path) -> None:
    """torch.save since 1.6: a zip archive, stored, that begins with the pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pytorch_model/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("pytorch_model/version", "3\n")


def torch_old(path: Path) -> None:
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + bytes(99))


FILE_CASES: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("git-lfs", "m.gguf", git_lfs, "Git LFS pointer.*run `git lfs pull` in "),
    ("empty", "m.gguf", empty, "it is empty: download it again"),
    ("unfinished", "m.gguf", unfinished, "begins with zeros"),
    ("web page", "m.gguf", web_page, "a web page.*/resolve/"),
    ("big-endian", "m.gguf", big_endian, "`gguf-convert-endian .*m.gguf little`"),
    ("gguf-1", "m.gguf", gguf_1, "GGUF of version 1"),
    ("ggml", "m.bin", ggml, "a format before GGUF"),
    ("adapter weights", "adapter_model.safetensors", adapter_weights, "a PEFT adapter: name the folder"),
    ("safetensors", "model.safetensors", safetensors_file, "`codellama convert .* -o FILE.gguf`"),
    ("pickle", "pytorch_model.bin", torch_zip, "a PyTorch file: `codellama convert .* -o FILE.gguf`"),
    ("pickle", "pytorch_model.bin", torch_old, "a PyTorch file: `codellama convert .* -o FILE.gguf`"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "make", "message"), FILE_CASES, ids=lambda v: str(v)[:20])
def test_files_that_are_no_gguf(
    tmp_path: Path, kind: str, name: str, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / name
    make(path)
    found = identify(path)
    assert found is not None
    assert found[0].kind == kind
    for read in (read_gguf_header, read_model, open_gguf):
        with pytest.raises(ModelLoadError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
    for command in (
        ["inspect"],
        ["tokenize"],
        ["quantize", "--type", "Q8_0", "-o", str(tmp_path / "o")],
    ):
        arguments = [*command, str(path)] + (["x"] if command == ["tokenize"] else [])
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {path}: ")
        assert result.stderr.count("\n") == 1


def peft(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    safetensors_file(folder / "adapter_model.safetensors")


def checkpoint(folder: Path) -> None:
    write_checkpoint(folder)


def hub_repository(folder: Path) -> None:
    """huggingface_hub's cache: blobs, refs with commits, snapshots of links."""
    for name in ("blobs", "refs", "snapshots/339bb9ea"):
        (folder / name).mkdir(parents=True)
    (folder / "refs/main").write_text("339bb9ea")


def hub_repository_begun(folder: Path) -> None:
    for name in ("blobs", "refs", "snapshots"):
        (folder / name).mkdir(parents=True)


def hub_cache(folder: Path) -> None:
    hub_repository(folder / "models--codellama--CodeLlama-7b-hf")


def meta(folder: Path) -> None:
    (folder / "params.json").write_text('{"dim": 8192}')
    (folder / "consolidated.00.pth").touch()
    (folder / "tokenizer.model").touch()


def ggufs(folder: Path) -> None:
    for name in ("b.Q8_0.gguf", "a.Q4_K_M.gguf", "README.md"):
        (folder / name).touch()


def weights_alone(folder: Path) -> None:
    safetensors_file(folder / "model.safetensors")


def nested(folder: Path) -> None:
    write_checkpoint(folder / "CodeLlama-7b-hf")


CACHED = "models--codellama--CodeLlama-7b-hf"
FOLDER_CASES: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("nothing", "x", lambda folder: None, "an empty folder: name the file of a model, or download it"),
    ("peft", "x", peft, "a PEFT adapter, not a model: load .* and name the adapter in (lora|--lora)"),
    ("checkpoint", "x", checkpoint, "a checkpoint folder: `codellama convert .*x -o FILE.gguf`"),
    ("hub repository", CACHED, hub_repository, f"name .*{CACHED}/snapshots/339bb9ea"),
    ("hub repository", CACHED, hub_repository_begun, "snapshots has none: download it again"),
    ("hub cache", "hub", hub_cache, f"name a snapshot of one .*: {CACHED}/snapshots/"),
    ("meta", "x", meta, "Meta's own download"),
    ("ggufs", "x", ggufs, "name one of them: a.Q4_K_M.gguf, b.Q8_0.gguf"),
    ("weights alone", "x", weights_alone, "has weights, but no config.json"),
    ("nested", "x", nested, "name the folder inside it, .*x/CodeLlama-7b-hf"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "make", "message"), FOLDER_CASES, ids=lambda v: str(v)[:20]
)
def test_folders_that_are_no_model(
    tmp_path: Path, kind: str, name: str, make: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    make(folder)
    found = identify(folder)
    assert found is not None
    assert found[0].kind == kind
    for read in (read_gguf_header, read_model, open_gguf, resolve_model):
        with pytest.raises(ModelLoadError, match=message):
            read(folder)
    if kind != "checkpoint":
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(folder)
    result = CliRunner().invoke(main, ["inspect", str(folder)])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_a_model_with_an_adapter_beside_it_is_a_checkpoint(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    peft(tmp_path)
    found = identify(tmp_path)
    assert found is not None
    assert found[0].kind == "checkpoint"
    for path in tmp_path.glob("model*"):
        path.unlink()
    found = identify(tmp_path)  # some trainers leave the base's config.json with the adapter
    assert found is not None
    assert found[0].kind == "peft"


def test_every_row_has_a_case() -> None:
    assert {row.kind for row in FILES} == {case[0] for case in FILE_CASES}
    assert {row.kind for row in FOLDERS} == {case[0] for case in FOLDER_CASES}


def test_what_is_not_known_has_no_row(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert identify(path) is None
    path.write_text("hello")
    assert identify(path) is None
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    assert identify(tmp_path / "folder") is None
    assert recognised("/dev/zero", ModelLoadError) is None


def test_braces_in_a_path_stay_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "{lora} {0} {x"
    folder.mkdir()
    ggufs(folder)
    error = recognised(folder, ModelLoadError)
    assert str(error).startswith(f"{folder}: it is a folder with GGUF files: name one")
    checkpoint(folder)
    assert f"convert {folder} -o" in str(recognised(folder, ModelLoadError))


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.model", "added_tokens.json", "model-00001-of-00002.safetensors"],
)
def test_pointers_in_a_clone_without_lfs(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / name).write_bytes(POINTER)
    with pytest.raises(
        CheckpointError, match=f"{name}: it is a Git LFS pointer.*lfs pull` in {folder}"
    ):
        open_checkpoint(folder)


def test_readers_of_checkpoint_files_say_it_too(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(POINTER)
    for read in (read_safetensors_header, read_json):
        with pytest.raises(CheckpointError, match="Git LFS pointer"):
            read(path)
    web_page(path)
    with pytest.raises(CheckpointError, match="a web page"):
        read_safetensors_header(path)


def test_an_adapter_is_shown_and_is_no_model(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.gguf", 1)
    result = CliRunner().invoke(main, ["inspect", str(path), "--json"])
    facts = json.loads(result.stdout)
    assert (facts["kind"], facts["rank"], facts["alpha"], facts["adapted"]) == (
        "LoRA adapter",
        2,
        2.0,
        1,
    )
    shown = CliRunner().invoke(main, ["inspect", str(path)]).stdout
    assert f"codellama chat MODEL --lora {path}" in shown
    assert "damaged" not in shown
    for read in (read_model, open_gguf):
        with pytest.raises(
            ModelLoadError, match="it is a LoRA adapter, not a model: load the model"
        ):
            read(path)
    result = CliRunner().invoke(main, ["chat", str(path)], input="hi")
    assert "name the adapter in --lora" in result.stderr


def test_an_importance_matrix_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("imatrix")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    for read in (read_model, open_gguf):
        with pytest.raises(CodeLlamaError, match="it is an importance matrix, not a model"):
            read(path)
    assert "importance matrix" in CliRunner().invoke(main, ["inspect", str(path)]).stderr
