"""Writes COMMANDS.md, the reference of all commands, from the commands themselves.

Options of a group that several commands share, such as how answers are drawn, stand once at the end.

scripts/command_pages.py            rewrite it
scripts/command_pages.py --check    fail if it is out of date (run by scripts/check)
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

PACKAGE = Path(__file__).parents[1] / "src" / "codellama"
PAGE = PACKAGE / "COMMANDS.md"

sys.path.insert(0, str(PACKAGE.parent))

from codellama.cli import GROUPS, main  # noqa: E402
from codellama.cli.options import SettingOption  # noqa: E402
from codellama.cli.questions import SHIPPED  # noqa: E402
from codellama.cli.slash import COMMANDS as SLASH  # noqa: E402

HEAD = """# The commands

Made by `scripts/command_pages.py` from what `--help` says. Every option can also be set by the environment
variable that is shown with it.
"""


def page() -> str:
    """The text of COMMANDS.md."""
    root = click.Context(main, info_name="codellama", **main.context_settings)
    parts = [HEAD]
    shared: dict[str, dict[str, str]] = {}
    for heading, names in GROUPS.items():
        parts.append(f"\n## {heading}\n")
        for name in names:
            command = main.get_command(root, name)
            assert command is not None
            parts += section(command, root, shared, "###")
            parts += conversation() if name == "chat" else []
    parts.append("\n## Settings\n")
    for group, rows in shared.items():
        parts.append(f"\n### {group}\n\n{table(rows.values())}")
    return "".join(parts)


def section(
    command: click.Command, parent: click.Context, shared: dict[str, dict[str, str]], level: str
) -> Iterator[str]:
    """A command and its subcommands; rows of shared settings go to `shared`, by group and flags."""
    ctx = click.Context(command, info_name=command.name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(ctx))
    own: list[str] = []
    groups: list[str] = []
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is None or "--help" in param.opts:
            continue
        if isinstance(param, SettingOption):
            shared.setdefault(param.group, {})[record[0]] = row(*record)
            groups.append(param.group)
        else:
            own.append(row(*record))
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    yield f"\n{level} {ctx.command_path}\n\n```\n{ctx.command_path} {usage}\n```\n\n{plain(text)}\n"
    if own:
        yield f"\n{table(own)}"
    if groups:
        links = ", ".join(f"[{g}](#{anchor(g)})" for g in dict.fromkeys(groups))
        yield f"\nand the settings of: {links}.\n"
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from section(child, ctx, shared, level + "#")


def conversation() -> Iterator[str]:
    """The commands and keys of a conversation."""
    rows = [
        row(f"{name} {command.usage}".strip(), command.meaning) for name, command in SLASH.items()
    ]
    yield "\n#### In a conversation\n\n| command | what it does |\n|---|---|\n" + "".join(rows)
    yield row("/exit", "leave (so does Ctrl-D)")
    names = ", ".join(f"`{path.stem}`" for path in sorted(SHIPPED.glob("*.md")))
    yield (
        "\nTab completes commands, their files and settings. Up brings back earlier questions, Ctrl-R\n"
        "looks for them, Ctrl-X Ctrl-E opens an editor.\n"
        f"\nTemplates for `--template` are {names}. Your own are files `NAME.md` in\n"
        "`~/.config/codellama/templates`, in which `$question` stands for what you add.\n"
    )


def row(flags: str, sentence: str) -> str:
    """A row of a table of options."""
    cells = (f"`{flags}`", plain(sentence))
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |\n"


def table(rows: Iterable[str]) -> str:
    """A table of options."""
    return "| option | what it does |\n|---|---|\n" + "".join(rows)


def plain(text: str) -> str:
    """A text in which nothing is a tag or an emphasis to Markdown."""
    return re.sub(r"([<*])", r"\\\1", text)


def anchor(heading: str) -> str:
    """What a link to a heading is."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def run() -> int:
    """Rewrite or check; the exit code."""
    text = page()
    if PAGE.exists() and PAGE.read_text("utf-8") == text:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{PAGE.name} is out of date: run scripts/command_pages.py", file=sys.stderr)
        return 1
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run())
