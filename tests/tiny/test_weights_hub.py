"""A checkpoint on a hub that has bad days."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from codellama.cli import main
from codellama.errors import CheckpointError, ConversionError
from codellama.files.gguf_header import Value, read_gguf_header
from codellama.native.arrays import Bytes
from codellama.weights import fetch, hub, recorder
from codellama.weights.convert import convert, download_folder
from codellama.weights.encode import SlabEncoder
from codellama.weights.output import Output
from codellama.weights.plan import Slab
from stand_ins.hub import FakeHub, serve
from tests.checkpoints import Checkpoint, write_checkpoint
from tests.peft_folder import low_rank, write_peft
from tests.torch_archive import pickled_checkpoint

NAME = "codellama/CodeLlama-70b-Instruct-hf"
N_SHARDS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoint")
    return write_checkpoint(root / NAME.partition("/")[2], Checkpoint(shards=N_SHARDS, layers=4))


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    """What a run gives on a good day."""
    target = folder.parent / "whole.gguf"
    with serve({NAME: folder}) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url)
        convert(NAME, target, "Q4_K_M")
    return target.read_bytes()


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(hub, "PAUSES", (0.01,))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serve({NAME: folder}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def check(target: Path, whole: bytes) -> None:
    assert target.read_bytes() == whole
    assert sorted(os.listdir(target.parent)) == [target.name, f"{target.name}.manifest.json"]


def test_a_repository_becomes_what_its_folder_becomes(
    server: FakeHub, folder: Path, whole: bytes, tmp_path: Path
) -> None:
    convert(NAME, tmp_path / "x.gguf", "Q4_K_M")
    check(tmp_path / "x.gguf", whole)
    convert(folder, tmp_path / "y.gguf", "Q4_K_M")
    assert contents(tmp_path / "x.gguf") == contents(tmp_path / "y.gguf")
    values = read_gguf_header(tmp_path / "x.gguf").metadata
    assert values["codellama.source"] == NAME
    assert values["codellama.source.revision"] == server.commit
    shards = sorted(folder.glob("*.safetensors"))
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in shards]
    lines = [f"{digest}  {path.name}" for digest, path in zip(hashes, shards, strict=True)]
    assert values["codellama.source.files"] == lines


def contents(path: Path) -> tuple[list[tuple[str, Value]], list[bytes]]:
    """Metadata without where it came from, and tensors."""
    header, data = read_gguf_header(path), path.read_bytes()
    values = [item for item in header.values.items() if "codellama." not in item[0]]
    return values, [data[t.offset : t.offset + t.nbytes] for t in header.tensors]


def test_every_byte_of_a_shard_comes_once_beside_its_header(
    server: FakeHub, folder: Path, tmp_path: Path
) -> None:
    convert(NAME, tmp_path / "x.gguf", "Q8_0")
    for shard in folder.glob("*.safetensors"):
        assert 0 <= server.sent[shard.name] - shard.stat().st_size <= 2**16


def test_at_most_two_shards_lie_on_the_disk(
    server: FakeHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.gguf"
    most = 0
    original = SlabEncoder.make

    def make(self: SlabEncoder, slab: Slab, numbers: list[int]) -> dict[int, int]:
        nonlocal most
        there = [p for p in download_folder(target).rglob("model-*") if ".safetensors" in p.name]
        most = max(most, len(there))
        return original(self, slab, numbers)

    monkeypatch.setattr(SlabEncoder, "make", make)
    convert(NAME, target, "Q4_0", threads=1)
    assert most == 2


def test_shards_are_kept_when_asked(
    server: FakeHub, folder: Path, whole: bytes, tmp_path: Path
) -> None:
    convert(NAME, tmp_path / "x.gguf", "Q4_K_M", keep=True)
    assert (tmp_path / "x.gguf").read_bytes() == whole
    kept = tmp_path / folder.name
    assert {path.name for path in kept.iterdir()} == {path.name for path in folder.iterdir()}
    convert(kept, tmp_path / "again.gguf", "Q4_K_M")
    assert contents(tmp_path / "again.gguf") == contents(tmp_path / "x.gguf")


def test_a_line_that_breaks_goes_on_where_it_was(
    server: FakeHub, folder: Path, whole: bytes, tmp_path: Path
) -> None:
    server.drop_after, server.drops = 100_000, 12
    convert(NAME, tmp_path / "x.gguf", "Q4_K_M")
    check(tmp_path / "x.gguf", whole)
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    came = sum(count for name, count in server.sent.items() if name.endswith(".safetensors"))
    assert server.drops == 0
    assert came <= stored + (N_SHARDS + 12) * 2**16


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_that_stumbles_is_asked_again(
    server: FakeHub, whole: bytes, tmp_path: Path, status: int
) -> None:
    server.statuses = [status] * 5
    convert(NAME, tmp_path / "x.gguf", "Q4_K_M")
    check(tmp_path / "x.gguf", whole)


def test_a_server_without_ranges_is_good_enough(
    server: FakeHub, whole: bytes, tmp_path: Path
) -> None:
    server.no_ranges = True
    server.drop_after, server.drops = 100_000, 2
    convert(NAME, tmp_path / "x.gguf", "Q4_K_M")
    check(tmp_path / "x.gguf", whole)


def test_wrong_bytes_are_fetched_again(server: FakeHub, whole: bytes, tmp_path: Path) -> None:
    server.damaged["tokenizer.model"] = 1
    convert(NAME, tmp_path / "x.gguf", "Q4_K_M")
    check(tmp_path / "x.gguf", whole)


def test_bytes_that_stay_wrong_are_an_error(server: FakeHub, tmp_path: Path) -> None:
    server.damaged["tokenizer.model"] = 9
    with pytest.raises(CheckpointError, match="tokenizer.model arrived twice with a wrong checks"):
        convert(NAME, tmp_path / "x.gguf", "Q4_K_M")
    assert os.listdir(tmp_path) == []


def stop_writing(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    count = 0
    original = Output.write

    def write(self: Output, slab: Slab, encoded: Bytes) -> int:
        nonlocal count
        count += 1
        if count > after:
            raise KeyboardInterrupt
        return original(self, slab, encoded)

    monkeypatch.setattr(Output, "write", write)


def test_an_interrupted_run_fetches_only_what_it_still_needs(
    server: FakeHub,
    folder: Path,
    whole: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
    target = tmp_path / "x.gguf"
    with monkeypatch.context() as patch:
        stop_writing(patch, 25)
        with pytest.raises(KeyboardInterrupt):
            convert(NAME, target, "Q4_K_M", threads=1)
    assert sorted(os.listdir(tmp_path)) == ["x.gguf.download", "x.gguf.journal", "x.gguf.part"]
    server.sent.clear()
    convert(NAME, target, "Q4_K_M")
    check(target, whole)
    first = "model-00001-of-00005.safetensors"
    assert server.sent[first] <= 2**16
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert sum(server.sent.values()) < stored


def test_a_half_fetched_shard_is_continued(server: FakeHub, folder: Path, tmp_path: Path) -> None:
    repository = hub.Repository(NAME)
    name = "model-00003-of-00005.safetensors"
    data = (folder / name).read_bytes()
    (tmp_path / f"{name}.part").write_bytes(data[:50_000])
    assert fetch.fetch(repository, name, tmp_path).read_bytes() == data
    assert server.sent[name] == len(data) - 50_000
    (tmp_path / name).unlink()
    (tmp_path / f"{name}.part").write_bytes(b"x" + data[1:])  # damaged: fetched anew
    assert fetch.fetch(repository, name, tmp_path).read_bytes() == data
    assert server.sent[name] == 2 * len(data) - 50_000


def test_a_revision_that_has_changed_is_refused(
    server: FakeHub, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.gguf"
    old = server.commit
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        stop_writing(patch, 25)
        with pytest.raises(KeyboardInterrupt):
            convert(NAME, target, "Q4_K_M", threads=1)
    server.commit = "f" * 40
    with pytest.raises(ConversionError, match=rf"another revision \({old}, now {'f' * 40}\)"):
        convert(NAME, target, "Q4_K_M")
    assert "x.gguf.part" in os.listdir(tmp_path)
    server.commit = old
    convert(NAME, target, "Q4_K_M", revision=old)
    check(target, whole)


def test_a_token_is_sent(
    server: FakeHub, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "hf_secret"
    with pytest.raises(CheckpointError, match="private and HF_TOKEN is missing or wrong"):
        convert(NAME, tmp_path / "x.gguf", "Q4_K_M")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    convert(NAME, tmp_path / "x.gguf", "Q4_K_M")
    check(tmp_path / "x.gguf", whole)


def test_refusals_are_clear(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(name: str = NAME, **settings: str) -> str:
        with pytest.raises(CheckpointError) as caught:
            convert(name, tmp_path / "x.gguf", "Q4_K_M", **settings)
        assert os.listdir(tmp_path) == []
        return str(caught.value)

    assert "no such folder here and no such repository" in refusal("codellama/none")
    assert "there is no revision 'v9'" in refusal(revision="v9")
    server.gated = True
    assert "access must be asked for at" in refusal()
    server.gated = False
    server.statuses = [403]
    assert "refuses access to config.json (403): check HF_TOKEN" in refusal()
    server.statuses = [404]
    assert "config.json is not there any more" in refusal()
    server.statuses = [418]
    assert "answers 418" in refusal()
    server.statuses = [503] * 100
    assert "cannot be reached for config.json (status 503" in refusal()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refusal()


def test_a_repository_without_weights_says_so(
    server: FakeHub, folder: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "README.md").write_text("nothing")
    (tmp_path / "out").mkdir()
    server.repositories["a/empty"] = empty
    with pytest.raises(CheckpointError, match="a/empty: not a checkpoint: there is no config.json"):
        convert("a/empty", tmp_path / "out" / "x.gguf")
    (empty / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is a PEFT adapter, not a whole model: download it"):
        convert("a/empty", tmp_path / "out" / "x.gguf")
    for name in ("config.json", "tokenizer.model"):
        (empty / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(CheckpointError, match="there are no safetensors files in it"):
        convert("a/empty", tmp_path / "out" / "x.gguf")
    (empty / "pytorch_model.bin").write_bytes(b"x" * 99)
    with pytest.raises(CheckpointError, match="pytorch_model.bin: not a torch archive"):
        convert("a/empty", tmp_path / "out" / "x.gguf")
    assert os.listdir(tmp_path / "out") == []


def test_an_adapter_is_merged_into_a_repository(
    server: FakeHub, folder: Path, tmp_path: Path
) -> None:
    shapes = {"model.layers.3.self_attn.q_proj": (256, 256), "lm_head": (295, 256)}
    adapter = write_peft(tmp_path / "a", low_rank(shapes))
    (tmp_path / "out").mkdir()
    convert(NAME, tmp_path / "out" / "x.gguf", "F32", merge=[(adapter, 1.0)])
    convert(folder, tmp_path / "y.gguf", "F32", merge=[(adapter, 1.0)])
    convert(folder, tmp_path / "plain.gguf", "F32")
    assert contents(tmp_path / "out" / "x.gguf") == contents(tmp_path / "y.gguf")
    assert contents(tmp_path / "y.gguf") != contents(tmp_path / "plain.gguf")
    assert len(os.listdir(tmp_path / "out")) == 2


@pytest.mark.parametrize("shards", [1, 3])
def test_pickles_on_the_hub_give_the_same(
    server: FakeHub, folder: Path, whole: bytes, tmp_path: Path, shards: int
) -> None:
    """Of a pickle, its directory and its program are read before it is fetched, as a header is."""
    pickled = tmp_path / "hub" / NAME.partition("/")[2]
    shutil.copytree(folder, pickled)
    pickled_checkpoint(pickled, Checkpoint(shards=N_SHARDS, layers=4), shards)
    server.repositories[NAME] = pickled
    (tmp_path / "out").mkdir()
    convert(NAME, tmp_path / "out" / "x.gguf", "Q4_K_M")
    (tmp_path / "y.gguf").write_bytes(whole)
    assert contents(tmp_path / "out" / "x.gguf") == contents(tmp_path / "y.gguf")
    assert len(os.listdir(tmp_path / "out")) == 2
    for path in pickled.glob("*.bin"):
        assert path.stat().st_size < server.sent[path.name] < path.stat().st_size + 2**18


def test_a_header_of_any_length_is_read(
    server: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, whole: bytes
) -> None:
    monkeypatch.setattr("codellama.weights.hub_source._FIRST_BYTES", 100)
    convert(NAME, tmp_path / "x.gguf", "Q4_K_M")
    check(tmp_path / "x.gguf", whole)


def test_a_network_that_goes_away_in_the_middle_loses_nothing(
    server: FakeHub, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.gguf"
    original = fetch.fetch

    def vanish(repository: hub.Repository, name: str, folder: Path) -> Path:
        if name.startswith("model-00003"):
            server.statuses = [503] * 100
        return original(repository, name, folder)

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "fetch", vanish)
        with pytest.raises(CheckpointError, match="model-00003.*the same command goes on where it"):
            convert(NAME, target, "Q4_K_M")
    assert "x.gguf.journal" in os.listdir(tmp_path)
    server.statuses = []
    convert(NAME, target, "Q4_K_M")
    check(target, whole)


def test_waiting_for_a_file_ends_when_the_run_does(server: FakeHub, tmp_path: Path) -> None:
    fetcher = fetch.Fetcher(hub.Repository(NAME), tmp_path, keep=False)
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            fetcher.wait("never")
        except CheckpointError as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    fetcher.stop()
    thread.join(10)
    assert len(failures) == 1


def test_sources_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codellama.weights.convert import is_local

    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "m").mkdir(parents=True)
    assert is_local("models/m")
    assert is_local(tmp_path / "none")
    assert is_local("./a/b")
    assert is_local("one")
    assert not is_local("codellama/CodeLlama-7b-hf")


def test_offline_is_respected(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        convert(NAME, tmp_path / "x.gguf")
    assert server.requests == []


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_pull_puts_a_published_model_where_it_is_found(
    server: FakeHub, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    monkeypatch.setenv("CODELLAMA_MODELS", str(models))
    result = run("pull", "70b-instruct", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    check(models / "codellama-70b-instruct.Q4_K_M.gguf", whole)
    assert json.loads(result.stdout)["type"] == "Q4_K_M"
    again = run("pull", "70b-instruct")
    assert (again.exit_code, "exists already" in again.stderr) == (1, True)
    unknown = run("pull", "70b-chat")
    assert unknown.exit_code == 2
    assert "no published model '70b-chat'; there are 7b," in " ".join(unknown.stderr.split())


def test_convert_takes_a_repository(server: FakeHub, whole: bytes, tmp_path: Path) -> None:
    types = ["--type", "Q4_K_M", "--type", "Q8_0", "--revision", server.commit]
    result = run("convert", NAME, "-o", tmp_path, *types)
    assert (result.exit_code, result.stderr) == (0, "")
    names = [f"{NAME.partition('/')[2]}.{kind}.gguf" for kind in ("Q4_K_M", "Q8_0")]
    manifests = [f"{name}.manifest.json" for name in names]
    assert sorted(os.listdir(tmp_path)) == sorted(names + manifests)
    assert (tmp_path / names[0]).read_bytes() == whole
    missing = run("convert", "no/repository", "-o", tmp_path)
    assert missing.exit_code == 1
    assert missing.stderr.startswith("Error: no/repository: no such folder here and no such repo")
    assert missing.stderr.count("\n") == 1


def test_the_stand_in_leaves_no_thread(tmp_path: Path) -> None:
    """A client's open connection must not keep one alive: other tests count threads."""
    before = threading.active_count()
    with serve({}) as served, httpx.Client() as client:
        assert client.get(f"{served.url}/api/models/a/b").status_code == 404
        assert threading.active_count() > before
        client.get(f"{served.url}/api/models/a/b")
    assert threading.active_count() == before
