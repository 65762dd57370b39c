"""Byte for byte against llama.cpp's own converter and quantizer.

The converter is run from the llama-cpp-python source that `scripts/llama_cpp_source` fetches; it needs
torch and transformers (the extra `reference`). `llama_model_quantize` comes through the binding.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import pytest

from codellama.files.gguf_header import Value, read_gguf_header
from codellama.native.ggml import file_types
from codellama.weights.convert import convert, quantize
from tests.checkpoints import NORMAL, Checkpoint, tiny_pieces, write_checkpoint

pytestmark = pytest.mark.reference

ROOT = Path(__file__).parents[2]
TYPES = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q2_K", "Q3_K_S"]

STEP_KEYS = {"tokenizer.chat_template", "tokenizer.ggml.eot_token_id"}
"""Where a checkpoint with `<step>` differs on purpose, see ARCHITECTURE.md."""
TYPE_KEY = "tokenizer.ggml.token_type"
"""Differs too where tokenizer_config.json does not call `<step>` special."""

SMALL_32016 = [
    *tiny_pieces(),
    *((f"filler{i}", -float(i), NORMAL) for i in range(len(tiny_pieces()), 32016)),
]


@dataclass(frozen=True)
class Case:
    """A checkpoint with what llama.cpp makes of it, and the keys that differ on purpose."""

    folder: Path
    f32: Path
    work: Path
    keys: set[str]


@pytest.fixture(scope="module")
def llama_cpp_source() -> Path:
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no {package}: pip install -e .[reference]")
    found = subprocess.run(
        [ROOT / "scripts/llama_cpp_source", "--cached"], capture_output=True, text=True
    )
    if found.returncode:
        pytest.skip("no llama.cpp source: run scripts/llama_cpp_source once")
    return Path(found.stdout.strip(), "vendor/llama.cpp")


def their_convert(source: Path, folder: Path, output: Path, type_name: str) -> Path:
    script = source / "convert_hf_to_gguf.py"
    subprocess.run(
        [sys.executable, script, folder, "--outfile", output, "--outtype", type_name],
        check=True,
        capture_output=True,
    )
    return output


def their_quantize(source: Path, output: Path, type_name: str) -> Path:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_types()[type_name]
    params.nthread = 2
    paths = str(source).encode(), str(output).encode()
    assert llama_cpp.llama_model_quantize(*paths, ctypes.byref(params)) == 0
    return output


def tensors_of(path: Path) -> dict[str, tuple[tuple[int, ...], str, bytes]]:
    data = path.read_bytes()
    return {
        t.name: (t.shape, t.type_name, data[t.offset : t.offset + t.nbytes])
        for t in read_gguf_header(path).tensors
    }


def differing_keys(ours: Path, theirs: Path) -> set[str]:
    a, b = read_gguf_header(ours).values, read_gguf_header(theirs).values
    keys = {key for key in {*a, *b} if not key.startswith("codellama.")}
    return {key for key in keys if a.get(key) != b.get(key)}


CHECKPOINTS = {
    "grouped": Checkpoint(heads=8, kv_heads=2, shards=3),
    "multi-head-f16": Checkpoint(heads=4, kv_heads=4, head_dim=32, dtype="F16", tied=True),
    "odd-rows-f32": Checkpoint(hidden=288, ffn=416, layers=3, heads=9, kv_heads=3, dtype="F32"),
    "70b-rules": Checkpoint(layers=80, heads=8, kv_heads=1, shards=5),
}


@pytest.fixture(
    scope="module",
    params=["grouped", "demo"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in CHECKPOINTS if name != "grouped"],
)
def case(
    request: pytest.FixtureRequest,
    llama_cpp_source: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    work = tmp_path_factory.mktemp(request.param)
    folder = work / "CodeLlama-70b-Instruct-hf"
    if request.param == "demo":
        folder = ROOT / "models/demo"
        if not (folder / "config.json").is_file():
            pytest.skip("no demo checkpoint in models/demo")
    else:
        write_checkpoint(folder, CHECKPOINTS[request.param])
    f32 = their_convert(llama_cpp_source, folder, work / "f32.gguf", "f32")
    return Case(folder, f32, work, STEP_KEYS | ({TYPE_KEY} - _special_step(folder)))


def _special_step(folder: Path) -> set[str]:
    """The type key, if the checkpoint itself calls `<step>` special."""
    rows = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    return {TYPE_KEY for row in rows.values() if row["content"] == "<step>" and row["special"]}


@pytest.mark.parametrize("type_name", TYPES)
def test_one_pass_makes_the_bytes_of_converter_and_quantizer(case: Case, type_name: str) -> None:
    theirs = their_quantize(case.f32, case.work / "theirs.gguf", type_name)
    ours = case.work / "ours.gguf"
    convert(case.folder, ours, type_name, force=True)
    assert tensors_of(ours) == tensors_of(theirs)
    assert differing_keys(ours, theirs) == case.keys


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q8_0"])
def test_converting_makes_the_bytes_of_the_converter(
    case: Case, llama_cpp_source: Path, type_name: str
) -> None:
    output = case.work / "converted.gguf"
    theirs = their_convert(llama_cpp_source, case.folder, output, type_name.lower())
    ours = case.work / "ours.gguf"
    convert(case.folder, ours, type_name, force=True)
    assert tensors_of(ours) == tensors_of(theirs)
    assert differing_keys(ours, theirs) == case.keys


def test_quantizing_makes_the_file_of_the_quantizer(case: Case) -> None:
    for type_name in ["F16", "BF16", "Q8_0", "Q4_K_M", "Q2_K", "TQ2_0", "MXFP4_MOE"]:
        theirs = their_quantize(case.f32, case.work / "theirs.gguf", type_name)
        ours = case.work / "ours.gguf"
        quantize(case.f32, ours, type_name, force=True)
        assert tensors_of(ours) == tensors_of(theirs), type_name
        ours_keys, theirs_keys = (list(read_gguf_header(path).values) for path in (ours, theirs))
        assert [key for key in ours_keys if "codellama." not in key] == theirs_keys, type_name
        assert differing_keys(ours, theirs) == set(), type_name


def test_a_vocabulary_of_32016_gets_no_wrong_end_of_turn(
    llama_cpp_source: Path, tmp_path: Path
) -> None:
    """The converter takes every 32016-piece Llama for one that infills, 70B too."""
    folder = write_checkpoint(tmp_path / "m", Checkpoint(pieces=SMALL_32016, added={}))
    theirs = their_convert(llama_cpp_source, folder, tmp_path / "theirs.gguf", "bf16")
    convert(folder, tmp_path / "ours.gguf")
    assert differing_keys(tmp_path / "ours.gguf", theirs) == {"tokenizer.ggml.eot_token_id"}
    key = "tokenizer.ggml.eot_token_id"
    values: dict[str, Value] = dict(read_gguf_header(theirs).values)
    assert values[key].value == 32010
    assert key not in read_gguf_header(tmp_path / "ours.gguf").values


@pytest.mark.parametrize(
    "extra",
    [
        {"rope_theta": 1e6, "max_position_embeddings": 16384},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"_name_or_path": "codellama/CodeLlama-34b-Python-hf"},
    ],
)
def test_metadata_follows_config_and_model_card(
    llama_cpp_source: Path, tmp_path: Path, extra: dict[str, object]
) -> None:
    checkpoint = Checkpoint(added={}, config=extra)
    folder = write_checkpoint(tmp_path / "CodeLlama-7b-hf", checkpoint)
    card = "---\nlanguage:\n- code\nlicense: llama2\ntags:\n- llama-2\npipeline_tag: x\n---\n# Hi\n"
    (folder / "README.md").write_text(card)
    theirs = their_convert(llama_cpp_source, folder, tmp_path / "theirs.gguf", "bf16")
    convert(folder, tmp_path / "ours.gguf")
    assert differing_keys(tmp_path / "ours.gguf", theirs) == set()
    assert tensors_of(tmp_path / "ours.gguf") == tensors_of(theirs)


def test_rows_that_only_pad_are_named_as_the_converter_names_them(
    llama_cpp_source: Path, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "m", Checkpoint(added={"<pad>": 319}))
    for name in ("added_tokens.json", "tokenizer_config.json"):  # now 26 rows have no name
        (folder / name).unlink()
    theirs = their_convert(llama_cpp_source, folder, tmp_path / "theirs.gguf", "bf16")
    convert(folder, tmp_path / "ours.gguf")
    assert differing_keys(tmp_path / "ours.gguf", theirs) == set()
    assert tensors_of(tmp_path / "ours.gguf") == tensors_of(theirs)
