#!/usr/bin/env python3
"""Try the clients that people have on `codellama serve`: each unmodified, in an environment of its own.

    try_clients.py                    all of them, on the demo model
    try_clients.py openai-3 aider     these only
    try_clients.py --list             which there are, and in which version
    try_clients.py --record FILE      also write what they sent, for tests/data/client_bodies.json

An environment is made when it is first needed (pip, npm or git, a network) and kept. Printed is a table with
a row for each client: "works", or what did not. The exit status is 1 if something did not. llama.vim needs
vim and tmux, JavaScript needs node and npm, aider needs git.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from clients.environments import SCRIPTS, CannotMakeError, command_for
from clients.recorder import Asked, recording
from clients.server import serving
from clients.shorten import shortened, without_repeats
from clients.table import CLIENTS, Client

LONGEST_S = 900
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "codellama-runtime/clients"
NO_NETWORK = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


@dataclass
class Row:
    """What came of a client: what it did, and what went wrong where."""

    client: str
    version: str
    did: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """One cell of the table."""
        if self.did and not self.wrong:
            return "works"
        return "; ".join(f"{name}: {why}" for name, why in self.wrong.items()) or "did nothing"


def attempt(client: Client, server: str, cache: Path) -> tuple[Row, list[Asked]]:
    """Try one client; also what it asked."""
    row = Row(client.name, client.version)
    with recording(server, client.port) as (recorder, url), tempfile.TemporaryDirectory() as home:
        try:
            command = command_for(client, cache, url)
            done = subprocess.run(
                command,
                cwd=home,
                env=os.environ | NO_NETWORK | {"HOME": home, "PYTHONPATH": str(SCRIPTS)},
                capture_output=True,
                text=True,
                timeout=LONGEST_S,
                check=False,
            )
        except (CannotMakeError, subprocess.TimeoutExpired) as error:
            row.wrong["trial"] = str(error)
            return row, []
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name":')]
    for line in lines:
        row.did.append(line["name"])
        if line["wrong"]:
            row.wrong[line["name"]] = line["wrong"]
    if done.returncode or not lines:
        row.wrong["trial"] = done.stderr[-300:]
    return row, recorder.asked


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| client | version | what it did | |", "|---|---|---|---|"]
    for row in rows:
        did = ", ".join(name.replace("_", " ") for name in row.did)
        verdict = row.verdict.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {row.client} | {row.version} | {did} | {verdict} |")
    return "\n".join(lines)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="Say which clients there are, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, no table.")
@click.option("--record", type=click.Path(path_type=Path), help="Write what clients sent to FILE.")
@click.option(
    "--model", default="demo", show_default=True, help="What is served: an Instruct model."
)
@click.option(
    "--cache", type=click.Path(path_type=Path), default=CACHE, help="Folder of the environments."
)
def main(
    names: tuple[str, ...],
    listing: bool,
    as_json: bool,
    record: Path | None,
    model: str,
    cache: Path,
) -> None:
    """Try clients on `codellama serve`."""
    known = {client.name: client for client in CLIENTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"there is no {unknown[0]}; there are {', '.join(known)}")
    if listing:
        click.echo("\n".join(f"{c.name} {c.version}" for c in CLIENTS))
        return
    rows: list[Row] = []
    sent: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, serving(model, Path(folder) / "log") as server:
        for name in names or known:
            row, asked = attempt(known[name], server, cache)
            rows.append(row)
            if known[name].kind != "bodies":  # those are kept already
                sent += shortened(row.client, row.version, asked)
            click.echo(f"{row.client}: {row.verdict}", err=True)
    if record is not None:
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in without_repeats(sent))
        record.write_text(f"[\n{lines}\n]\n", "utf-8")
    click.echo(json.dumps([asdict(row) for row in rows]) if as_json else table(rows))
    sys.exit(any(row.verdict != "works" for row in rows))


if __name__ == "__main__":
    main()
