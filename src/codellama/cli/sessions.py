"""`codellama sessions`: the conversations that `codellama chat` keeps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.options import json_option
from codellama.cli.streams import printable

if TYPE_CHECKING:
    from codellama.cli.keeper import Kept


@click.group("sessions", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List, show, delete or export the conversations that `chat` keeps.

    They are in XDG_STATE_HOME/codellama/sessions, or ~/.local/state/codellama/sessions. Beside each is the
    model's state, which saves reading it all again. Of conversations without a name only the latest has one.
    """
    if ctx.invoked_subcommand is None:
        _print_list(as_json)


@command.command("list")
@json_option
def list_them(as_json: bool) -> None:
    """List the conversations, the latest last."""
    _print_list(as_json)


@command.command("show")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Print the conversation NAME."""
    from codellama.cli.keeper import SessionFolder

    kept = SessionFolder().find(name)
    if as_json:
        click.echo(json.dumps({**_entry(kept), "messages": kept.messages()}, indent=2))
        return
    for message in kept.messages():
        text = printable(message["content"]).rstrip()
        click.echo(f"> {text}\n" if message["role"] == "user" else f"{text}\n")


@command.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--state-only",
    is_flag=True,
    show_envvar=True,
    help="Delete only the model's state, which is large; going on then reads all of it again.",
)
def delete(names: tuple[str, ...], state_only: bool) -> None:
    """Delete conversations."""
    from codellama.cli.keeper import SessionFolder

    folder = SessionFolder()
    for name in names:
        folder.delete(name, state_only=state_only)


@command.command("export")
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    show_envvar=True,
    help="File to write. [default: standard output]",
)
@click.option(
    "--markdown", is_flag=True, show_envvar=True, help="Markdown for people instead of JSON."
)
def export(name: str, output: Path | None, markdown: bool) -> None:
    """Write the conversation NAME as JSON, as `/load` reads it, or as Markdown."""
    from codellama.cli.keeper import SessionFolder

    kept = SessionFolder().find(name)
    messages = kept.messages()
    if markdown:
        text = "\n".join(f"## {m['role']}\n\n{m['content'].rstrip()}\n" for m in messages)
    else:
        document = {"model": kept.model(), "messages": messages}
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, "utf-8")


def _print_list(as_json: bool) -> None:
    from codellama.cli.keeper import SessionFolder

    folder = SessionFolder()
    entries = [_entry(kept) for kept in folder.all()]
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    if not entries:
        click.echo(f"no conversation is kept in {folder.folder}")
    for entry in entries:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["changed"]))
        state = f"{entry['kv_bytes'] / 1e6:.1f} MB of state" if entry["kv_bytes"] else ""
        click.echo(
            f"{entry['name']:<18} {when} {entry['answers']:>4} answers  {state:<20}".rstrip()
        )
        click.echo(f"    {entry['first']}")


def _entry(kept: Kept) -> dict[str, Any]:
    """What is said of a conversation; one that cannot be read says why."""
    from codellama.errors import InvalidRequestError

    try:
        messages = kept.messages()
    except InvalidRequestError:
        messages, first = [], "(this file is not a saved conversation)"
    else:
        first = next((m["content"] for m in messages if m["role"] == "user"), "")
    return {
        "name": kept.name,
        "path": str(kept.path),
        "changed": kept.changed,
        "kv_bytes": kept.kv_bytes,
        "answers": sum(m["role"] == "assistant" for m in messages),
        "first": _short(first),
    }


def _short(text: str) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= 72 else line[:69] + "..."
