"""State that was computed with some weights is not taken by others of the same names, shapes and sizes."""

from __future__ import annotations

import json
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codellama import LLM
from codellama.files.gguf_header import TensorInfo, read_gguf_header
from codellama.files.identity import weights_digest
from codellama.files.provenance import manifest, manifest_path
from codellama.files.split import read_model_header, read_parts
from codellama.running.kv_file import StaleStateError
from codellama.session import Session
from codellama.weights.convert import quantize

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


def trained_on(model: Path, to: Path, name: str, seed: int = 1) -> Path:
    """`model` with another tensor `name`: its values moved as training does it, a little and everywhere."""
    data = bytearray(model.read_bytes())
    tensor = tensor_of(model, name)
    assert tensor.type_name == "F32"
    rng = random.Random(seed)
    for at in range(tensor.offset, tensor.offset + tensor.nbytes, 4):
        data[at] ^= rng.randint(1, 255)  # the last bits of the mantissa
    to.write_bytes(data)
    return to


def tensor_of(model: Path, name: str) -> TensorInfo:
    return next(t for t in read_gguf_header(model).tensors if t.name == name)


def digest(model: Path) -> str:
    return weights_digest(read_model_header(model))


def test_every_tensor_counts(tiny_gguf: Path, tmp_path: Path) -> None:
    names = [tensor.name for tensor in read_gguf_header(tiny_gguf).tensors]
    tuned = (trained_on(tiny_gguf, tmp_path / "tuned.gguf", name) for name in names)
    digests = {digest(path) for path in tuned}
    assert len(digests | {digest(tiny_gguf)}) == len(names) + 1


def test_a_copy_elsewhere_is_the_same(tiny_gguf: Path, tmp_path: Path) -> None:
    copy = shutil.copy(tiny_gguf, tmp_path / "other name.gguf")
    assert digest(Path(copy)) == digest(tiny_gguf)


def test_a_manifest_tells_what_samples_miss(tiny_gguf: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "x.gguf", tmp_path / "two" / "x.gguf"
    for path in (one, two):
        path.parent.mkdir()
        shutil.copy(tiny_gguf, path)
    tensor = tensor_of(tiny_gguf, "token_embd.weight")
    with two.open("r+b") as file:  # one row, between the places that are read
        file.seek(tensor.offset + tensor.nbytes // 14 + 1024)
        file.write(b"\x01")
    assert two.read_bytes() != one.read_bytes()
    assert digest(one) == digest(two), "samples miss it"
    for path in (one, two):
        manifest_path(path).write_bytes(manifest({path.name: path}, {}))
    assert digest(one) != digest(two)


@pytest.mark.parametrize("kind", ["other size", "damaged", "of another file"])
def test_a_manifest_that_does_not_match_is_none(tiny_gguf: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.gguf"
    shutil.copy(tiny_gguf, path)
    document = json.loads(manifest({path.name: path}, {}))
    if kind == "other size":
        document["files"][0]["bytes"] += 1
    elif kind == "of another file":
        document["files"][0]["name"] = "y.gguf"
    text = "{" if kind == "damaged" else json.dumps(document)
    manifest_path(path).write_text(text)
    assert digest(path) == digest(tiny_gguf)


def test_all_parts_of_a_split_model_count(tiny_gguf: Path, tmp_path: Path) -> None:
    first = quantize(tiny_gguf, tmp_path / "x.gguf", "F32", split_bytes=100_000).path
    manifest_path(first).unlink()
    before = digest(first)
    header = read_parts(first)[-1]
    assert header.path != first
    with header.path.open("r+b") as file:
        file.seek(header.tensors[-1].offset)
        file.write(b"\x01\x02\x03")
    assert digest(first) != before


def test_a_conversation_does_not_go_on_with_other_weights(tiny_gguf: Path, tmp_path: Path) -> None:
    """The file is trained further and written again in its place, with the old manifest beside it."""
    model, path = tmp_path / "model.gguf", tmp_path / "talk.json"
    shutil.copy(tiny_gguf, model)
    manifest_path(model).write_bytes(manifest({model.name: model}, {}))
    with LLM(model, n_threads=1, n_seq_max=2) as llm:
        talk = Session(llm)
        talk.ask("How do I reverse a list in Python?", **GREEDY).text()
        talk.save(path, kv=True)
        assert Session.load(path, llm).notice is None
    trained_on(tiny_gguf, model, "blk.0.attn_q.weight")
    with LLM(model, n_threads=1, n_seq_max=2) as llm:
        with pytest.raises(StaleStateError):
            llm.load_state(tmp_path / "talk.json.kv")
        talk = Session.load(path, llm)
        assert talk.notice is not None
        assert "other weights" in talk.notice
        answer = talk.ask("And a tuple?", **GREEDY)
        answer.text()
        assert answer.usage.cached_tokens == 0


def test_the_cost_is_bounded_however_large_the_file(tiny_gguf: Path, tmp_path: Path) -> None:
    """A sparse file with the tensors of a 70B model in number and, all told, a hundredth of its size."""
    header = read_gguf_header(tiny_gguf)
    path = tmp_path / "large.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[: header.data_offset])
    nbytes = 400_000_000 // 723
    tensors = [
        TensorInfo(f"blk.{i}", (nbytes // 4,), "F32", header.data_offset + i * nbytes, nbytes)
        for i in range(723)
    ]
    with path.open("r+b") as file:
        file.truncate(header.data_offset + 723 * nbytes)
    large = replace(header, path=path, tensors=tensors)
    weights_digest(large)
    started = time.process_time()
    weights_digest(large)
    assert time.process_time() - started < 1
