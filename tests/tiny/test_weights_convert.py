from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from click.testing import CliRunner, Result
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from codellama.cli import main
from codellama.errors import ConversionError, ModelLoadError
from codellama.files.gguf_header import read_gguf_header
from codellama.native.ggml import quantize_rows, tensor_type, to_float
from codellama.weights import encode, writer
from codellama.weights.convert import RunSettings, convert, convert_to, quantize
from codellama.weights.options import QuantOptions
from codellama.weights.tensors import interleave_heads
from tests.checkpoints import NORMAL, Checkpoint, random_tensors, write_checkpoint, write_shards
from tests.unit.test_weights_chat_template import CARD_DIALOG, CARD_IDS, NEW_PIECES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "Tiny-1m-Instruct")


@pytest.fixture(scope="module")
def bf16(folder: Path) -> Path:
    path = folder.parent / "bf16.gguf"
    convert(folder, path)
    return path


def tensors_of(path: Path) -> dict[str, tuple[str, bytes]]:
    data = path.read_bytes()
    header = read_gguf_header(path)
    return {t.name: (t.type_name, data[t.offset : t.offset + t.nbytes]) for t in header.tensors}


def as_floats(stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (stored.astype(np.uint32) << 16).view(np.float32)


def test_every_tensor_is_what_its_definition_says(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "x.gguf", "F32")
    found = tensors_of(tmp_path / "x.gguf")
    data = {name: as_floats(array) for name, _, array in random_tensors(Checkpoint())}
    layer = "model.layers.1."
    expected = {
        "token_embd": data["model.embed_tokens.weight"],
        "output": data["lm_head.weight"],
        "blk.1.attn_q": interleave_heads(data[f"{layer}self_attn.q_proj.weight"], 32),
        "blk.1.attn_k": interleave_heads(data[f"{layer}self_attn.k_proj.weight"], 32),
        "blk.1.attn_v": data[f"{layer}self_attn.v_proj.weight"],
        "blk.1.ffn_down": data[f"{layer}mlp.down_proj.weight"],
        "blk.1.ffn_norm": data[f"{layer}post_attention_layernorm.weight"],
    }
    for name, array in expected.items():
        assert found[f"{name}.weight"] == ("F32", array.tobytes())


def test_slabs_and_threads_do_not_change_a_byte(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(folder, tmp_path / "one.gguf", "Q4_K_M", threads=1)
    monkeypatch.setattr("codellama.weights.plan.SLAB_ELEMENTS", 300)
    convert(folder, tmp_path / "many.gguf", "Q4_K_M", threads=7)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()


def test_converting_and_quantizing_are_the_same_run(
    folder: Path, bf16: Path, tmp_path: Path
) -> None:
    at_once = convert(folder, tmp_path / "a.gguf", "Q5_K_M")
    in_steps = quantize(bf16, tmp_path / "b.gguf", "Q5_K_M")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert at_once.types == in_steps.types == {"Q5_K": 13, "F32": 5, "Q6_K": 3}
    assert at_once.nbytes == (tmp_path / "a.gguf").stat().st_size


def test_llama_cpp_loads_and_runs_the_result(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "x.gguf", "Q8_0")
    llama = llama_cpp.Llama(
        str(tmp_path / "x.gguf"), n_ctx=64, n_threads=1, logits_all=True, verbose=False
    )
    step = llama.n_vocab() - 1
    assert llama_cpp.llama_vocab_eot(llama._model.vocab) == step
    assert llama_cpp.llama_vocab_is_control(llama._model.vocab, step)
    assert llama.detokenize(llama.tokenize(b"source user")) == b"source user"
    llama.eval([1, 5, 9])
    assert np.isfinite(llama.scores[:3]).all()


def test_a_converted_70b_vocabulary_leads_any_program_to_metas_ids(
    real_vocab: Path, tmp_path: Path
) -> None:
    values = read_gguf_header(real_vocab).metadata
    columns = [values[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type")]
    pieces = [*zip(*columns, strict=True), *((piece, -1e4, NORMAL) for piece in NEW_PIECES)]
    small = Checkpoint(hidden=64, ffn=64, heads=2, kv_heads=2, pieces=pieces)
    convert(write_checkpoint(tmp_path / "m", small), tmp_path / "x.gguf", "Q4_0")
    llama = llama_cpp.Llama(str(tmp_path / "x.gguf"), vocab_only=True, verbose=False)
    template = llama.metadata["tokenizer.chat_template"]
    formatter = Jinja2ChatFormatter(template, eos_token="</s>", bos_token="<s>")
    prompt = formatter(messages=CARD_DIALOG)  # type: ignore[arg-type]
    add_bos = not prompt.added_special
    assert llama.tokenize(prompt.prompt.encode(), add_bos=add_bos, special=True) == CARD_IDS
    vocabulary = llama._model.vocab
    ends = [i for i in range(32016) if llama_cpp.llama_vocab_is_eog(vocabulary, i)]
    assert ends == [2, 32015]


def test_progress_ends_at_the_total(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    convert(folder, tmp_path / "x.gguf", progress=lambda *call: calls.append(call))
    assert calls == sorted(calls)
    total = sum(array.nbytes for _, _, array in random_tensors(Checkpoint()))
    assert calls[-1] == (total, total)


def test_the_reading_for_the_hashes_is_shown_too(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    outputs = {"BF16": tmp_path / "a.gguf", "Q4_0": tmp_path / "b.gguf"}
    settings = RunSettings(hashing=lambda *call: calls.append(call))
    reports = convert_to(folder, outputs, settings)
    total = sum(report.nbytes for report in reports)
    assert calls == sorted(calls)
    assert len(calls) >= 2
    assert calls[-1] == (total, total)


def test_quantized_weights_are_not_quantized_again_unasked(bf16: Path, tmp_path: Path) -> None:
    again = QuantOptions(allow_requantize=True)
    quantize(bf16, tmp_path / "q8.gguf", "Q8_0")
    with pytest.raises(ConversionError, match="is Q8_0 already.*allow_requantize"):
        quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf", "Q4_0")
    assert sorted(os.listdir(tmp_path)) == ["q8.gguf", "q8.gguf.manifest.json"]
    quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf", "Q4_0", options=again)
    assert tensors_of(tmp_path / "q4.gguf")["blk.0.ffn_up.weight"][0] == "Q4_0"
    # The same type is a copy, which loses nothing.
    quantize(tmp_path / "q8.gguf", tmp_path / "copy.gguf", "Q8_0")
    assert (tmp_path / "copy.gguf").read_bytes() == (tmp_path / "q8.gguf").read_bytes()


@pytest.mark.parametrize("kind", ["Q4_0", "Q6_K", "F16", "BF16", "F32"])
def test_rows_survive_encoding_as_well_as_their_type_allows(kind: str) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    target = tensor_type(kind)
    out = np.empty(3 * target.row_bytes(512), np.uint8)
    quantize_rows(target, rows, out)
    back = np.empty_like(rows)
    to_float(target, out, back)
    tolerance = {"Q4_0": 0.3, "Q6_K": 0.1, "F16": 1e-3, "BF16": 1e-2, "F32": 0.0}[kind]
    assert np.abs(back - rows).max() <= tolerance
    with pytest.raises(ValueError, match="out has"):
        quantize_rows(target, rows, out[:-1])


def with_weight(folder: Path, value: float, dtype: str = "F32") -> Path:
    """A checkpoint with one unusual weight."""
    checkpoint = Checkpoint(dtype=dtype)
    write_checkpoint(folder, checkpoint)
    tensors = list(random_tensors(checkpoint))
    tensors[3][2][1, 2] = value
    write_shards(folder, tensors, 2)
    return folder


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: str) -> None:
    source = with_weight(tmp_path / "m", value, dtype)
    for type_name in (dtype, "Q4_0"):
        with pytest.raises(ConversionError, match="blk.0.attn_v.weight holds NaN or infinite"):
            convert(source, tmp_path / "x.gguf", type_name)
    assert os.listdir(tmp_path) == ["m"]


def test_weights_too_large_for_the_type_are_refused(tmp_path: Path) -> None:
    source = with_weight(tmp_path / "m", 1e6)
    with pytest.raises(ConversionError, match=r"attn_v.weight has weights too large for F16.*BF16"):
        convert(source, tmp_path / "x.gguf", "F16")
    convert(source, tmp_path / "x.gguf", "BF16")


def test_a_full_disk_is_seen_before_writing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, 10**6))
    with pytest.raises(ConversionError, match=r"run needs 0.00 GB and .* has 0.00 GB free"):
        convert(folder, tmp_path / "x.gguf")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_whatever_fails_leaves_the_old_file_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*arguments: object) -> None:
        raise failure

    (tmp_path / "x.gguf").write_bytes(b"old")
    monkeypatch.setattr(writer._Run, "run", fail)
    with pytest.raises((ConversionError, KeyboardInterrupt)) as caught:
        convert(folder, tmp_path / "x.gguf", force=True)
    if isinstance(failure, OSError):
        assert str(caught.value).endswith("x.gguf: cannot be written: the disk is full")
    assert os.listdir(tmp_path) == ["x.gguf"]
    assert (tmp_path / "x.gguf").read_bytes() == b"old"


def test_a_failing_slab_ends_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "finite", lambda kind, rows: kind.name != "BF16")
    with pytest.raises(ConversionError, match="NaN or infinite"):
        convert(folder, tmp_path / "x.gguf", "Q4_0")
    assert os.listdir(tmp_path) == []


def test_two_runs_do_not_write_the_same_file(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "x.gguf.journal").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConversionError, match="another process is writing this output"):
            convert(folder, tmp_path / "x.gguf")
    assert os.listdir(tmp_path) == ["x.gguf.journal"]
    convert(folder, tmp_path / "x.gguf")
    assert sorted(os.listdir(tmp_path)) == ["x.gguf", "x.gguf.manifest.json"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_convert_command(folder: Path, tmp_path: Path) -> None:
    result = run("convert", folder, "-o", tmp_path / "x.gguf", "--type", "q4_k_m", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report.pop("seconds") >= 0
    assert report == {
        "path": str(tmp_path / "x.gguf"),
        "files": [str(tmp_path / "x.gguf")],
        "bytes": (tmp_path / "x.gguf").stat().st_size,
        "type": "Q4_K_M",
        "tensors": 21,
        "tensor_types": {"Q4_K": 13, "F32": 5, "Q6_K": 3},
    }


def test_quantize_command(bf16: Path, tmp_path: Path) -> None:
    result = run("quantize", bf16, "-o", tmp_path / "x.gguf", "--type", "Q6_K")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "x.gguf: Q6_K, 0.00 GB, 21 tensors (16 Q6_K, 5 F32) in" in result.stdout


def test_an_existing_file_is_kept_unless_forced(bf16: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    target.write_bytes(b"old")
    result = run("quantize", bf16, "-o", target, "--type", "F16")
    assert result.exit_code == 1
    assert (
        result.stderr == f"Error: {target}: exists already: choose another name or pass --force\n"
    )
    assert target.read_bytes() == b"old"
    assert run("quantize", bf16, "-o", target, "--type", "F16", "--force").exit_code == 0
    assert read_gguf_header(target).tensors


def test_an_unknown_type_is_bad_usage(folder: Path, tmp_path: Path) -> None:
    result = run("convert", folder, "-o", tmp_path / "x.gguf", "--type", "Q9")
    assert result.exit_code == 2
    assert "unknown type 'Q9'; llama.cpp has F32, F16" in " ".join(result.stderr.split())


def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, bf16: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    target = out / "x.gguf"
    text, cut = tmp_path / "text.gguf", tmp_path / "cut.gguf"
    text.write_text("no model at all")
    cut.write_bytes(bf16.read_bytes()[:-3000])
    cases: list[tuple[tuple[object, ...], str]] = [
        (("convert", tmp_path / "in", "-o", target), "it is an empty folder"),
        (("convert", tmp_path / "none", "-o", target), "no such folder"),
        (("convert", folder, "-o", target, "--type", "IQ1_S"), "needs an importance matrix"),
        (("convert", folder, "-o", target, "--type", "F16", "--type", "Q8_0"), "a file each"),
        (("convert", folder, "-o", out, "--type", "F16", "--type", "f16"), "named twice"),
        (("convert", folder, "-o", out / "no" / "x.gguf"), "no such folder to write to"),
        (("quantize", text, "-o", target, "--type", "Q4_0"), "not a GGUF file"),
        (("quantize", cut, "-o", target, "--type", "Q4_0"), "truncated GGUF"),
        (("quantize", tmp_path / "none", "-o", target, "--type", "Q4_0"), "No such file"),
    ]
    for arguments, message in cases:
        result = run(*arguments)
        assert result.exit_code == 1, arguments
        assert result.stderr.startswith("Error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
        assert os.listdir(out) == []


def test_threads_must_be_positive(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="threads must be at least 1"):
        convert(folder, tmp_path / "x.gguf", threads=0)
    assert run("convert", folder, "-o", tmp_path / "x.gguf", "-t", "0").exit_code == 2


def test_truncated_source_is_found_before_writing(bf16: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(bf16.read_bytes()[:-3000])
    with pytest.raises(ModelLoadError, match="truncated"):
        quantize(cut, tmp_path / "x.gguf", "Q4_0")


def run_script(name: str, *arguments: str | Path, stderr: int = subprocess.PIPE) -> str:
    """stdout of a script of this checkout, which must succeed; its stderr must be silent."""
    script = Path(__file__).parents[2] / "scripts" / name
    done = subprocess.run(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=True,
    )
    assert not done.stderr
    return done.stdout


def test_scripts_of_a_checkout_are_the_commands(folder: Path, tmp_path: Path) -> None:
    bf16, q4 = tmp_path / "a.gguf", tmp_path / "b.gguf"
    assert json.loads(run_script("convert.py", folder, "-o", bf16, "--json"))["type"] == "BF16"
    assert "Q4_0" in run_script("quantize.py", bf16, "-o", q4, "--type", "Q4_0")


def test_a_terminal_gets_a_progress_bar(folder: Path, tmp_path: Path) -> None:
    terminal, stderr = os.openpty()
    try:
        run_script("convert.py", folder, "-o", tmp_path / "x.gguf", stderr=stderr)
        shown = os.read(terminal, 65536).decode()
    finally:
        os.close(terminal)
        os.close(stderr)
    assert f"{folder.name} to BF16" in shown
    assert "2.5/2.5 MB" in shown
    assert "SHA-256 of what was written" in shown
