"""An environment for each client, made on first use and kept: a venv, an npm prefix, or a checkout.

What is made once is left alone as long as the packages in the table are the same.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from clients.table import Client

SCRIPTS = Path(__file__).parents[1]
TRIALS = Path(__file__).with_name("trials")
MADE = "made"


class CannotMakeError(Exception):
    """An environment could not be made; says why."""


def command_for(client: Client, cache: Path, url: str) -> list[str]:
    """What runs a client's trial against the server at `url`. Raises CannotMakeError."""
    folder = cache / client.name.partition(",")[0]
    module = ["-m", f"clients.trials.{client.trial}", url]
    if client.kind == "bodies":
        return [sys.executable, *module]
    if _what_is_there(folder) != list(client.packages):
        _make(client, folder)
    if client.kind == "git":
        return [sys.executable, *module, str(folder / "checkout")]
    if client.kind == "python":
        return [str(folder / "bin" / "python"), "-W", "ignore", *module]
    for name in ("checks", client.trial):  # beside the packages, where node looks for them
        shutil.copy(TRIALS / f"{name}.mjs", folder)
    return ["node", "--no-warnings", str(folder / f"{client.trial}.mjs"), url]


def _what_is_there(folder: Path) -> list[str]:
    made = folder / MADE
    return made.read_text().split() if made.exists() else []


def _make(client: Client, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if client.kind == "python":
        _run(sys.executable, "-m", "venv", str(folder))
        pip = str(folder / "bin" / "pip")
        _run(pip, "install", "-q", "--disable-pip-version-check", *client.packages)
    elif client.kind == "npm":
        (folder / "package.json").write_text('{"private": true}')
        _run("npm", "install", "--silent", "--no-audit", "--no-fund", *client.packages, at=folder)
    else:
        repository, commit = client.packages
        checkout = str(folder / "checkout")
        _run("git", "clone", "-q", repository, checkout)
        _run("git", "-C", checkout, "checkout", "-q", commit)
    (folder / MADE).write_text("\n".join(client.packages))


def _run(*command: str, at: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CannotMakeError(f"there is no {command[0]}") from None
    if done.returncode:
        raise CannotMakeError(f"{' '.join(command[:3])} failed: {done.stderr[-300:]}")
