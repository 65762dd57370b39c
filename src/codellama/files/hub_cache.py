"""The cache of huggingface_hub: which snapshots of a repository are in it, and files by their checksum.

Its layout is that of huggingface_hub 0.10 and later, and of llama.cpp: `models--ORG--NAME/` with
`refs/BRANCH` (a commit), `snapshots/COMMIT/FILE` (links) and `blobs/CHECKSUM`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_FOLDER = re.compile(r"models--(.+?)--(.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_cache() -> Path:
    """The folder of the cache (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME)."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    return Path(home).expanduser() / "hub"


def cached_repositories() -> list[str]:
    """The names of the model repositories in the cache."""
    found = (_FOLDER.fullmatch(path.name) for path in sorted(hub_cache().glob("models--*--*")))
    return [f"{match[1]}/{match[2]}" for match in found if match]


def snapshots(repository: str) -> Iterator[Path]:
    """The folders of the commits of a repository that are in the cache, the best first."""
    yield from snapshots_in(_folder(repository))


def snapshots_in(folder: Path) -> list[Path]:
    """Those in the folder of a repository: that of the main branch first, then the newest ones."""
    main = _commit(folder, "main")
    try:
        found = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
        times = {path: path.stat().st_mtime for path in found}
    except OSError:
        return []
    return sorted(found, key=lambda path: (path.name != main, -times[path], path.name))


def snapshot(repository: str, revision: str | None = None) -> Path | None:
    """The folder of a branch, tag or commit (default: the main branch), if it is in the cache."""
    commit = revision if revision and _COMMIT.fullmatch(revision) else None
    commit = commit or commit_of(repository, revision or "main")
    folder = _folder(repository) / "snapshots" / commit if commit else None
    return folder if folder is not None and folder.is_dir() else None


def commit_of(repository: str, revision: str) -> str | None:
    """The commit that a branch or tag had when it was fetched."""
    return _commit(_folder(repository), revision)


def _commit(folder: Path, revision: str) -> str | None:
    if ".." in revision.split("/"):
        return None
    try:
        text = (folder / "refs" / revision).read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    return text if _COMMIT.fullmatch(text) else None


def blob(repository: str, checksum: str, size: int) -> Path | None:
    """The file with this checksum (SHA-256, or git's of small files), if the cache has all of it."""
    path = _folder(repository) / "blobs" / checksum
    return path if path.is_file() and path.stat().st_size == size else None


def checksum(path: Path) -> str | None:
    """The checksum of a file of a snapshot, by the name of what it links to."""
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) else None


def checkpoint_name(folder: Path) -> str:
    """The name of a checkpoint's folder; of a snapshot, whose folder is a commit, that of its repository."""
    folder = folder.absolute()
    found = _FOLDER.fullmatch(folder.parent.parent.name)
    return found[2] if found and folder.parent.name == "snapshots" else folder.name


def _folder(repository: str) -> Path:
    return hub_cache() / f"models--{repository.replace('/', '--')}"
