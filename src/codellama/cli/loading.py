"""Loading the MODEL of a command, with a progress bar, for one request at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from codellama.cli import imports
from codellama.cli.options import model_config
from codellama.cli.streams import silent

if TYPE_CHECKING:
    from codellama.llm import LLM
    from codellama.models import HubName


def open_model(name: str, options: Mapping[str, Any]) -> LLM:
    """Load what MODEL stands for; `options` are those of the command."""
    from codellama.cli.outputs import progress_bar

    config = model_config(options, n_seq_max=1)
    path = model_file(name)
    with left_by_ctrl_c(), progress_bar(f"loading {name}") as progress:
        with imports.lasting():
            from codellama.llm import LLM
        return LLM(path, progress=progress, **config)


@contextlib.contextmanager
def left_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C ends the process at once. llama.cpp maps and reads tens of gigabytes in calls that nothing else
    ends, and there is nothing to save yet. Keys are not shown meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, frame: FrameType | None) -> None:
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # which the bar has hidden
        os.write(2, f"{cursor}\nInterrupted while loading.\n".encode())  # not through the bar
        terminal.close()
        os._exit(130)

    before = signal.signal(signal.SIGINT, leave)
    try:
        with contextlib.ExitStack() as terminal:
            terminal.enter_context(silent())
            yield
    finally:
        signal.signal(signal.SIGINT, before)


def model_file(name: str) -> Path:
    """The file that MODEL stands for. A file of a repository that is not here is fetched, with a bar; that
    the demo is being converted is said on stderr."""
    from codellama.models import HubName, find_variant, resolve_model

    hub_name = None if Path(name).exists() or find_variant(name) else HubName.parse(name)
    if hub_name is not None:
        return fetched_model(hub_name)
    return resolve_model(name, lambda text: click.echo(text, err=True))


def fetched_model(name: HubName, revision: str | None = None) -> Path:
    """The GGUF that `name` means, fetched if it is not here."""
    from codellama.cli.outputs import progress_bar
    from codellama.models import obtain

    try:
        with progress_bar(f"fetching {name}") as progress:
            return obtain(name, revision=revision, progress=progress)
    except KeyboardInterrupt:
        click.echo("\nInterrupted: the same command goes on from there.", err=True)
        raise
