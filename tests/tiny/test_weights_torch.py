"""Weights in torch's pickles, Hugging Face's and Meta's, give the bytes that safetensors give."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import CheckpointError
from codellama.files.gguf_header import read_gguf_header
from codellama.weights.convert import convert
from codellama.weights.folders import open_folder
from tests.checkpoints import CONTROL, NORMAL, Checkpoint, tiny_pieces, write_checkpoint
from tests.torch_archive import pickled_checkpoint, write_meta

WITH_STEP = [*tiny_pieces(), ("xy", -299.0, NORMAL), ("<step>", -300.0, CONTROL)]
assert len(WITH_STEP) % 8 == 0, "the files share the rows of the output matrix"
SHAPE = Checkpoint(heads=8, kv_heads=8, pieces=WITH_STEP, added={})
GROUPED = Checkpoint(heads=8, kv_heads=4, head_dim=None, pieces=WITH_STEP, added={})


def data_of(path: Path) -> dict[str, tuple[tuple[int, ...], str, bytes]]:
    data = path.read_bytes()
    return {
        t.name: (t.shape, t.type_name, data[t.offset : t.offset + t.nbytes])
        for t in read_gguf_header(path).tensors
    }


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_pytorch_model_gives_the_bytes_of_safetensors(
    tmp_path: Path, shards: int, dtype: str
) -> None:
    checkpoint = Checkpoint(dtype=dtype)
    folder = write_checkpoint(tmp_path / "m", checkpoint)
    convert(folder, tmp_path / "safe.gguf", "Q8_0")
    pickled_checkpoint(folder, checkpoint, shards)
    convert(folder, tmp_path / "pickled.gguf", "Q8_0")
    assert (tmp_path / "pickled.gguf").read_bytes() == (tmp_path / "safe.gguf").read_bytes()


@pytest.mark.parametrize("files", [1, 2, 8])
@pytest.mark.parametrize("checkpoint", [SHAPE, GROUPED], ids=["multi-head", "grouped"])
def test_metas_files_give_what_hugging_faces_give(
    tmp_path: Path, checkpoint: Checkpoint, files: int
) -> None:
    theirs = write_checkpoint(tmp_path / "hf" / "m", checkpoint)
    for name in ("generation_config.json", "tokenizer_config.json"):  # Meta has no such files
        (theirs / name).unlink()
    convert(theirs, tmp_path / "hf.gguf", "Q8_0")
    folder = write_meta(tmp_path / "meta" / "m", checkpoint, files)
    convert(folder, tmp_path / "meta.gguf", "Q8_0")
    assert data_of(tmp_path / "meta.gguf") == data_of(tmp_path / "hf.gguf")
    ours = read_gguf_header(tmp_path / "meta.gguf").metadata
    known = read_gguf_header(tmp_path / "hf.gguf").metadata
    differing = {key: ours.get(key) for key in {*ours, *known} if ours.get(key) != known.get(key)}
    assert differing == {
        "tokenizer.ggml.unknown_token_id": 0,  # these three come from tokenizer_config.json
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def test_the_context_follows_from_the_base_of_the_rope(tmp_path: Path) -> None:
    for theta, context in ((1e6, 16384), (None, 4096)):
        params = {} if theta is None else {"rope_theta": theta}
        folder = write_meta(tmp_path / str(theta), SHAPE, 1, **params)
        with open_folder(folder) as source:
            assert source.metadata["llama.context_length"].value == context
            assert source.metadata["llama.rope.freq_base"].value == (theta or 1e4)


def test_a_missing_file_of_metas_is_noticed(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "m", SHAPE, 4)
    (folder / "consolidated.03.pth").unlink()
    with pytest.raises(CheckpointError, match="consolidated.XX.pth is missing"):
        open_folder(folder)
    (folder / "consolidated.01.pth").unlink()
    with pytest.raises(CheckpointError, match=r"consolidated.01.pth is missing: download it"):
        open_folder(folder)
    for path in folder.glob("*.pth"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"params.json is there, but not consolidated.00.pth"):
        open_folder(folder)


def test_files_of_metas_that_do_not_go_together(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "m", SHAPE, 2)
    other = write_meta(
        tmp_path / "o", Checkpoint(hidden=128, heads=8, kv_heads=8, pieces=WITH_STEP, added={}), 2
    )
    (other / "consolidated.01.pth").rename(folder / "consolidated.01.pth")
    with pytest.raises(CheckpointError, match=r"consolidated.01.pth: .* does not go with"):
        open_folder(folder)


def torch_library() -> Any:
    return pytest.importorskip(
        "torch", reason="torch is not installed: pip install -e .[reference]"
    )


@pytest.mark.reference
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_torch_itself_saves(tmp_path: Path, protocol: int) -> None:
    """Parameters, a tied output with the storage of the embedding, and the attributes of a state_dict."""
    torch = torch_library()
    folder = write_checkpoint(tmp_path / "m", Checkpoint(shards=1))
    convert(folder, tmp_path / "safe.gguf", "Q8_0")
    state = collections.OrderedDict(
        (name, torch.nn.Parameter(tensor, requires_grad=False))
        for name, tensor in safetensors_of(folder).items()
    )
    state._metadata = collections.OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", pickle_protocol=protocol)
    convert(folder, tmp_path / "pickled.gguf", "Q8_0")
    assert data_of(tmp_path / "pickled.gguf") == data_of(tmp_path / "safe.gguf")
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    torch.save(state, folder / "pytorch_model.bin", pickle_protocol=protocol)
    convert(folder, tmp_path / "shared.gguf", "Q8_0")
    found = data_of(tmp_path / "shared.gguf")
    assert found["output.weight"][2] == found["token_embd.weight"][2]


@pytest.mark.reference
def test_transformers_own_shards(tmp_path: Path) -> None:
    """save_pretrained with safe_serialization off, in several files with an index."""
    torch_library()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    checkpoint = Checkpoint(shards=1, dtype="F32")
    folder = write_checkpoint(tmp_path / "m", checkpoint)
    convert(folder, tmp_path / "safe.gguf", "F32")
    (folder / "generation_config.json").unlink()
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, safe_serialization=False, max_shard_size="1MB")
    assert len(list(folder.glob("pytorch_model-*.bin"))) > 1
    convert(folder, tmp_path / "pickled.gguf", "F32")
    assert data_of(tmp_path / "pickled.gguf") == data_of(tmp_path / "safe.gguf")


@pytest.mark.reference
def test_the_old_format_is_refused_and_its_remedy_works(tmp_path: Path) -> None:
    torch = torch_library()
    folder = write_checkpoint(tmp_path / "m", Checkpoint(shards=1))
    state = safetensors_of(folder)
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"write it anew with torch: torch.save\(torch.load"):
        open_folder(folder)
    torch.save(torch.load(path, weights_only=True), path)
    open_folder(folder).close()


def safetensors_of(folder: Path) -> dict[str, Any]:
    library = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    tensors: dict[str, Any] = library.load_file(folder / "model.safetensors")
    return tensors
