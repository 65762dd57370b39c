from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codellama.errors import CheckpointError, ConversionError, ModelLoadError
from codellama.files.gguf_header import (
    TensorInfo,
    Value,
    ValueType,
    encode_header,
    read_gguf_header,
)
from codellama.weights.convert import RunSettings, convert, make_forecast
from codellama.weights.gguf_source import open_gguf
from codellama.weights.plan import make_plan, reading_order, slabs
from codellama.weights.recipe import make_recipe, resolve_type
from codellama.weights.source import open_checkpoint
from tests.checkpoints import (
    INDEX,
    Checkpoint,
    random_tensors,
    tokenizer_json,
    write_checkpoint,
    write_json,
    write_safetensors,
    write_shards,
)

FIRST = "model-00001-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "m")


def change_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    write_json(folder / INDEX, index)


def drop_weights(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()


def test_rows_come_as_they_are_in_the_file(folder: Path) -> None:
    data = {name: array for name, _, array in random_tensors(Checkpoint())}
    with open_checkpoint(folder) as source:
        tensors = {tensor.name: tensor for tensor in source.tensors}
        tensor = tensors["blk.1.ffn_down.weight"]
        assert (tensor.shape, tensor.type.name, tensor.heads) == ((256, 512), "BF16", 0)
        out = np.empty(3 * tensor.row_bytes, np.uint8)
        source.read(tensor, 5, out)
        expected = data["model.layers.1.mlp.down_proj.weight"][5:8]
        assert out.tobytes() == expected.tobytes()
        assert tensors["blk.0.attn_k.weight"].heads == 2
        assert tensors["output_norm.weight"].rows == 1


def test_a_file_that_shrinks_is_noticed(folder: Path) -> None:
    with open_checkpoint(folder) as source:
        tensor = source.tensors[0]
        with tensor.path.open("r+b") as file:
            file.truncate(tensor.offset + 10)
        with pytest.raises(ConversionError, match="the file ends inside token_embd"):
            source.read(tensor, 0, np.empty(tensor.nbytes, np.uint8))


def test_one_shard_needs_no_index(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", Checkpoint(shards=1))
    assert not (folder / INDEX).exists()
    assert len(open_checkpoint(folder).tensors) == 21


def test_buffers_of_old_checkpoints_are_left_out(folder: Path) -> None:
    extra = ("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", np.ones(16, np.float32))
    drop_weights(folder)
    write_shards(folder, [*random_tensors(Checkpoint()), extra], 2)
    assert len(open_checkpoint(folder).tensors) == 21


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def pickle_of_another_name(folder: Path) -> None:
    drop_weights(folder)
    (folder / "model.pt").write_bytes(b"x")


def pickle_broken(folder: Path) -> None:
    drop_weights(folder)
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"x" * 99)


def shard_missing(folder: Path) -> None:
    (folder / FIRST).unlink()


def shard_truncated(folder: Path) -> None:
    data = (folder / FIRST).read_bytes()
    (folder / FIRST).write_bytes(data[:-1])


def index_names_more(folder: Path) -> None:
    change_index(folder, lambda weight_map: weight_map.update({"model.x": FIRST}))


def index_names_less(folder: Path) -> None:
    change_index(folder, lambda weight_map: weight_map.pop("model.embed_tokens.weight"))


def index_names_another(folder: Path) -> None:
    change_index(
        folder,
        lambda weight_map: weight_map.update({"model.embed_tokens.weight": "other.safetensors"}),
    )


def index_points_outside(folder: Path) -> None:
    change_index(folder, lambda weight_map: weight_map.update({"x": "../../etc/passwd"}))


def index_names_the_config(folder: Path) -> None:
    change_index(folder, lambda weight_map: weight_map.update({"x": "config.json"}))


def index_points_outside_elsewhere(folder: Path) -> None:
    change_index(folder, lambda weight_map: weight_map.update({"x": "..\\x.safetensors"}))


def index_empty(folder: Path) -> None:
    write_json(folder / INDEX, {"weight_map": {}})


def index_no_json(folder: Path) -> None:
    (folder / INDEX).write_text("{")


def tensor_twice(folder: Path) -> None:
    (folder / INDEX).unlink()
    write_safetensors(folder / "model-extra.safetensors", list(random_tensors(Checkpoint()))[:1])


def config_of_more_layers(folder: Path) -> None:
    change_config(folder, num_hidden_layers=3)


def config_of_fewer_layers(folder: Path) -> None:
    change_config(folder, num_hidden_layers=1)


def config_of_another_shape(folder: Path) -> None:
    change_config(folder, intermediate_size=768)


def change_config(folder: Path, **change: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, **change})


def integer_weights(folder: Path) -> None:
    drop_weights(folder)
    tensors = [
        (name, "I16", data.astype(np.int16)) if "lm_head" in name else (name, dtype, data)
        for name, dtype, data in random_tensors(Checkpoint())
    ]
    write_shards(folder, tensors, 2)


def no_weights(folder: Path) -> None:
    drop_weights(folder)


def tokenizer_missing(folder: Path) -> None:
    (folder / "tokenizer.model").unlink()


def vocabulary_mismatch(folder: Path) -> None:
    (folder / "added_tokens.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def tokenizer_json_broken(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def sampling_nonsense(folder: Path) -> None:
    write_json(folder / "generation_config.json", {"top_k": "many"})


CASES: dict[Callable[[Path], None], str] = {
    no_config: "it has weights, but no config.json",
    pickle_of_another_name: "model.pt is there, .* name the file with the weights pytorch_model.bin",
    pickle_broken: "pytorch_model-00001-of-00002.bin: not a torch archive",
    no_weights: "no safetensors files",
    shard_missing: "00001-of-00002.safetensors: missing",
    shard_truncated: "00001-of-00002.safetensors: truncated",
    index_names_more: "'model.x' is missing",
    index_names_less: "knows no model.embed_tokens.weight in it",
    index_names_another: "(knows no model.embed_tokens|other.safetensors: missing)",
    index_points_outside: "no name of a safetensors file beside it",
    index_names_the_config: "no name of a safetensors file beside it",
    index_points_outside_elsewhere: "no name of a safetensors file beside it",
    index_empty: "no weight_map",
    index_no_json: "not valid JSON",
    tensor_twice: "model.embed_tokens.weight is in two shards",
    config_of_more_layers: "model.layers.2.* is in no shard",
    config_of_fewer_layers: "model.layers.1.* is no tensor of the model",
    config_of_another_shape: r"has shape \[512, 256\], config.json makes it \[768, 256\]",
    integer_weights: "lm_head.weight is I16; weights must be one of F64, F32, F16, BF16",
    tokenizer_missing: "tokenizer.model: missing",
    vocabulary_mismatch: "294 pieces, but vocab_size in config.json is 295",
    tokenizer_json_broken: "tokenizer.json: not valid JSON",
    sampling_nonsense: "general.sampling.top_k cannot be 'many'",
}


@pytest.mark.parametrize("damage", CASES, ids=lambda damage: damage.__name__)
def test_a_bad_checkpoint_is_one_clear_error(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=CASES[damage]) as caught:
        open_checkpoint(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="use quantize for a GGUF"):
        open_checkpoint(tmp_path / "m.gguf")
    with pytest.raises(ModelLoadError, match="is an empty folder"):
        open_gguf(tmp_path)


def test_a_broken_model_card_stops_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "README.md").write_text("---\n- a: [\n---\n")
    assert open_checkpoint(folder).metadata["general.name"].value == "M"
    assert "the model card is left out" in caplog.text


@pytest.mark.parametrize("line", ["license: [1, 2]", "name: 5", "tags: [{a: 1}]", "tags: [x, 1]"])
def test_a_nonsense_model_card_is_one_clear_error(folder: Path, line: str) -> None:
    (folder / "README.md").write_text(f"---\n{line}\n---\n")
    with pytest.raises(CheckpointError, match="(wrong type|cannot be)"):
        open_checkpoint(folder)


def test_a_gguf_without_hyperparameters_is_refused(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "x.gguf", [TensorInfo("t.weight", (256, 2), "F32", 0, 2048)])
    with pytest.raises(ModelLoadError, match="llama.embedding_length is missing"):
        open_gguf(path)


def gguf_file(path: Path, tensors: list[TensorInfo], **values: Value) -> Path:
    base = {"general.architecture": Value(ValueType.STRING, "llama")}
    nbytes = sum(-(-tensor.nbytes // 32) * 32 for tensor in tensors)
    path.write_bytes(encode_header({**base, **values}, tensors) + bytes(nbytes))
    return path


def test_a_gguf_that_cannot_be_quantized_says_why(tmp_path: Path) -> None:
    tensor = TensorInfo("t.weight", (8, 2), "F32", 0, 64)
    other = {"general.architecture": Value(ValueType.STRING, "qwen2")}
    split = {"split.count": Value(ValueType.UINT16, 3)}
    with pytest.raises(ConversionError, match="unknown architecture 'qwen2'"):
        open_gguf(gguf_file(tmp_path / "a", [tensor], **other))
    with pytest.raises(ConversionError, match="vocabulary only"):
        open_gguf(gguf_file(tmp_path / "b", []))
    with pytest.raises(ModelLoadError, match="the first of 3 parts"):
        open_gguf(gguf_file(tmp_path / "c", [tensor], **split))


def test_types_are_found_in_any_case() -> None:
    assert resolve_type("q4_k_m") == "Q4_K_M"
    assert resolve_type("bF16") == "BF16"
    with pytest.raises(
        ConversionError, match=r"unknown type 'Q9_K'; llama.cpp has F32, F16, .*Q4_K_M"
    ):
        resolve_type("Q9_K")


def test_the_mix_follows_the_hyperparameters(tmp_path: Path) -> None:
    """attn_v of a grouped-query model with 80 layers gets Q5_K where others get Q4_K."""
    for layers, kind in ((80, "Q5_K"), (4, "Q4_K")):
        checkpoint = Checkpoint(ffn=256, layers=layers, heads=8, kv_heads=1, shards=1)
        folder = write_checkpoint(tmp_path / str(layers), checkpoint)
        with open_checkpoint(folder) as source:
            recipe = make_recipe(source, "Q4_K_M")
        types = {name: t.name for name, t in recipe.types.items() if "attn_v" in name}
        assert kind in types.values()
        assert set(types.values()) == {kind, "Q6_K"}


def test_a_type_that_needs_an_importance_matrix_says_so(folder: Path) -> None:
    with (
        open_checkpoint(folder) as source,
        pytest.raises(ConversionError, match="IQ2_XS needs an importance matrix"),
    ):
        make_recipe(source, "IQ2_XS")


def test_a_plan_accounts_for_every_byte(folder: Path) -> None:
    with open_checkpoint(folder) as source:
        plan = make_plan(source, make_recipe(source, "Q4_K_M"))
        work = list(slabs(source.tensors))
    (file,) = plan.files
    end = len(file.header)
    for tensor in plan.tensors:
        assert (tensor.file, tensor.offset) == (0, end)
        assert tensor.nbytes == tensor.source.rows * tensor.row_bytes
        end += -(-tensor.nbytes // 32) * 32
    assert plan.nbytes == file.nbytes == end
    assert sum(plan.types.values()) == len(plan.tensors) == 21
    assert sum(slab.source_bytes for slab in work) == sum(t.nbytes for t in source.tensors)
    assert sum(plan.place(slab)[2] for slab in work) == sum(t.nbytes for t in plan.tensors)
    assert [slab.number for slab in work] == list(range(len(work)))


def test_a_source_is_read_from_front_to_back(folder: Path) -> None:
    with open_checkpoint(folder) as source:
        places = [(tensor.path.name, tensor.offset) for tensor in reading_order(source.tensors)]
    assert places == sorted(places)
    assert places[0][0] == FIRST


def test_slabs_cover_a_tensor_and_keep_heads_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codellama.weights.plan.SLAB_ELEMENTS", 256 * 70)
    with open_checkpoint(folder) as source:
        work = list(slabs(source.tensors))
    steps = {}
    for tensor in source.tensors:
        own = [slab for slab in work if slab.tensor == tensor]
        ends = [slab.first_row + slab.n_rows for slab in own]
        assert [slab.first_row for slab in own] == [0, *ends[:-1]]
        assert ends[-1] == tensor.rows
        steps[tensor.name] = own[0].n_rows
    assert steps["blk.0.ffn_up.weight"] == 70
    assert steps["blk.0.attn_q.weight"] == 64  # two heads of 32 rows
    assert steps["blk.0.ffn_down.weight"] == 35


def renamed(folder: Path, rename: Callable[[str], str], dtype: str = "BF16") -> None:
    drop_weights(folder)
    tensors = [
        (rename(name), dtype, data) for name, _, data in random_tensors(Checkpoint(dtype=dtype))
    ]
    write_shards(folder, tensors, 2)


NAMES: dict[str, Callable[[str], str]] = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled inside": lambda name: name.replace("model.", "model._orig_mod."),
    "layers compiled": lambda name: name.replace(".self_attn", "._orig_mod.self_attn"),
    "bare": lambda name: name.removeprefix("model."),
    "bare and compiled": lambda name: "_orig_mod." + name.removeprefix("model."),
}


@pytest.mark.parametrize("rename", NAMES.values(), ids=NAMES)
def test_names_of_tensors_that_other_tools_write(
    folder: Path, rename: Callable[[str], str]
) -> None:
    with open_checkpoint(folder) as source:
        expected = [(t.name, t.shape, t.heads) for t in source.tensors]
    renamed(folder, rename)
    with open_checkpoint(folder) as source:
        assert [(t.name, t.shape, t.heads) for t in source.tensors] == expected


def test_two_names_of_one_tensor_are_an_error(folder: Path) -> None:
    drop_weights(folder)
    tensors = list(random_tensors(Checkpoint()))
    write_shards(folder, [*tensors, (f"_orig_mod.{tensors[0][0]}", *tensors[0][1:])], 2)
    with pytest.raises(CheckpointError, match="_orig_mod.* are the same tensor"):
        open_checkpoint(folder)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_K_M"])
def test_doubles_are_read_as_floats(tmp_path: Path, kind: str) -> None:
    """As the converter does it: first F32, then the type."""
    for dtype in ("F64", "F32"):
        folder = write_checkpoint(tmp_path / dtype, Checkpoint(dtype="F32"))
        tensors = [
            (name, dtype, data.astype(np.float64) if dtype == "F64" else data)
            for name, _, data in random_tensors(Checkpoint(dtype="F32"))
        ]
        drop_weights(folder)
        write_shards(folder, tensors, 2)
        convert(folder, tmp_path / f"{dtype}.gguf", kind, threads=2)
    doubles, floats = (read_gguf_header(tmp_path / f"{d}.gguf") for d in ("F64", "F32"))
    assert doubles.tensors == [
        replace(t, offset=t.offset + doubles.data_offset - floats.data_offset)
        for t in floats.tensors
    ]
    a, b = ((tmp_path / f"{d}.gguf").read_bytes() for d in ("F64", "F32"))
    assert a[doubles.data_offset :] == b[floats.data_offset :]


@pytest.mark.parametrize("value", [1e300, float("inf"), float("nan")])
def test_doubles_that_are_no_floats_are_an_error(tmp_path: Path, value: float) -> None:
    folder = write_checkpoint(tmp_path / "m", Checkpoint(dtype="F32"))
    tensors = [
        (n, "F64", d.astype(np.float64)) for n, _, d in random_tensors(Checkpoint(dtype="F32"))
    ]
    tensors[5][2].flat[7] = value
    drop_weights(folder)
    write_shards(folder, tensors, 2)
    for kind in ("F32", "Q8_0"):
        with pytest.raises(ConversionError, match=r"(NaN or infinite|too large for F32)"):
            convert(folder, tmp_path / "x.gguf", kind, threads=1)


def test_the_cost_of_doubles_can_be_forecast(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", Checkpoint(dtype="F32"))
    tensors = [
        (n, "F64", d.astype(np.float64)) for n, _, d in random_tensors(Checkpoint(dtype="F32"))
    ]
    drop_weights(folder)
    write_shards(folder, tensors, 2)
    found = make_forecast(folder, ["Q8_0"], RunSettings(threads=1))
    assert found.read_bytes == sum(data.nbytes for _, _, data in tensors)


def test_a_tokenizer_json_is_read_without_a_word_on_the_terminal(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its template for pairs has a separator that the gguf package does not know."""
    texts = [text for text, _, _ in Checkpoint().vocabulary]
    added = {0: ("<unk>", True), 1: ("<s>", True), 2: ("</s>", True), len(texts): ("<step>", True)}
    write_json(folder / "tokenizer.json", tokenizer_json(texts, added))
    open_checkpoint(folder).close()
    assert capfd.readouterr() == ("", "")
