"""PEFT folders where adapters are used: converted by the command, loaded as they are, merged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf as gguf_package
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from codellama import LLM
from codellama.cli import main
from codellama.errors import CheckpointError, ConversionError, ModelLoadError
from codellama.files.gguf_header import read_gguf_header
from codellama.files.provenance import manifest_path
from codellama.params import ModelConfig
from codellama.running.adapter_files import plan_adapters
from codellama.weights import merge, plan
from codellama.weights.convert import RunSettings, convert, convert_to, quantize
from codellama.weights.output import Output
from tests.checkpoints import CONTROL, NORMAL, Checkpoint, tiny_pieces, write_checkpoint
from tests.lora_file import write_adapter
from tests.peft_folder import RANK, low_rank, write_peft
from tests.tiny_model import HIDDEN
from tests.torch_archive import write_meta

PIECES = [*tiny_pieces(), ("xy", -299.0, NORMAL), ("<step>", -300.0, CONTROL)]
SHAPE = Checkpoint(hidden=64, ffn=128, heads=4, kv_heads=2, dtype="F32", pieces=PIECES, added={})
Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
DOWN, UP = "model.layers.1.mlp.down_proj", "model.layers.1.mlp.up_proj"
SHAPES: Mapping[str, tuple[int, int]] = {Q: (64, 64), K: (32, 64), DOWN: (64, 128), UP: (128, 64)}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("base") / "base", SHAPE)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    named = {"base_model_name_or_path": str(base), "use_rslora": True}
    return write_peft(tmp_path / "my-lora-1.5", low_rank(SHAPES), **named)


def weights(path: Path) -> dict[str, NDArray[np.float32]]:
    data = path.read_bytes()
    return {
        t.name: np.frombuffer(data[t.offset : t.offset + t.nbytes], np.float32).reshape(
            t.shape[::-1]
        )
        for t in read_gguf_header(path).tensors
    }


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# -- converting ----------------------------------------------------------------------------------


def test_the_command_makes_a_file_of_an_adapter(adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.gguf"
    result = run("convert", adapter, "-o", output)
    assert result.exit_code == 0, result.output
    assert "F32" in result.output and "8 tensors" in result.output
    header = read_gguf_header(output)
    assert header.metadata["adapter.lora.alpha"] == 16 * 2, "of rsLoRA, for the scale alpha / rank"
    assert header.metadata["general.type"] == "adapter"
    assert run("verify", output).exit_code == 0
    found = weights(output)
    b = low_rank(SHAPES)[f"{Q}.lora_B.weight"]
    pairs = b.reshape(4, 2, 8, RANK).swapaxes(1, 2).reshape(64, RANK)
    assert np.array_equal(found["blk.0.attn_q.weight.lora_b"], pairs)
    assert np.array_equal(
        found["blk.1.ffn_down.weight.lora_b"], low_rank(SHAPES)[f"{DOWN}.lora_B.weight"]
    )


def test_what_the_command_refuses(adapter: Path, base: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.gguf"
    assert "leave out --imatrix" in run("convert", adapter, "-o", output, "--imatrix", "x").output
    assert "leave out --merge" in run("convert", adapter, "-o", output, "--merge", adapter).output
    assert "cannot be Q4_K_M: choose one of F32, F16" in run(
        "convert", adapter, "-o", output, "--type", "Q4_K_M").output  # fmt: skip
    assert "leave out --base" in run("convert", base, "-o", output, "--base", base).output
    assert not output.exists()
    output.write_bytes(b"")
    assert "exists already: choose another name or pass --force" in run(
        "convert", adapter, "-o", output).output  # fmt: skip
    assert run("convert", adapter, "-o", output, "--force").exit_code == 0


def test_the_model_it_belongs_to(
    adapter: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its shapes matter, so a checkpoint, a GGUF and a published name are all the same."""
    settings = json.loads((adapter / "adapter_config.json").read_text())
    del settings["base_model_name_or_path"]
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    result = run("convert", adapter, "-o", tmp_path / "x.gguf")
    assert "does not say which model it belongs to: name it with --base" in result.output
    convert(base, tmp_path / "base.gguf", "F32")
    meta = write_meta(tmp_path / "meta", SHAPE, 2)
    made = []
    for name in (base, tmp_path / "base.gguf", meta):
        assert (
            run("convert", adapter, "-o", tmp_path / "x.gguf", "-f", "--base", name).exit_code == 0
        )
        made.append((tmp_path / "x.gguf").read_bytes())
    assert made[0] == made[1] == made[2]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run(
        "convert", adapter, "-o", tmp_path / "y.gguf", "--base", "codellama/CodeLlama-70b-hf"
    )
    assert "lora_A.weight of shape [4, 64], the model makes it [4, 8192]" in result.output


def test_a_published_model_is_known_without_asking_for_it(tmp_path: Path) -> None:
    shapes = {"model.layers.79.self_attn.k_proj": (1024, 8192)}
    named = {"base_model_name_or_path": "codellama/CodeLlama-70b-Instruct-hf"}
    folder = write_peft(tmp_path / "a", low_rank(shapes), **named)
    assert run("convert", folder, "-o", tmp_path / "x.gguf").exit_code == 0
    b = low_rank(shapes)["model.layers.79.self_attn.k_proj.lora_B.weight"]
    pairs = b.reshape(8, 2, 64, RANK).swapaxes(1, 2).reshape(1024, RANK)
    assert np.array_equal(weights(tmp_path / "x.gguf")["blk.79.attn_k.weight.lora_b"], pairs)


def test_numbers_that_are_none_stop_a_conversion(tmp_path: Path, base: Path) -> None:
    tensors = low_rank(SHAPES)
    tensors[f"{K}.lora_A.weight"][1, 2] = np.nan
    folder = write_peft(tmp_path / "a", tensors, base_model_name_or_path=str(base))
    assert "k_proj.lora_A.weight holds NaN or infinite" in run(
        "convert", folder, "-o", tmp_path / "x.gguf").output  # fmt: skip
    with pytest.raises(ConversionError, match=r"k_proj.lora_A.weight holds NaN or infinite"):
        convert(base, tmp_path / "y.gguf", "F32", merge=[(folder, 1.0)])
    assert sorted(path.name for path in tmp_path.glob("*.gguf*")) == []


# -- loading -------------------------------------------------------------------------------------


def tiny_adapter(folder: Path, **settings: Any) -> Path:
    """One for the tiny model, strong enough to change what it says."""
    tensors = low_rank({Q: (HIDDEN, HIDDEN)}, rank=2)
    return write_peft(folder, {name: 10 * data for name, data in tensors.items()}, r=2, **settings)


def answer(model: Path, *lora: Any) -> tuple[int, ...]:
    with LLM(model, n_threads=1, n_ctx=128, lora=lora) as llm:
        return llm.complete("def add(a, b):", **GREEDY).result().choices[0].tokens


def test_a_folder_is_loaded_as_the_file_that_is_made_of_it(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_adapter(tmp_path / "my-lora-1.5", use_rslora=True)
    result = run("convert", folder, "-o", tmp_path / "x.gguf", "--base", tiny_gguf)
    assert result.exit_code == 0, result.output
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    wanted = answer(tiny_gguf, tmp_path / "x.gguf")
    assert wanted != answer(tiny_gguf)
    assert answer(tiny_gguf, folder) == wanted
    assert answer(tiny_gguf, folder / "adapter_model.safetensors") == wanted
    assert answer(tiny_gguf, (folder, 0.0)) == answer(tiny_gguf)
    assert list(work.iterdir()) == [], "what was made for llama.cpp is gone"
    with LLM(tiny_gguf, n_threads=1, n_ctx=128, lora=[folder]) as llm:
        assert [(each.name, each.path) for each in llm.adapters] == [("my-lora-1.5", str(folder))]
        named = llm.complete("def add(a, b):", lora={"my-lora-1.5": 1.0}, **GREEDY).result()
        assert named.choices[0].tokens == wanted


def test_the_command_line_loads_a_folder(tiny_gguf: Path, tmp_path: Path) -> None:
    folder = tiny_adapter(tmp_path / "a")
    with_it, without = (
        run("complete", tiny_gguf, "def", "-n", "8", "--temp", "0", "-c", "64", *lora).output
        for lora in (("--lora", folder), ())
    )
    assert with_it != without and "Error" not in with_it + without


def test_folders_that_cannot_be_loaded(tiny_gguf: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        CheckpointError, match=r"^lora: .*empty: no PEFT adapter: there is no adapter"
    ):
        answer(tiny_gguf, tmp_path / "empty")
    other = write_peft(tmp_path / "b", low_rank({Q: (32, 32)}), base_model_name_or_path="a/b")
    with pytest.raises(CheckpointError, match=r"^lora: .* it was trained on a/b"):
        answer(tiny_gguf, other)
    dora = low_rank({Q: (64, 64)}) | {f"{Q}.lora_magnitude_vector": np.ones(64, np.float32)}
    with pytest.raises(
        CheckpointError, match=r"is a magnitude \(DoRA\), .*: merge it while the check"
    ):
        answer(tiny_gguf, write_peft(tmp_path / "c", dora, use_dora=True))
    broken = low_rank({Q: (64, 64)})
    broken[f"{Q}.lora_B.weight"][0, 0] = np.inf
    with pytest.raises(ConversionError, match=r"^lora: .*holds NaN or infinite"):
        answer(tiny_gguf, write_peft(tmp_path / "d", broken))


def add_norm(path: Path, values: NDArray[np.float32]) -> Path:
    """An adapter with a norm in it, as llama.cpp's converter writes it."""
    writer = gguf_package.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0)
    writer.add_tensor("blk.0.attn_norm.weight", values)
    for half, shape in (("a", (2, HIDDEN)), ("b", (HIDDEN, 2))):
        writer.add_tensor(f"blk.0.attn_q.weight.lora_{half}", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_norms_that_llama_cpp_leaves_out_are_refused_unless_they_change_nothing(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    same = add_norm(tmp_path / "same.gguf", np.ones(HIDDEN, np.float32))
    assert len(answer(tiny_gguf, same)) == 12
    other = add_norm(tmp_path / "other.gguf", np.full(HIDDEN, 1.5, np.float32))
    with pytest.raises(ModelLoadError, match=r"^lora: .*attn_norm.weight is not that of the model"):
        answer(tiny_gguf, other)


def test_embeddings_that_are_the_output_too_are_refused(tmp_path: Path) -> None:
    """llama.cpp would end the process with GGML_ASSERT, so nothing is loaded here."""
    folder = write_checkpoint(tmp_path / "m", Checkpoint(hidden=64, ffn=128, heads=4, tied=True))
    convert(folder, tmp_path / "m.gguf", "F32")
    writer = gguf_package.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    for half, rows in (("a", 295), ("b", 64)):
        writer.add_tensor(f"token_embd.weight.lora_{half}", np.ones((rows, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = ModelConfig(lora=(tmp_path / "a.gguf",))
    with pytest.raises(
        ModelLoadError, match=r"^lora: .* which in this model is the output matrix too"
    ):
        plan_adapters(config, read_gguf_header(tmp_path / "m.gguf"))


def test_the_adapters_that_there_were_are_still_taken(tiny_gguf: Path, tmp_path: Path) -> None:
    assert answer(tiny_gguf, write_adapter(tmp_path / "one.gguf", 1)) != answer(tiny_gguf)


# -- merging -------------------------------------------------------------------------------------


def merged_by_hand(base: Path, adapter: Path, work: Path, scale: float) -> dict[str, Any]:
    """The weights with `scale * alpha / sqrt(rank) * B A` added, rows of q and k in llama.cpp's order."""
    convert(base, work / "plain.gguf", "F32", force=True)
    found = weights(work / "plain.gguf")
    tensors = low_rank(SHAPES)
    names = {Q: "blk.0.attn_q", K: "blk.0.attn_k", DOWN: "blk.1.ffn_down", UP: "blk.1.ffn_up"}
    for module, name in names.items():
        b, a = tensors[f"{module}.lora_B.weight"], tensors[f"{module}.lora_A.weight"]
        delta = (b.astype(np.float64) @ a) * (scale * 16 / 2)
        if module in (Q, K):
            delta = delta.reshape(-1, 2, 8, 64).swapaxes(1, 2).reshape(delta.shape)
        found[f"{name}.weight"] = found[f"{name}.weight"] + delta
    return found


@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_merging_adds_the_change(base: Path, adapter: Path, tmp_path: Path, scale: float) -> None:
    output = tmp_path / "m.gguf"
    given = f"{adapter}:{scale}" if scale != 1 else adapter
    result = run("convert", base, "-o", output, "--type", "F32", "--merge", given)
    assert result.exit_code == 0, result.output
    found, wanted = weights(output), merged_by_hand(base, adapter, tmp_path, scale)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.abs(found[name] - values).max() < 1e-5, name
    lines = json.loads(manifest_path(output).read_text())["source.merged"]
    assert len(lines) == 1 and lines[0].endswith(f"  my-lora-1.5:{scale:g}")
    quantize(output, tmp_path / "q.gguf", "Q8_0")
    assert read_gguf_header(tmp_path / "q.gguf").metadata["codellama.source.merged"] == lines


def test_metas_order_of_rows_is_merged_too(base: Path, adapter: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    q = rng.normal(0, 1, (64, 64)).astype(np.float32)
    dora = low_rank({K: (32, 64)}) | {f"{K}.lora_magnitude_vector": q[0, :32], f"{Q}.weight": q}
    other = write_peft(tmp_path / "other", dora, use_dora=True)
    folder = write_meta(tmp_path / "meta", SHAPE, 4)
    for number, given in enumerate((adapter, other)):
        ours, theirs = tmp_path / f"meta{number}.gguf", tmp_path / f"hf{number}.gguf"
        convert(folder, ours, "F32", merge=[(given, 1.0)])
        convert(base, theirs, "F32", merge=[(given, 1.0)])
        found = weights(ours)
        for name, values in weights(theirs).items():
            assert np.abs(found[name] - values).max() < 1e-6, name


def test_small_slabs_and_pieces_add_up_to_the_same(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SLAB_ELEMENTS", 2**10)
    monkeypatch.setattr(merge, "_PIECE", 2**7)
    monkeypatch.setattr(merge, "_KEPT_BYTES", 2**9)
    convert(base, tmp_path / "cut.gguf", "F32", merge=[(adapter, 1.0)])
    wanted = merged_by_hand(base, adapter, tmp_path, 1.0)
    for name, values in weights(tmp_path / "cut.gguf").items():
        assert np.abs(values - wanted[name]).max() < 1e-5, name


def test_an_unfinished_run_goes_on_with_the_same_adapters_only(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.gguf"
    written = Output.write
    left = iter(range(8))

    def write(self: Output, *arguments: Any) -> int:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return written(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "write", write)
        with pytest.raises(KeyboardInterrupt):
            convert(base, output, "F32", merge=[(adapter, 1.0)], threads=1)
    for merge_now in ([], [(adapter, 0.5)]):
        with pytest.raises(ConversionError, match="had another merged adapters"):
            convert(base, output, "F32", merge=merge_now)
    convert(base, output, "F32", merge=[(adapter, 1.0)])
    convert(base, tmp_path / "whole.gguf", "F32", merge=[(adapter, 1.0)])
    assert output.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_whole_tensors_and_tokens_take_the_place_of_the_models(base: Path, tmp_path: Path) -> None:
    rows = np.full((2, 64), 3.0, np.float32)
    norm = np.full(64, 2.0, np.float32)
    tensors = {
        "model.embed_tokens.token_adapter.trainable_tokens_delta": rows,
        "model.norm.weight": norm,
    }
    folder = write_peft(tmp_path / "a", tensors, trainable_token_indices=[7, 290])
    convert(base, tmp_path / "m.gguf", "F32", merge=[(folder, 1.0)])
    convert(base, tmp_path / "plain.gguf", "F32")
    found, plain = weights(tmp_path / "m.gguf"), weights(tmp_path / "plain.gguf")
    assert np.array_equal(found["output_norm.weight"], norm)
    wanted = plain["token_embd.weight"].copy()
    wanted[[7, 290]] = 3.0
    assert np.array_equal(found["token_embd.weight"], wanted)
    with pytest.raises(CheckpointError, match="which has no scale: merge this adapter at scale 1"):
        convert(base, tmp_path / "x.gguf", "F32", merge=[(folder, 0.5)])
    with pytest.raises(
        CheckpointError, match="takes the place of what .* has changed: merge one of"
    ):
        convert(base, tmp_path / "x.gguf", "F32", merge=[(folder, 1.0), (folder, 1.0)])


def test_several_types_are_made_of_one_merge(base: Path, adapter: Path, tmp_path: Path) -> None:
    outputs = {"F32": tmp_path / "a.gguf", "BF16": tmp_path / "b.gguf"}
    convert_to(base, outputs, RunSettings(merge=[(adapter, 1.0)]))
    f32 = weights(tmp_path / "a.gguf")["blk.1.ffn_up.weight"]
    header = read_gguf_header(tmp_path / "b.gguf")
    tensor = next(t for t in header.tensors if t.name == "blk.1.ffn_up.weight")
    data = (tmp_path / "b.gguf").read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
    half = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    assert tensor.type_name == "BF16"
    assert np.abs(half.reshape(f32.shape) - f32).max() <= np.abs(f32).max() * 2.0**-8


def test_an_adapter_given_as_a_model_says_what_to_do(adapter: Path, tmp_path: Path) -> None:
    result = run("plan", adapter, "--type", "Q8_0")
    assert (
        "is a PEFT adapter, not a whole model: convert it alone, or name the model's"
        in result.output
    )


def test_what_cannot_be_merged(base: Path, adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.gguf"
    result = run("convert", base, "-o", output, "--merge", f"{adapter}:nan")
    assert "its scale, nan, must be a number" in result.output
    (tmp_path / "lora.gguf").write_bytes(b"GGUF")
    result = run("convert", base, "-o", output, "--merge", tmp_path / "lora.gguf")
    assert "lora.gguf: is a file: name the folder of a PEFT adapter" in result.output
    activated = write_peft(tmp_path / "b", low_rank(SHAPES), alora_invocation_tokens=[1, 2])
    result = run("convert", base, "-o", output, "--merge", activated)
    assert "is an activated LoRA (aLoRA)" in result.output
    assert list(tmp_path.glob("m.gguf*")) == []


def test_an_adapter_beside_a_config_is_one_still(adapter: Path, base: Path, tmp_path: Path) -> None:
    """Training programs leave the model's config.json there; with weights beside it it is a model."""
    (adapter / "config.json").write_bytes((base / "config.json").read_bytes())
    assert run("convert", adapter, "-o", tmp_path / "x.gguf").exit_code == 0
    for path in base.iterdir():
        (adapter / path.name).write_bytes(path.read_bytes())
    assert "21 tensors" in run("convert", adapter, "-o", tmp_path / "y.gguf").output


def test_rows_without_length_are_an_error_and_no_warning(base: Path, tmp_path: Path) -> None:
    """DoRA divides by the length of each row: of zeros, when the change takes the weights away."""
    tensors = low_rank({Q: (64, 64)}) | {f"{Q}.lora_magnitude_vector": np.ones(64, np.float32)}
    tensors[f"{Q}.weight"] = np.zeros((64, 64), np.float32)
    tensors[f"{Q}.lora_B.weight"][:] = 0
    folder = write_peft(tmp_path / "a", tensors, use_dora=True)
    with pytest.raises(ConversionError, match="blk.0.attn_q.weight holds NaN or infinite weights"):
        convert(base, tmp_path / "m.gguf", "F32", merge=[(folder, 1.0)])
