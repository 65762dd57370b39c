from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from codellama.cli import main
from codellama.errors import ConversionError, DecodeError
from codellama.files.gguf_header import read_gguf_header
from codellama.files.imatrix_file import read_imatrix
from codellama.native.activations import Activations, load_model
from codellama.native.arrays import Floats
from codellama.weights import imatrix
from codellama.weights.convert import convert, quantize
from codellama.weights.imatrix import Sums, collect_imatrix
from codellama.weights.options import QuantOptions
from tests.checkpoints import Checkpoint, write_checkpoint

TOOLS = Path(
    os.environ.get("CODELLAMA_LLAMA_TOOLS", Path(__file__).parents[2] / ".llama-tools/bin")
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder / "m", Checkpoint(layers=3, added={}))
    convert(folder / "m", folder / "f32.gguf", "F32")
    return folder / "f32.gguf"


@pytest.fixture(scope="module")
def text(model: Path) -> Path:
    generator = np.random.default_rng(5)
    words = ["def f(x):\n", "    return x\n", "source user ", "for i in range(9):\n", "été "]
    path = model.with_name("code.txt")
    path.write_text("".join(generator.choice(words, 900)), encoding="utf-8")
    return path


def test_every_matrix_of_every_layer_is_counted(model: Path, text: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    collect_imatrix(
        model,
        text,
        tmp_path / "i.gguf",
        n_chunks=3,
        chunk_tokens=64,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    found = read_imatrix(tmp_path / "i.gguf")
    matrices = {
        tensor.name: tensor.shape[0]
        for tensor in read_gguf_header(model).tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2
    }
    assert {name: values.size for name, values in found.entries.items()} == matrices
    assert (found.n_chunks, found.datasets) == (3, ("code.txt",))
    header = read_gguf_header(tmp_path / "i.gguf")
    assert list(header.metadata) == [
        "general.type",
        "imatrix.datasets",
        "imatrix.chunk_count",
        "imatrix.chunk_size",
    ]
    data = (tmp_path / "i.gguf").read_bytes()
    counts = [
        np.frombuffer(data, np.float32, 1, tensor.offset)[0]
        for tensor in header.tensors
        if tensor.name.endswith(".counts")
    ]
    assert counts == [3 * 64] * len(matrices)  # also in the last layer
    assert os.listdir(tmp_path) == ["i.gguf"]


def test_sums_are_those_of_squares() -> None:
    sums = Sums()
    rows = np.array([[1, 2], [3, 4]], np.float32)
    sums.add("a", rows)
    sums.add("a", rows[:1])
    assert sums.squares["a"].tolist() == [11, 24]
    assert sums.rows == {"a": 3}
    with pytest.raises(ConversionError, match="a is multiplied with is not finite"):
        sums.add("a", np.array([[np.inf, 1]], np.float32))


def test_it_agrees_with_llama_imatrix(model: Path, text: Path, tmp_path: Path) -> None:
    program = TOOLS / "llama-imatrix"
    if not program.is_file():
        pytest.skip("no llama-imatrix: run scripts/build_llama_tools")
    subprocess.run(
        [program, "-m", model, "-f", text, "-o", "theirs.gguf", "-c", "512", "--no-ppl", "-t", "2"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    collect_imatrix(model, text, tmp_path / "ours.gguf", threads=2)
    ours, theirs = (read_imatrix(tmp_path / f"{name}.gguf") for name in ("ours", "theirs"))
    # It derives the chunks from the rows it saw, and skips multiplications of a few rows.
    assert ours.n_chunks - theirs.n_chunks in (0, 1)
    assert ours.entries.keys() == theirs.entries.keys()
    for name, values in theirs.entries.items():
        assert np.abs(ours.entries[name] - values).max() <= 5e-3 * values.max(), name
    options = QuantOptions(imatrix=theirs)
    quantize(model, tmp_path / "x.gguf", "IQ2_XXS", options=options)


def test_an_interrupted_run_goes_on(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imatrix, "SAVE_EVERY", 2)
    collect_imatrix(model, text, tmp_path / "whole.gguf", n_chunks=6, chunk_tokens=64)
    original = Activations.run
    runs = 0

    def run(self: Activations, tokens: list[int]) -> None:
        nonlocal runs
        runs += 1
        if runs == 6:
            raise KeyboardInterrupt
        original(self, tokens)

    monkeypatch.setattr(Activations, "run", run)
    with pytest.raises(KeyboardInterrupt):
        collect_imatrix(model, text, tmp_path / "i.gguf", n_chunks=6, chunk_tokens=64)
    assert sorted(os.listdir(tmp_path)) == ["i.gguf.part", "whole.gguf"]
    collect_imatrix(model, text, tmp_path / "i.gguf", n_chunks=6, chunk_tokens=64)
    assert runs == 8
    assert sorted(os.listdir(tmp_path)) == ["i.gguf", "whole.gguf"]
    whole, again = (read_imatrix(tmp_path / name).entries for name in ("whole.gguf", "i.gguf"))
    for name in whole:
        assert np.allclose(again[name], whole[name], rtol=1e-6)


def test_what_another_run_left_is_not_continued(model: Path, text: Path, tmp_path: Path) -> None:
    collect_imatrix(model, text, tmp_path / "a.gguf", n_chunks=1, chunk_tokens=64)
    for left in (b"nonsense", (tmp_path / "a.gguf").read_bytes()):
        (tmp_path / "b.gguf.part").write_bytes(left)
        sums = collect_imatrix(
            model, text, tmp_path / "b.gguf", n_chunks=1, chunk_tokens=64, force=True
        )
        assert sums.rows["blk.0.attn_q.weight"] == 64


def test_what_a_listener_raises_comes_out(model: Path) -> None:
    def listen(name: str, rows: Floats) -> None:
        raise ConversionError("stop here")

    with (
        load_model(model) as loaded,
        Activations(loaded, 32, 1, listen) as activations,
        pytest.raises(ConversionError, match="stop here"),
    ):
        activations.run(range(3, 35))


def test_tokens_that_are_none_are_an_error(model: Path) -> None:
    with (
        load_model(model) as loaded,
        Activations(loaded, 32, 1, lambda *_: None) as activations,
        pytest.raises(DecodeError, match="could not decode 32 tokens"),
    ):
        activations.run([10**6] * 32)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_makes_what_the_smallest_types_need(
    model: Path, text: Path, tmp_path: Path
) -> None:
    target = tmp_path / "i.gguf"
    result = run("imatrix", model, text, "-o", target, "--chunks", 2, "--chunk-size", 64, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"path": str(target), "chunks": 2, "matrices": 21}
    again = run("imatrix", model, text, "-o", target)
    assert (again.exit_code, "exists already" in again.stderr) == (1, True)
    arguments = ["-o", tmp_path / "x.gguf", "--type", "IQ2_XS", "--imatrix", target]
    assert run("quantize", model, *arguments).exit_code == 0
    assert read_gguf_header(tmp_path / "x.gguf").metadata["quantize.imatrix.chunks_count"] == 2


def test_bad_input_is_one_line_and_leaves_nothing(model: Path, text: Path, tmp_path: Path) -> None:
    short, binary = tmp_path / "short.txt", tmp_path / "binary.txt"
    short.write_text("too short")
    binary.write_bytes(b"\xff\xfe")
    target = tmp_path / "i.gguf"
    cases: list[tuple[tuple[object, ...], str]] = [
        ((model, short, "-o", target), "are less than a chunk of 512: take a longer text"),
        ((model, binary, "-o", target), "is not UTF-8 text"),
        ((model, tmp_path / "none", "-o", target), "cannot be read"),
        ((model, text, "-o", tmp_path / "no" / "i.gguf"), "no such folder to write to"),
        ((text, text, "-o", target), "not a GGUF file"),
    ]
    for arguments, reason in cases:
        result = run("imatrix", *arguments)
        assert result.exit_code == 1
        assert reason in result.stderr
        assert result.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["binary.txt", "short.txt"]
