"""GGUFs that a repository has ready, and checkpoints that the hub's cache has already."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codellama import LLM, CheckpointError, ConversionError, InvalidRequestError, ModelLoadError
from codellama.cli import main
from codellama.files.provenance import verify
from codellama.models import HubName, obtain
from codellama.models.obtain import choose
from codellama.weights import hub
from codellama.weights.convert import RunSettings, convert, make_forecast
from codellama.weights.hub import HubFile
from codellama.weights.ready import ReadyModel, fetch_model, ready_models
from stand_ins.hub import COMMIT, FakeHub, serve
from tests.checkpoints import Checkpoint, write_checkpoint

REPO = "TheBloke/CodeLlama-70B-Instruct-GGUF"
CHECKPOINT = "codellama/CodeLlama-70b-Instruct-hf"
Q4, Q8 = "codellama-70b-instruct.Q4_K_M.gguf", "codellama-70b-instruct.Q8_0.gguf"


@pytest.fixture
def folder(tmp_path: Path, tiny_gguf: Path) -> Path:
    """What the repository holds."""
    folder = tmp_path / "repository"
    folder.mkdir()
    shutil.copy(tiny_gguf, folder / Q4)
    data = tiny_gguf.read_bytes()
    (folder / f"{Q8}-split-a").write_bytes(data[:300_000])
    (folder / f"{Q8}-split-b").write_bytes(data[300_000:])
    (folder / "README.md").write_text("about", "utf-8")
    return folder


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(hub, "PAUSES", (0.01,))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CODELLAMA_MODELS", str(tmp_path / "models"))
    with serve({REPO: folder}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_pull_takes_q4_k_m_and_other_commands_find_it(server: FakeHub, tmp_path: Path) -> None:
    result = invoke("pull", f"hf.co/{REPO}", "--json")
    assert result.exit_code == 0, result.output
    path = tmp_path / "models" / Q4
    assert json.loads(result.stdout) == {"path": str(path), "bytes": path.stat().st_size}
    assert verify(path)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [Q4, f"{Q4}.manifest.json"]
    requests = len(server.requests)
    assert invoke("tokenize", f"{REPO}:Q4_K_M", "ab").exit_code == 0
    assert invoke("pull", REPO).exit_code == 0
    assert len(server.requests) == requests, "it is here"


def test_a_command_fetches_what_is_not_here(server: FakeHub) -> None:
    result = invoke("tokenize", f"{REPO}:{Q4}", "ab")
    assert result.exit_code == 0, result.output


def test_from_pretrained(server: FakeHub, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with LLM.from_pretrained(
        REPO,
        "*Q4_K_M.gguf",
        local_dir=tmp_path / "here",
        progress=lambda done, total: seen.append((done, total)),
        n_threads=1,
    ) as llm:
        assert llm.path == tmp_path / "here" / Q4
        assert llm.complete("x", max_tokens=2).result().usage.completion_tokens > 0
    assert (llm.path.stat().st_size,) * 2 in seen
    with pytest.raises(InvalidRequestError, match="repo_id must be ORGANISATION/NAME"):
        LLM.from_pretrained("demo")


def test_pieces_are_joined(server: FakeHub, tiny_gguf: Path, tmp_path: Path) -> None:
    path = obtain(HubName(REPO, "Q8_0"))
    assert path.read_bytes() == tiny_gguf.read_bytes()
    assert verify(path)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [Q8, f"{Q8}.manifest.json"]
    sent = dict(server.sent)
    assert fetch_model(hub.Repository(REPO), model(server, Q8), path.parent) == path
    assert server.sent == sent, "not fetched again"


def model(server: FakeHub, name: str) -> ReadyModel:
    return next(m for m in ready_models(hub.Repository(REPO)) if m.name == name)


def test_joining_goes_on_where_it_was(
    server: FakeHub, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(source: object, target: object, length: int = 0) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfileobj", fail)
        obtain(HubName(REPO, "Q8_0"))
    sent = dict(server.sent)
    path = obtain(HubName(REPO, "Q8_0"))
    assert path.read_bytes() == tiny_gguf.read_bytes()
    assert server.sent[f"{Q8}-split-b"] == sent[f"{Q8}-split-b"], "no piece is fetched twice"


def test_a_broken_line_goes_on_where_it_was(server: FakeHub, tiny_gguf: Path) -> None:
    server.drop_after, server.drops = 100_000, 4
    path = obtain(HubName(REPO, "Q4_K_M"))
    assert path.read_bytes() == tiny_gguf.read_bytes()
    assert server.drops == 0


def test_damage_on_the_way_is_noticed(server: FakeHub, tiny_gguf: Path, tmp_path: Path) -> None:
    server.damaged[Q4] = 9
    with pytest.raises((CheckpointError, ModelLoadError)):
        obtain(HubName(REPO, "Q4_K_M"))
    assert not (tmp_path / "models" / Q4).exists()


def test_what_could_not_be_loaded_is_not_fetched(
    server: FakeHub, folder: Path, tmp_path: Path
) -> None:
    data = (folder / Q4).read_bytes().replace(b"llama", b"qwen2", 1)
    (folder / Q4).write_bytes(data + bytes(8 * 2**20))
    with pytest.raises(ModelLoadError, match=f"{REPO}: {Q4}: "):
        obtain(HubName(REPO, "Q4_K_M"))
    assert server.sent[Q4] < 6 * 2**20
    assert list((tmp_path / "models").iterdir()) == []


def test_a_disk_that_is_too_small(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(ConversionError, match=r"0\.0 GB are free: make room"):
        obtain(HubName(REPO, "Q4_K_M"))


def test_a_tag_that_fits_nothing_lists_what_there_is(server: FakeHub) -> None:
    with pytest.raises(CheckpointError, match=rf"no file fits {REPO}:Q2_K.*{Q4} \(0\.0 GB\)"):
        obtain(HubName(REPO, "Q2_K"))
    with pytest.raises(CheckpointError, match="2 files fit"):
        obtain(HubName(REPO, "codellama-70b-instruct*"))


def test_a_checkpoint_is_not_ready(server: FakeHub, folder: Path) -> None:
    server.repositories[CHECKPOINT] = write_checkpoint(folder.parent / "c", Checkpoint())
    with pytest.raises(CheckpointError, match=r"no GGUF in it; `codellama convert"):
        obtain(HubName(CHECKPOINT))


def test_a_hub_that_cannot_be_reached_is_said_while_it_is_tried_again(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "HF_ENDPOINT", "http://127.0.0.1:9"
    )  # the port of discard, where nobody listens
    result = invoke("pull", REPO)
    assert result.exit_code == 1
    assert result.stderr.count("trying again in") == hub.MOST_FAILURES - 2, "not of the first"
    assert "cannot be reached" in result.stderr.splitlines()[-1]


def test_what_is_ready_is_not_converted(server: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"`codellama pull {REPO}` fetches one"):
        convert(REPO, tmp_path / "x.gguf")


def test_options_of_a_conversion_are_refused(server: FakeHub) -> None:
    result = invoke("pull", f"{REPO}:Q4_K_M", "--type", "Q8_0")
    assert result.exit_code == 2
    assert "nothing is converted" in result.output
    assert invoke("pull", "nobody").exit_code == 2


class Files:
    """A repository that is only a list."""

    def __init__(self, *names: str) -> None:
        self.files = {name: HubFile(name, 10, "a" * 64, None) for name in names}


def test_files_that_belong_together_are_one_model() -> None:
    found = ready_models(
        Files(  # type: ignore[arg-type]
            "Q8_0/m-Q8_0-00001-of-00002.gguf",
            "Q8_0/m-Q8_0-00002-of-00002.gguf",
            "m-Q4_K_M.gguf",
            "m.gguf.part2of2",
            "m.gguf.part1of2",
            "mmproj.txt",
        )
    )
    assert [(m.name, [f.name for f in m.files], m.cut) for m in found] == [
        ("m-Q4_K_M.gguf", ["m-Q4_K_M.gguf"], False),
        (
            "m-Q8_0-00001-of-00002.gguf",
            ["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf"],
            False,
        ),
        ("m.gguf", ["m.gguf.part1of2", "m.gguf.part2of2"], True),
    ]
    assert choose(HubName("a/b", "Q8_0"), found).nbytes == 20
    assert choose(HubName("a/b"), found).name == "m-Q4_K_M.gguf"


# -- checkpoints in the hub's cache ---------------------------------------------------------------


@pytest.fixture
def cached(server: FakeHub, tmp_path: Path) -> Path:
    """The checkpoint on the hub, and all of it in the cache."""
    source = write_checkpoint(tmp_path / CHECKPOINT.partition("/")[2], Checkpoint(shards=3))
    server.repositories[CHECKPOINT] = source
    root = tmp_path / ".cache/huggingface/hub" / f"models--{CHECKPOINT.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for part in (snapshot, root / "blobs", root / "refs"):
        part.mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for name, stored in server.files(CHECKPOINT).items():
        blob = root / "blobs" / (stored.sha256 or stored.blob_id)
        shutil.copy(source / name, blob)
        (snapshot / name).symlink_to(blob)
    return snapshot


def test_what_the_cache_has_is_not_fetched(server: FakeHub, cached: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in cached.iterdir()}
    assert make_forecast(CHECKPOINT, ["Q8_0"], RunSettings()).to_json()["download_bytes"] == 0
    convert(CHECKPOINT, tmp_path / "a.gguf", "Q8_0")
    assert not any(name.endswith(".safetensors") and n > 2**17 for name, n in server.sent.items())
    cache = cached.parents[1]
    shutil.move(cache, tmp_path / "away")
    convert(CHECKPOINT, tmp_path / "b.gguf", "Q8_0")
    assert digest(tmp_path / "a.gguf") == digest(tmp_path / "b.gguf")
    shutil.move(tmp_path / "away", cache)
    assert {path.name: path.read_bytes() for path in cached.iterdir()} == before


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_offline_the_cache_is_enough(
    server: FakeHub, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(CHECKPOINT, tmp_path / "online.gguf", "Q8_0")
    requests = len(server.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    convert(CHECKPOINT, tmp_path / "offline.gguf", "Q8_0")
    assert digest(tmp_path / "offline.gguf") == digest(tmp_path / "online.gguf")
    assert len(server.requests) == requests
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set and it is not in"):
        convert("codellama/CodeLlama-7b-hf", tmp_path / "x.gguf")


def test_a_shard_that_is_missing_in_the_cache_is_fetched(
    server: FakeHub, cached: Path, tmp_path: Path
) -> None:
    shard = sorted(cached.glob("*.safetensors"))[1]
    shard.resolve().unlink()
    convert(CHECKPOINT, tmp_path / "a.gguf", "Q8_0")
    assert server.sent[shard.name] > 2**17


def test_a_snapshot_is_called_after_its_repository(cached: Path, tmp_path: Path) -> None:
    from codellama.files.gguf_header import read_gguf_header

    convert(cached, tmp_path / "a.gguf", "Q8_0")
    convert(tmp_path / cached.parents[1].name.rpartition("--")[2], tmp_path / "b.gguf", "Q8_0")
    a, b = (read_gguf_header(tmp_path / name).metadata for name in ("a.gguf", "b.gguf"))
    assert a["general.name"] == b["general.name"]
    assert a == b
