"""`codellama demo`: the whole path on the shipped checkpoint: convert, load, ask, answer."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import click

from codellama.errors import CheckpointError

QUESTION = "Print a hello world in Python"
TYPE = "Q4_K_M"
MAX_TOKENS = 200
CHECKPOINT = Path(__file__).resolve().parents[3] / "models" / "demo"
"""The demo checkpoint of the source checkout this package was installed from."""


@click.command("demo")
@click.option(
    "-p", "--prompt", default=QUESTION, show_default=True, show_envvar=True, help="What to ask."
)
def command(prompt: str) -> None:
    """Convert the demo checkpoint and ask it one question.

    This is the whole path: the checkpoint becomes a Q4_K_M file, the file is loaded, the answer is
    printed as it comes, then the speeds.

    The converted file is kept in the user's cache folder and made again when the checkpoint
    changes.
    """
    from codellama.cli.streams import speeds, stream_text
    from codellama.llm import LLM
    from codellama.session import Session

    path = demo_gguf()
    with LLM(path, n_seq_max=1) as llm:
        click.echo(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)", err=True)
        click.echo(f"> {prompt}", err=True)
        answer = Session(llm).ask(prompt, temperature=0.0, max_tokens=MAX_TOKENS)
        stream_text(answer)
        click.echo(speeds(answer.usage, answer.timings), err=True)


def demo_gguf() -> Path:
    """The demo model as a GGUF, converted first if the cache has none of this checkpoint.

    Raises CheckpointError if this is no source checkout, which alone has the checkpoint.
    """
    if not (CHECKPOINT / "config.json").is_file():
        raise CheckpointError(
            f"{CHECKPOINT}: no demo checkpoint; it is part of the source checkout, from which "
            "`scripts/setup` installs"
        )
    folder = cache_folder() / "demo" / fingerprint(CHECKPOINT)
    path = folder / f"codellama-demo.{TYPE}.gguf"
    if not path.is_file():
        _convert(path)
    return path


def _convert(path: Path) -> None:
    """Convert beside the place and move there, so that two demos at once do not meet."""
    from codellama.weights.convert import convert

    path.parent.mkdir(parents=True, exist_ok=True)
    click.echo(f"Converting {CHECKPOINT.name} to {TYPE} ...", err=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        convert(CHECKPOINT, Path(scratch) / path.name, TYPE)
        os.replace(Path(scratch) / path.name, path)


def cache_folder() -> Path:
    """This package's folder in the user's cache (XDG_CACHE_HOME)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "codellama-runtime"


def fingerprint(folder: Path) -> str:
    """A short hash of the names and contents of the files in `folder`."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            digest.update(file.name.encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
