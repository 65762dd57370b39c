"""Names of models that are files of a repository, or lie in another program's folders."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from codellama.cli import main
from codellama.errors import ModelLoadError
from codellama.files import hub_cache
from codellama.files.identify import recognised
from codellama.files.provenance import manifest, manifest_path
from codellama.models import HubName, resolve_model, stored_models, usable
from codellama.models.hub_name import matches

REPO = "TheBloke/CodeLlama-70B-Instruct-GGUF"
FILE = "codellama-70b-instruct.Q4_K_M.gguf"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without anything in it."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CODELLAMA_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def cache(home: Path, file: str = FILE, commit: str = COMMIT, data: str = "x") -> Path:
    """A file as huggingface_hub puts it into its cache."""
    folder = home / ".cache/huggingface/hub" / f"models--{REPO.replace('/', '--')}"
    touch(folder / "refs" / "main", COMMIT)
    blob = touch(folder / "blobs" / hashlib.sha256(data.encode()).hexdigest(), data)
    link = folder / "snapshots" / commit / file
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(blob)
    return link


def ollama(home: Path, name: str, layers: list[dict[str, str]]) -> None:
    """A manifest as Ollama writes it."""
    model, _, tag = name.partition(":")
    place = home / ".ollama/models/manifests/registry.ollama.ai/library" / model / tag
    touch(place, json.dumps({"schemaVersion": 2, "layers": layers}))


def layer(kind: str, digest: str) -> dict[str, str]:
    return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}"}


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["", "hf.co/", "huggingface.co/", "https://huggingface.co/"])
def test_a_repository_and_a_tag(host: str) -> None:
    assert HubName.parse(host + REPO) == HubName(REPO)
    assert HubName.parse(f"{host}{REPO}:Q4_K_M") == HubName(REPO, "Q4_K_M")
    assert str(HubName(REPO, "Q8_0")) == f"{REPO}:Q8_0"


@pytest.mark.parametrize(
    "text", ["demo", "70b-instruct:Q8_0", "./a/b", "a/b/c", "a/b:", "-a/b", ""]
)
def test_what_is_no_repository(text: str) -> None:
    assert HubName.parse(text) is None


@pytest.mark.parametrize(
    ("tag", "file", "expected"),
    [
        ("Q4_K_M", FILE, True),
        ("q4_k_m", FILE, True),
        ("Q4_K", FILE, False),
        ("Q4_K_M", "x-Q4_K_M-00001-of-00002.gguf", True),
        ("Q4_K_M", "Q4_K_M/x_Q4_K_M.gguf", True),
        ("K_M", FILE, True),
        (FILE, FILE, True),
        ("*Q4_K_M.gguf", FILE, True),
        ("Q8_0", FILE, False),
        ("instruct", FILE, True),
        ("70b", "codellama-70b.Q8_0.gguf", True),
    ],
)
def test_a_tag_means_a_type_a_file_or_a_pattern(tag: str, file: str, expected: bool) -> None:
    assert matches(tag, file) is expected


# -- the stores -----------------------------------------------------------------------------------


def test_the_hubs_cache(home: Path) -> None:
    path = cache(home)
    cache(home, "codellama-70b-instruct.Q8_0.gguf", data="y")
    assert resolve_model(REPO) == path, "Q4_K_M where nothing is said"
    assert resolve_model(f"hf.co/{REPO}:Q4_K_M") == path
    assert resolve_model(f"{REPO}:{FILE}") == path
    assert [model.name for model in stored_models()] == [
        f"{REPO}:{FILE}",
        f"{REPO}:codellama-70b-instruct.Q8_0.gguf",
    ]


def test_the_main_branch_comes_first_and_a_file_once(home: Path) -> None:
    cache(home, commit="f" * 40, data="old")
    path = cache(home, data="new")
    cache(home, "only-in-an-old-one.gguf", commit="f" * 40)
    assert resolve_model(f"{REPO}:Q4_K_M") == path
    assert len(stored_models()) == 2


def test_what_is_not_here_can_be_pulled(home: Path) -> None:
    with pytest.raises(ModelLoadError, match=f"codellama pull {REPO}:Q4_K_M"):
        resolve_model(f"{REPO}:Q4_K_M")


def test_several_files_are_named(home: Path) -> None:
    cache(home, "a.Q2_K.gguf", data="1")
    cache(home, "a.Q8_0.gguf", data="2")
    with pytest.raises(ModelLoadError, match="has 2 files here, name one of them or add :TYPE"):
        resolve_model(REPO)


def test_a_file_in_the_models_folder_is_known_by_its_manifest(home: Path) -> None:
    path = touch(home / "models" / FILE, "x")
    manifest_path(path).write_bytes(manifest({FILE: path}, {"source": REPO}))
    assert resolve_model(f"{REPO}:Q4_K_M") == path
    with pytest.raises(ModelLoadError, match="no such file here"):
        resolve_model("somebody/else:Q4_K_M")


def test_ollama(home: Path) -> None:
    digest = "a" * 64
    ollama(home, "codellama:70b-instruct", [layer("model", digest), layer("template", "b" * 64)])
    path = touch(home / ".ollama/models/blobs" / f"sha256-{digest}")
    assert resolve_model("ollama:codellama:70b-instruct") == path
    assert [model.name for model in stored_models()] == ["ollama:codellama:70b-instruct"]
    with pytest.raises(ModelLoadError, match="`ollama pull codellama:7b` fetches it"):
        resolve_model("ollama:codellama:7b")


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([], "0 files"),
        ([layer("model", "a" * 64), layer("model", "b" * 64)], "2 files"),
        ([layer("model", "../" * 21 + "x")], "not one"),
        ([layer("model", "a" * 64)], "missing"),
        ([layer("model", "c" * 64), layer("adapter", "b" * 64)], "has an adapter"),
    ],
)
def test_ollamas_manifests_are_not_believed(
    home: Path, layers: list[dict[str, str]], reason: str
) -> None:
    touch(home / ".ollama/models/blobs" / f"sha256-{'c' * 64}")
    ollama(home, "m:latest", layers)
    with pytest.raises(ModelLoadError, match=reason):
        resolve_model("ollama:m")
    assert stored_models() == []


@pytest.mark.parametrize(
    "name", ["ollama:", "ollama:../../x:y", "ollama:a/b/c/d:e", "ollama:a:b/c"]
)
def test_ollamas_names_lead_nowhere_else(home: Path, name: str) -> None:
    with pytest.raises(ModelLoadError, match="Ollama's names look like"):
        resolve_model(name)


def test_lm_studio_and_llama_cpp(home: Path) -> None:
    studio = touch(home / ".lmstudio/models" / REPO / FILE)
    old = touch(home / ".cache/llama.cpp/org_x_y.gguf")
    touch(home / ".cache/llama.cpp/z-00002-of-00002.gguf")
    assert [(model.name, model.path) for model in stored_models()] == [
        (f"{REPO}:{FILE}", studio),
        (str(old), old),
    ]
    assert resolve_model(f"{REPO}:Q4_K_M") == studio


def test_what_cannot_be_run_is_not_listed(home: Path) -> None:
    path = cache(home)
    assert usable(path) is None
    result = CliRunner().invoke(main, ["models"])
    assert result.exit_code == 0
    assert REPO not in result.output


# -- the hub's cache by commit and checksum -------------------------------------------------------


def test_snapshots_branches_and_blobs(home: Path) -> None:
    path = cache(home)
    assert hub_cache.snapshot(REPO) == hub_cache.snapshot(REPO, "main") == path.parent
    assert hub_cache.snapshot(REPO, COMMIT) == path.parent
    assert hub_cache.snapshot(REPO, "f" * 40) is None
    assert hub_cache.snapshot(REPO, "../../x") is None
    assert hub_cache.snapshot("no/body") is None
    digest = hub_cache.checksum(path)
    assert digest is not None
    assert hub_cache.blob(REPO, digest, 1) == path.resolve()
    assert hub_cache.blob(REPO, digest, 2) is None
    assert hub_cache.checkpoint_name(path.parent) == "CodeLlama-70B-Instruct-GGUF"
    assert hub_cache.checkpoint_name(Path("x/snapshots/y")) == "y"


def test_of_several_snapshots_the_main_branchs_counts_and_then_the_newest(home: Path) -> None:
    main = cache(home).parent
    folder = main.parent.parent
    for age, commit in ((10, "a" * 40), (5, "f" * 40), (0, "c" * 40)):
        (folder / "snapshots" / commit).mkdir()
        os.utime(folder / "snapshots" / commit, (10**9 - age, 10**9 - age))
    order = [main.name, "c" * 40, "f" * 40, "a" * 40]
    assert [path.name for path in hub_cache.snapshots(REPO)] == order
    assert str(main) in str(recognised(folder, ModelLoadError))
    (folder / "refs" / "main").unlink()
    os.utime(main, (1, 1))
    assert [path.name for path in hub_cache.snapshots(REPO)] == [*order[1:], main.name]
    assert "c" * 40 in str(recognised(folder, ModelLoadError))
