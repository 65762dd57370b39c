from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from codellama.cli import main
from codellama.errors import ModelLoadError
from codellama.models import find_variant, local_models, resolve_model
from codellama.variants import SHAPES, VARIANTS


def write_header(path: Path, *, name: str = "70b-instruct") -> Path:
    """A GGUF that looks like a published model: its shape and vocabulary, and one small tensor."""
    variant = next(v for v in VARIANTS if v.name == name)
    shape = SHAPES[variant.shape.size]
    tokens = [f"t{i}" for i in range(variant.vocab_size)]
    tokens[2] = "</s>"
    if variant.chat_format == "turn":
        tokens[-1] = "<step>"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"CodeLlama {name}")
    writer.add_context_length(2048)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_block_count(shape.layers)
    writer.add_rope_freq_base(variant.rope_theta)
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_eos_token_id(2)
    writer.add_tensor("norm.weight", np.ones(64, dtype=np.float32))
    writer.add_tensor("a.weight", np.ones((2, 64), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder that CODELLAMA_MODELS names."""
    folder = tmp_path / "my models"
    folder.mkdir()
    monkeypatch.setenv("CODELLAMA_MODELS", str(folder))
    return folder


# -- what MODEL means -----------------------------------------------------------------------------


def test_a_path_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.touch()
    assert resolve_model(str(path)) == path


@pytest.mark.parametrize(
    "name",
    [
        "70b-instruct",
        "70B-Instruct",
        "CodeLlama-70b-Instruct-hf",
        "codellama/CodeLlama-70b-Instruct-hf",
    ],
)
def test_names_of_a_published_model(name: str) -> None:
    variant = find_variant(name)
    assert variant is not None
    assert variant.name == "70b-instruct"


def test_a_published_name_is_its_local_file_whatever_that_is_called(models: Path) -> None:
    write_header(models / "other.gguf", name="7b")
    path = write_header(models / "renamed.gguf")
    assert resolve_model("codellama-70b-instruct") == path


def test_a_type_chooses_between_files(models: Path) -> None:
    small = write_header(models / "cl.Q4_K_M.gguf")
    write_header(models / "cl.Q8_0.gguf")
    assert resolve_model("70b-instruct:q4_k_m") == small
    with pytest.raises(ModelLoadError, match=r"has 2 files.*add :TYPE.*Q4_K_M.*Q8_0"):
        resolve_model("70b-instruct")


def test_a_published_name_without_file_says_how_to_make_one(models: Path) -> None:
    remedy = "codellama pull 7b-python`"
    with pytest.raises(ModelLoadError, match=f"no file of 7b-python in .*{remedy}"):
        resolve_model("7b-python")


@pytest.mark.parametrize("name", ["mymodel", "mymodel.gguf"])
def test_a_file_in_the_models_folder_goes_by_its_name(models: Path, name: str) -> None:
    path = write_header(models / "mymodel.gguf")
    assert resolve_model(name) == path
    assert json.loads(CliRunner().invoke(main, ["inspect", name, "--json"]).output)["file"] == str(
        path
    )


def test_a_name_in_two_folders_is_an_error_that_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODELLAMA_MODELS", raising=False)
    monkeypatch.setattr("codellama.models.folders.CHECKOUT", tmp_path / "checkout")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "models", tmp_path / "checkout" / "models"):
        folder.mkdir(parents=True)
        write_header(folder / "mine.gguf")
    with pytest.raises(ModelLoadError, match=r"in 2 folders, name one: models/mine.gguf, /"):
        resolve_model("mine")


@pytest.mark.parametrize("command", ["inspect", "verify", "tokenize"])
def test_every_command_says_the_same_about_an_unknown_name(models: Path, command: str) -> None:
    text = "nonsense: no such file, and no published model has that name; `codellama models` lists"
    result = CliRunner().invoke(main, [command, "nonsense"], input="x")
    assert (result.exit_code, result.stderr[: len(text) + 7]) == (1, f"Error: {text}")


def test_damaged_files_are_left_out_with_a_warning(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (models / "broken.gguf").write_bytes(b"GGUF\x03")
    assert local_models() == []
    assert "broken.gguf" in caplog.text


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("missing.gguf", "missing.gguf: no such file, and no published model has that name"),
        (".", ".: is a folder, a .gguf file is needed"),
    ],
)
def test_a_wrong_model_is_one_line(models: Path, argument: str, message: str) -> None:
    result = CliRunner().invoke(main, ["complete", argument, "x"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1


def test_a_file_that_is_no_gguf_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"PK\x03\x04 and more of it")
    for args in (
        ["complete", str(path), "x"],
        ["inspect", str(path)],
        ["tokenize", str(path), "x"],
    ):
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 1
        assert result.stderr == f"Error: {path}: not a GGUF file (it does not begin with GGUF)\n"


# -- models ---------------------------------------------------------------------------------------


def test_models_lists_all_twelve_and_the_files_here(models: Path) -> None:
    write_header(models / "mine.gguf")
    output = CliRunner().invoke(main, ["models"]).output
    assert all(f"\n{variant.name} " in output for variant in VARIANTS)
    row = next(line for line in output.splitlines() if line.startswith("70b-instruct"))
    assert row.split()[:7] == ["70b-instruct", "turns", "no", "4096", "69.0", "B", "138.0"]
    assert "mine.gguf" in row
    assert "[INST]" in output


def test_every_file_is_on_one_line_to_be_copied(models: Path) -> None:
    names = ["a-very-long-name-for-a-file-of-CodeLlama-70b-Instruct-in.Q4_K_M.gguf", "b.Q8_0.gguf"]
    for name in names:
        write_header(models / name)
    lines = CliRunner().invoke(main, ["models"], env={"COLUMNS": "80"}).output.splitlines()
    assert [name for name in names if sum(name in line for line in lines) != 1] == []


def test_models_lists_the_demo(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codellama.models.demo.DEMO_CHECKPOINT", models)
    assert "Also here: demo" not in CliRunner().invoke(main, ["models"]).output
    (models / "config.json").touch()
    assert "Also here: demo" in CliRunner().invoke(main, ["models"]).output
    assert json.loads(CliRunner().invoke(main, ["models", "--json"]).output)["demo"] is True


def test_models_as_json(models: Path) -> None:
    path = write_header(models / "mine.gguf")
    document = json.loads(CliRunner().invoke(main, ["models", "--json"]).output)
    assert [model["name"] for model in document["models"]] == [v.name for v in VARIANTS]
    assert document["models"][-1]["files"] == [{"path": str(path), "bytes": path.stat().st_size}]
    assert document["models"][-1]["repo"] == "codellama/CodeLlama-70b-Instruct-hf"
    assert document["other_files"] == []


# -- inspect --------------------------------------------------------------------------------------


def test_inspect_as_json(tmp_path: Path) -> None:
    path = write_header(tmp_path / "m.gguf")
    facts = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"]).output)
    assert facts == {
        "file": str(path),
        "files": 1,
        "file_bytes": path.stat().st_size,
        "model": "70b-instruct",
        "name": "CodeLlama 70b-instruct",
        "architecture": "llama",
        "chat_format": "turn",
        "infill": "no",
        "stops": [{"id": 2, "token": "</s>"}, {"id": 32015, "token": "<step>"}],
        "context": 4096,
        "file_context": 2048,
        "rope_base": 10000.0,
        "layers": 80,
        "vocabulary": 32016,
        "template": False,
        "tensors": 2,
        "tensor_bytes": 512,
        "types": {"F32": {"tensors": 1, "bytes": 256}, "F16": {"tensors": 1, "bytes": 256}},
    }


def test_inspect_for_people(tmp_path: Path) -> None:
    path = write_header(tmp_path / "m.gguf", name="34b-instruct")
    lines = CliRunner().invoke(main, ["inspect", str(path)]).output.splitlines()
    assert "model          34b" in lines[3]
    assert "stops          2 </s>" in lines
    assert "  F16          1 tensors        256 B" in lines


def test_inspect_of_a_file_that_says_strange_things(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "strange")
    writer.add_name("a\x1b[2Jb")
    writer.add_array("strange.context_length", [1, 2])
    writer.add_string("strange.block_count", "many")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "m.gguf")])
    assert result.exit_code == 0
    assert r"name           'a\x1b[2Jb'" in result.output
    assert "context        unknown" in result.output
