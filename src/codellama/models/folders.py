"""The folders of this package: where models are looked for, where new ones go, and its cache.

The models folder is the one that CODELLAMA_MODELS names, or else `models` here and in the source
checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
"""The source checkout, when the package is installed in editable mode."""


def models_folders() -> list[Path]:
    """The folders that are searched for models, without those that do not exist."""
    chosen = _chosen_folder()
    folders = [chosen] if chosen else [Path("models"), CHECKOUT / "models"]
    unique = {folder.resolve(): folder for folder in reversed(folders) if folder.is_dir()}
    return list(reversed(unique.values()))


def new_models_folder() -> Path:
    """The folder for models that are fetched, which need not exist."""
    return _chosen_folder() or Path("models")


def cache_folder() -> Path:
    """This package's folder in the user's cache (XDG_CACHE_HOME)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "codellama-runtime"


def _chosen_folder() -> Path | None:
    chosen = os.environ.get("CODELLAMA_MODELS")
    return Path(chosen) if chosen else None
