"""Options of the quantizer, byte for byte against `llama_model_quantize` with the same parameters."""

from __future__ import annotations

import ctypes
import re
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codellama.cli import main
from codellama.errors import ConversionError
from codellama.files.gguf_header import (
    TensorInfo,
    Value,
    ValueType,
    encode_header,
    read_gguf_header,
)
from codellama.files.imatrix_file import ImportanceMatrix, read_imatrix
from codellama.native.ggml import file_types, quantize_rows, tensor_type
from codellama.weights.convert import convert, quantize
from codellama.weights.options import QuantOptions
from tests.checkpoints import Checkpoint, write_checkpoint

Matrix = Mapping[str, NDArray[np.float32]]

NEED_IMATRIX = {
    "IQ3_XXS",
    "IQ3_XS",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "IQ2_M",
    "IQ1_S",
    "IQ1_M",
    "Q2_K_S",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = Checkpoint(layers=9, ffn=384, dtype="F32")
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "m", checkpoint)


@pytest.fixture(scope="module")
def f32(folder: Path) -> Path:
    convert(folder, folder.parent / "f32.gguf", "F32")
    return folder.parent / "f32.gguf"


@pytest.fixture(scope="module")
def matrix(f32: Path) -> Matrix:
    """Importance of every matrix but the embeddings, as llama-imatrix collects it."""
    generator = np.random.default_rng(3)
    return {
        t.name: generator.gamma(0.5, 2.0, t.shape[0]).astype(np.float32) + np.float32(1e-3)
        for t in read_gguf_header(f32).tensors
        if len(t.shape) == 2 and t.name not in ("token_embd.weight", "output.weight")
    }


@pytest.fixture(scope="module")
def imatrix(folder: Path, matrix: Matrix) -> ImportanceMatrix:
    return read_imatrix(write_imatrix(folder.parent / "imatrix.gguf", matrix))


def write_imatrix(path: Path, matrix: Matrix, *, count: int = 8, **extra: Any) -> Path:
    """In the GGUF format of llama-imatrix, with sums over `count` tokens."""
    writer = gguf.GGUFWriter(None, "", use_temp_file=False)
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["code.txt", "more.txt"])
    writer.add_uint32("imatrix.chunk_count", 5)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, mean in matrix.items():
        writer.add_tensor(f"{name}.in_sum2", (mean * count).reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.full((1, 1), count, np.float32))
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_legacy(path: Path, matrix: Matrix, calls: int = 4) -> Path:
    parts = [struct.pack("<i", len(matrix))]
    for name, mean in matrix.items():
        values = (mean * calls).astype("<f4").tobytes()
        parts += [struct.pack("<i", len(name)), name.encode()]
        parts += [struct.pack("<ii", calls, mean.size), values]
    path.write_bytes(b"".join(parts) + struct.pack("<ii", 5, 8) + b"code.txt")
    return path


def theirs(
    source: Path,
    target: Path,
    type_name: str,
    *,
    matrix: Matrix | None = None,
    tensor_types: tuple[tuple[str, str], ...] = (),
    output_type: str = "",
    embedding_type: str = "",
    **fields: bool,
) -> None:
    """What `llama_model_quantize` makes, called as llama-quantize calls it."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_types()[type_name]
    for name, value in fields.items():
        setattr(params, name, value)
    if output_type:
        params.output_tensor_type = tensor_type(output_type).id
    if embedding_type:
        params.token_embedding_type = tensor_type(embedding_type).id
    overrides = (llama_cpp.llama_model_tensor_override * (len(tensor_types) + 1))()
    for i, (pattern, kind) in enumerate(tensor_types):
        overrides[i].pattern, overrides[i].type = pattern.encode(), tensor_type(kind).id
    if tensor_types:
        params.tt_overrides = overrides
    data = (llama_cpp.llama_model_imatrix_data * (len(matrix or {}) + 1))()
    for i, (name, mean) in enumerate((matrix or {}).items()):
        data[i].name, data[i].size = name.encode(), mean.size
        data[i].data = mean.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if matrix:
        params.imatrix = data
    paths = str(source).encode(), str(target).encode()
    assert llama_cpp.llama_model_quantize(*paths, ctypes.byref(params)) == 0


def tensors_of(path: Path) -> dict[str, tuple[str, bytes]]:
    data = path.read_bytes()
    header = read_gguf_header(path)
    return {t.name: (t.type_name, data[t.offset : t.offset + t.nbytes]) for t in header.tensors}


def values_of(path: Path) -> list[tuple[str, Value]]:
    values = read_gguf_header(path).values.items()
    return [item for item in values if not item[0].startswith(("codellama.", "quantize."))]


def check(source: Path, folder: Path, type_name: str, options: QuantOptions, **given: Any) -> None:
    """Ours and theirs have the same tensors and metadata, but for keys of our own."""
    quantize(source, folder / "ours.gguf", type_name, options=options)
    theirs(source, folder / "theirs.gguf", type_name, **given)
    assert values_of(folder / "ours.gguf") == values_of(folder / "theirs.gguf")
    assert tensors_of(folder / "ours.gguf") == tensors_of(folder / "theirs.gguf")


@pytest.mark.parametrize("type_name", sorted(set(file_types()) - NEED_IMATRIX))
def test_every_type_that_needs_no_importance_matrix(
    f32: Path, tmp_path: Path, type_name: str
) -> None:
    check(f32, tmp_path, type_name, QuantOptions())


@pytest.mark.parametrize("type_name", sorted(NEED_IMATRIX))
def test_other_types_say_that_they_need_one(f32: Path, tmp_path: Path, type_name: str) -> None:
    with pytest.raises(ConversionError, match="needs an importance matrix.* imatrix,"):
        quantize(f32, tmp_path / "x.gguf", type_name)


@pytest.mark.parametrize("type_name", sorted(set(file_types()) - {"F32", "F16", "BF16"}))
def test_every_type_with_an_importance_matrix(
    f32: Path, tmp_path: Path, type_name: str, imatrix: ImportanceMatrix
) -> None:
    options = QuantOptions(imatrix=imatrix)
    check(f32, tmp_path, type_name, options, matrix=imatrix.entries)


@pytest.mark.parametrize(
    ("type_name", "options", "given"),
    [
        ("Q4_K_M", {"pure": True}, {"pure": True}),
        ("Q4_K_M", {"leave_output": True}, {"quantize_output_tensor": False}),
        ("Q4_K_M", {"output_type": "q8_0"}, {"output_type": "Q8_0"}),
        ("Q4_K_M", {"embedding_type": "F16"}, {"embedding_type": "F16"}),
        (
            "Q3_K_S",
            {"tensor_types": (("BLK\\.[0-4]\\.ffn_down", "q6_k"), ("ffn_down|attn_v", "Q5_0"))},
            {"tensor_types": (("blk\\.[0-4]\\.ffn_down", "Q6_K"), ("ffn_down|attn_v", "Q5_0"))},
        ),
        ("F16", {"tensor_types": (("attn", "Q8_0"),)}, {"tensor_types": (("attn", "Q8_0"),)}),
        (
            "Q4_0",
            {"pure": True, "embedding_type": "IQ4_NL", "tensor_types": (("attn", "TQ2_0"),)},
            {"pure": True, "embedding_type": "IQ4_NL", "tensor_types": (("attn", "TQ2_0"),)},
        ),
    ],
)
def test_options_mean_what_llama_quantize_means(
    f32: Path, tmp_path: Path, type_name: str, options: dict[str, Any], given: dict[str, Any]
) -> None:
    check(f32, tmp_path, type_name, QuantOptions(**options), **given)


def test_options_and_an_importance_matrix_together(
    f32: Path, tmp_path: Path, imatrix: ImportanceMatrix
) -> None:
    overrides = (("ffn_down", "IQ1_M"), ("attn_q", "IQ2_XXS"))
    options = QuantOptions(imatrix=imatrix, tensor_types=overrides, pure=True, output_type="Q6_K")
    given = {"matrix": imatrix.entries, "tensor_types": overrides, "output_type": "Q6_K"}
    check(f32, tmp_path, "Q4_K_S", options, pure=True, **given)


@pytest.mark.parametrize("pattern", ["atn_v", "output_norm", "blk.9", "^token$"])
def test_a_pattern_that_matches_no_weight_is_an_error(
    f32: Path, tmp_path: Path, pattern: str
) -> None:
    types = (("attn_v", "Q6_K"), (pattern, "Q8_0"))
    with pytest.raises(ConversionError, match="matches no weight of") as caught:
        quantize(f32, tmp_path / "out.gguf", "Q4_K_M", options=QuantOptions(tensor_types=types))
    assert f"'{pattern}'" in str(caught.value)
    assert "tensor_types" in str(caught.value)


def test_quantizing_again_is_what_llama_quantize_makes(f32: Path, tmp_path: Path) -> None:
    quantize(f32, tmp_path / "q8.gguf", "Q8_0")
    options = QuantOptions(allow_requantize=True)
    check(tmp_path / "q8.gguf", tmp_path, "Q4_K_M", options, allow_requantize=True)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_an_output_that_is_left_keeps_the_type_of_the_checkpoint(
    tmp_path: Path, dtype: str
) -> None:
    """llama-quantize leaves the same of a GGUF that was converted to the checkpoint's own type."""
    folder = write_checkpoint(tmp_path / "m", Checkpoint(dtype=dtype))
    options = QuantOptions(leave_output=True)
    report = convert(folder, tmp_path / "x.gguf", "Q4_0", options=options)
    assert tensors_of(report.path)["output.weight"][0] == dtype
    convert(folder, tmp_path / "same.gguf", dtype)
    theirs(tmp_path / "same.gguf", tmp_path / "theirs.gguf", "Q4_0", quantize_output_tensor=False)
    assert tensors_of(report.path) == tensors_of(tmp_path / "theirs.gguf")


def test_the_importance_matrix_is_named_in_the_result(
    f32: Path, tmp_path: Path, imatrix: ImportanceMatrix
) -> None:
    report = quantize(f32, tmp_path / "x.gguf", "Q4_0", options=QuantOptions(imatrix=imatrix))
    values = read_gguf_header(report.path).values
    values = {key: value for key, value in values.items() if not key.startswith("codellama.")}
    assert list(values)[-6:] == [
        "general.quantization_version",
        "general.file_type",
        "quantize.imatrix.file",
        "quantize.imatrix.dataset",
        "quantize.imatrix.entries_count",
        "quantize.imatrix.chunks_count",
    ]
    assert [values[key] for key in list(values)[-4:]] == [
        Value(ValueType.STRING, "imatrix.gguf"),
        Value(ValueType.STRING, "code.txt"),
        Value(ValueType.UINT32, len(imatrix.entries)),
        Value(ValueType.UINT32, 5),
    ]


def expert_model(path: Path, n_experts: int) -> Path:
    """A model with experts: three-dimensional tensors, an importance for each expert."""
    text, u32, f32 = ValueType.STRING, ValueType.UINT32, ValueType.FLOAT32
    values = {
        "general.architecture": Value(text, "llama"),
        "llama.context_length": Value(u32, 64),
        "llama.embedding_length": Value(u32, 256),
        "llama.block_count": Value(u32, 1),
        "llama.feed_forward_length": Value(u32, 512),
        "llama.expert_count": Value(u32, n_experts),
        "llama.expert_used_count": Value(u32, 2),
        "llama.attention.head_count": Value(u32, 4),
        "llama.attention.layer_norm_rms_epsilon": Value(f32, 1e-5),
    }
    shapes: dict[str, tuple[int, ...]]
    shapes = {"token_embd": (256, 40), "output": (256, 40), "blk.0.attn_q": (256, 256)}
    shapes |= {"blk.0.ffn_down_exps": (512, 256, n_experts)}
    shapes |= {"blk.0.ffn_up_exps": (256, 512, n_experts)}
    infos = [
        TensorInfo(f"{name}.weight", shape, "F32", 0, 4 * int(np.prod(shape)))
        for name, shape in sorted(shapes.items())
    ]
    data = np.random.default_rng(1).standard_normal(sum(i.nbytes for i in infos) // 4, np.float32)
    path.write_bytes(encode_header(values, infos) + data.tobytes())
    return path


def test_experts_have_an_importance_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codellama.weights.plan.SLAB_ELEMENTS", 512 * 100)
    model = expert_model(tmp_path / "m.gguf", 3)
    generator = np.random.default_rng(2)
    matrix = {
        t.name: generator.gamma(0.5, 2.0, t.shape[0] * (*t.shape, 1)[2]).astype(np.float32)
        for t in read_gguf_header(model).tensors
        if "blk" in t.name
    }
    path = write_legacy(tmp_path / "imatrix.dat", matrix)
    found = read_imatrix(path)
    check(model, tmp_path, "IQ2_XS", QuantOptions(imatrix=found), matrix=found.entries)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_commands_take_the_options(
    folder: Path, f32: Path, tmp_path: Path, imatrix: ImportanceMatrix
) -> None:
    options = ["--imatrix", imatrix.path, "--output-type", "q6_k", "--tensor-type", "attn_v=Q8_0"]
    for command, source in (("convert", folder), ("quantize", f32)):
        target = tmp_path / f"{command}.gguf"
        result = run(command, source, "-o", target, "--type", "IQ2_XXS", *options)
        assert (result.exit_code, result.stderr) == (0, "")
    ours, quantized = tensors_of(tmp_path / "convert.gguf"), tensors_of(tmp_path / "quantize.gguf")
    assert ours == quantized
    assert ours["blk.3.attn_v.weight"][0] == "Q8_0"
    assert ours["output.weight"][0] == "Q6_K"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--tensor-type", "attn"], 2, "is not REGEX=TYPE"),
        (["--tensor-type", "=Q8_0"], 2, "is not REGEX=TYPE"),
        (["--tensor-type", "attn=Q8_1"], 1, "unknown tensor type 'Q8_1'; ggml has F32"),
        (["--tensor-type", "at[tn=Q8_0"], 1, "llama.cpp cannot make Q4_0 of it: "),
        (["--output-type", "Q4_K_M"], 1, "unknown tensor type 'Q4_K_M'"),
        (["--output-type", "IQ2_XXS"], 1, "output.weight would be IQ2_XXS.*--output-type"),
        (["--embedding-type", "IQ1_S"], 1, "token_embd.weight would be IQ1_S.*no --imatrix"),
        (["--tensor-type", "attn_q=IQ2_XS"], 1, "attn_q.weight would be IQ2_XS"),
        (["--imatrix", "no/such"], 1, "no/such: cannot be read"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(
    f32: Path, tmp_path: Path, arguments: list[str], code: int, reason: str
) -> None:
    target = tmp_path / "x.gguf"
    result = run("quantize", f32, "-o", target, "--type", "Q4_0", *arguments)
    assert result.exit_code == code
    assert re.search(reason, " ".join(result.stderr.split()))
    assert list(tmp_path.iterdir()) == []


def test_what_would_abort_llama_quantize_is_an_error(
    f32: Path, tmp_path: Path, imatrix: ImportanceMatrix
) -> None:
    options = QuantOptions(imatrix=imatrix, pure=True)
    with pytest.raises(ConversionError, match="output.weight would be IQ2_XXS.*output_ty"):
        quantize(f32, tmp_path / "x.gguf", "IQ2_XXS", options=options)


def test_an_importance_matrix_of_another_model_is_refused(
    f32: Path, tmp_path: Path, matrix: Matrix
) -> None:
    wrong = {**matrix, "blk.1.attn_q.weight": np.ones(100, np.float32)}
    found = read_imatrix(write_imatrix(tmp_path / "i.gguf", wrong))
    with pytest.raises(ConversionError, match="imatrix size 100 is different from tensor size 256"):
        quantize(f32, tmp_path / "x.gguf", "Q4_0", options=QuantOptions(imatrix=found))
    part = {name: mean for name, mean in matrix.items() if "blk.2.ffn_up" not in name}
    found = read_imatrix(write_imatrix(tmp_path / "i.gguf", part))
    with pytest.raises(ConversionError, match=r"Missing importance matrix for .*blk\.2\.ffn_up"):
        quantize(f32, tmp_path / "x.gguf", "IQ3_XXS", options=QuantOptions(imatrix=found))


def test_another_importance_matrix_is_another_run(
    f32: Path, tmp_path: Path, matrix: Matrix, imatrix: ImportanceMatrix
) -> None:
    other = read_imatrix(write_imatrix(tmp_path / "i.gguf", matrix, count=16))
    described = {QuantOptions(imatrix=i).describe() for i in (None, imatrix, other)}
    assert len(described) == 3
    assert QuantOptions().describe() == "none"
    options = QuantOptions(tensor_types=(("a", "q8_0"),), pure=True, output_type="F16")
    assert options.describe() == "output_type F16; tensor_types a=Q8_0; pure"


def test_rows_need_the_importance_that_ggml_asserts() -> None:
    rows = np.zeros((2, 256), np.float32)
    target = tensor_type("IQ2_XXS")
    out = np.empty(2 * target.row_bytes(256), np.uint8)
    with pytest.raises(ValueError, match="IQ2_XXS needs an importance"):
        quantize_rows(target, rows, out)
    with pytest.raises(ValueError, match="100 importances for 256 columns"):
        quantize_rows(target, rows, out, np.ones(100, np.float32))


# -- importance matrices in files -----------------------------------------------------------------


def test_both_formats_are_read(tmp_path: Path, matrix: Matrix) -> None:
    current = read_imatrix(write_imatrix(tmp_path / "i.gguf", matrix))
    old = read_imatrix(write_legacy(tmp_path / "i.dat", matrix))
    for found in (current, old):
        assert found.entries.keys() == matrix.keys()
        assert all(np.allclose(found.entries[name], matrix[name], rtol=1e-6) for name in matrix)
        assert found.n_chunks == 5
    assert (current.datasets, old.datasets) == (("code.txt", "more.txt"), ("code.txt",))
    assert current.digest != old.digest


def test_experts_that_saw_nothing_count_as_one(tmp_path: Path) -> None:
    path = tmp_path / "i.gguf"
    writer = gguf.GGUFWriter(path, "")
    writer.add_array("imatrix.datasets", ["x"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 1)
    writer.add_tensor("a.in_sum2", np.array([[6, 9], [5, 5]], np.float32))
    writer.add_tensor("a.counts", np.array([[3], [0]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_imatrix(path).entries["a"].tolist() == [2, 3, 1, 1]


def test_what_is_no_importance_matrix_says_so(f32: Path, tmp_path: Path, matrix: Matrix) -> None:
    one = {"a": np.ones(4, np.float32)}
    good = write_imatrix(tmp_path / "good.gguf", one).read_bytes()
    old = write_legacy(tmp_path / "good.dat", one).read_bytes()
    cases = {
        f32.read_bytes(): "it has no imatrix.datasets",
        b"hello world, hello": "no importance matrix|not an importance matrix",
        b"": "no importance matrix|ends inside",
        good[:-40]: "truncated",
        old[:20]: "ends inside",
        good.replace(b"a.counts", b"b.counts"): "sums and counts of a do not match",
        old.replace(struct.pack("<f", 4.0), struct.pack("<f", float("nan"))): "a is not finite",
        struct.pack("<i", -1) + old[4:]: "not an importance matrix",
        old[:9] + struct.pack("<ii", 4, -4) + old[17:]: "damaged",
    }
    for data, reason in cases.items():
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(ConversionError, match=reason):
            read_imatrix(tmp_path / "bad")
    with pytest.raises(ConversionError, match="cannot be read"):
        read_imatrix(tmp_path)


@given(data=st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_importance_matrix_never_crashes(data: st.DataObject, tmp_path: Path) -> None:
    one = {"a.weight": np.ones(4, np.float32), "b.weight": np.ones(2, np.float32)}
    write = data.draw(st.sampled_from([write_imatrix, write_legacy]))
    content = bytearray(write(tmp_path / "x", one).read_bytes())  # type: ignore[operator]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x").write_bytes(content)
    try:
        read_imatrix(tmp_path / "x")
    except ConversionError as error:
        assert str(tmp_path / "x") in str(error)


def test_a_process_that_quantizes_wrongly_does_not_abort(f32: Path, tmp_path: Path) -> None:
    """The check comes before ggml's assertion, which would end the process."""
    command = ["quantize", f32, "-o", tmp_path / "x", "--type", "Q4_0", "--pure"]
    command += ["--tensor-type", "token_embd=IQ1_S"]
    done = subprocess.run(
        [sys.executable, "-m", "codellama", *map(str, command)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: token_embd.weight would be IQ1_S")


def test_importance_that_is_no_number_is_one_error_and_no_warning(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "i.dat", {"a": np.ones(2, np.float32)})
    one, signalling_nan = struct.pack("<f", 4.0), bytes.fromhex("0100807f")
    path.write_bytes(path.read_bytes().replace(one, signalling_nan))
    with pytest.raises(ConversionError, match="the importance of a is not finite"):
        read_imatrix(path)
