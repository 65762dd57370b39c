"""`codellama completion`: what a shell needs to complete commands, options, models and files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")

_PLACES: Mapping[str, tuple[str, str, str]] = {
    "bash": ("XDG_DATA_HOME", ".local/share", "bash-completion/completions/codellama"),
    "zsh": ("ZDOTDIR", "", ".zfunc/_codellama"),
    "fish": ("XDG_CONFIG_HOME", ".config", "fish/completions/codellama.fish"),
}
"""Where a user's own completions are: a variable, what stands for it in the home folder, the file."""

_HINTS: Mapping[str, str] = {
    "bash": "a new shell has it, if the package bash-completion is installed",
    "zsh": "put `fpath+=~/.zfunc; autoload -Uz compinit; compinit` into ~/.zshrc",
    "fish": "a new shell has it",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.option(
    "--install", is_flag=True, show_envvar=True, help="Put it where the shell looks, for this user."
)
def command(shell: str, install: bool) -> None:
    """Print what makes SHELL complete this command, or install it.

    For one session: eval "$(codellama completion bash)".
    """
    script = completion_script(shell)
    if not install:
        click.echo(script)
        return
    path = place(shell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script, "utf-8")
    click.echo(f"{path}: written; {_HINTS[shell]}")


def completion_script(shell: str) -> str:
    """What the shell has to run."""
    from codellama.cli import main

    kind = get_completion_class(shell)
    assert kind is not None, "click completes for these shells"
    script = kind(main, {}, "codellama", "_CODELLAMA_COMPLETE").source()
    # In click 8.5 a comma divides what a completion is from itself; those in a text are not meant.
    return script.replace('string split ","', 'string split --max 1 ","')


def place(shell: str) -> Path:
    """The file that the shell reads for this user."""
    variable, below_home, name = _PLACES[shell]
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / below_home) / name
