"""The demo model: a toy checkpoint in the checkout and in the wheel, converted when it is first used."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from codellama.errors import CheckpointError
from codellama.models.folders import CHECKOUT, cache_folder

DEMO = "demo"
DEMO_TYPE = "Q4_K_M"
IN_CHECKOUT = CHECKOUT / "models" / "demo"
IN_WHEEL = Path(__file__).parent / "demo_checkpoint"
DEMO_CHECKPOINT = IN_CHECKOUT if (IN_CHECKOUT / "config.json").is_file() else IN_WHEEL

logger = logging.getLogger(__name__)


def has_demo() -> bool:
    """Whether there is a demo checkpoint; an installation from elsewhere may have left it out."""
    return (DEMO_CHECKPOINT / "config.json").is_file()


def demo_checkpoint() -> Path:
    """The folder of the demo checkpoint.

    Raises CheckpointError if this installation has none.
    """
    if not has_demo():
        raise CheckpointError(
            f"{DEMO_CHECKPOINT}: no demo checkpoint; it is part of the source checkout and of the wheel"
        )
    return DEMO_CHECKPOINT


def demo_gguf(say: Callable[[str], None] = logger.info) -> Path:
    """The demo model as a GGUF, converted first if the cache has none of this checkpoint.

    Raises CheckpointError if this installation has no demo checkpoint.
    """
    checkpoint = demo_checkpoint()
    from codellama.files.provenance import manifest_path  # with it comes llama.cpp

    folder = cache_folder() / "demo" / _checksum(checkpoint)
    path = folder / f"codellama-demo.{DEMO_TYPE}.gguf"
    if not path.is_file() or not manifest_path(path).is_file():
        say(f"Converting {DEMO} to {DEMO_TYPE} ...")
        _convert_demo(path)
    return path


def _convert_demo(path: Path) -> None:
    """Convert beside the place and move there, so that two demos at once do not meet."""
    from codellama.files.provenance import manifest_path
    from codellama.weights.convert import convert

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        convert(DEMO_CHECKPOINT, made, DEMO_TYPE)
        os.replace(manifest_path(made), manifest_path(path))
        os.replace(made, path)  # last: who finds it finds its manifest too


def _checksum(folder: Path) -> str:
    """A short hash of the names and contents of the files in `folder`."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            digest.update(file.name.encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
