"""The user's folders: where conversations and the history of questions are kept, and own templates.

They are those of the XDG specification; on Windows, without its variables, they are in LOCALAPPDATA.
"""

from __future__ import annotations

import os
from pathlib import Path

NAME = "codellama"


def state_folder() -> Path:
    """XDG_STATE_HOME/codellama: conversations and history. It need not exist."""
    return _folder("XDG_STATE_HOME", ".local/state")


def config_folder() -> Path:
    """XDG_CONFIG_HOME/codellama: the user's templates. It need not exist."""
    return _folder("XDG_CONFIG_HOME", ".config")


def cache_folder() -> Path:
    """XDG_CACHE_HOME/codellama: what can be had again. It need not exist."""
    return _folder("XDG_CACHE_HOME", ".cache")


def _folder(variable: str, below_home: str) -> Path:
    base = os.environ.get(variable) or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / below_home) / NAME
