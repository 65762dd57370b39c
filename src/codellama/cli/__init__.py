"""The `codellama` command: one module per subcommand, imported only when it is needed.

Every command module has a click command named `command`. A known failure becomes one line
`Error: ...` on stderr and exit code 1. Ctrl-C becomes exit code 130, and bad usage (exit code 2) is
left to click. Errors name settings as Python does; here they get the options' spelling. Heavy
packages are imported inside the command functions, so `--help` is instant.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from codellama.cli.streams import Line
from codellama.errors import CodeLlamaError

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Talk and write": ("chat", "sessions", "edit", "complete", "infill", "demo"),
    "Serve": ("serve", "worker"),
    "Get models": ("models", "plan", "pull", "convert", "quantize", "imatrix", "verify"),
    "Look inside": ("doctor", "bench", "inspect", "tokenize", "quality"),
    "This command": ("completion",),
}
"""The subcommands under their headings; each is the module of that name in this package."""

COMMANDS = tuple(name for names in GROUPS.values() for name in names)

INSTEAD = {"help": "--help", "list": "models", "ls": "models", "run": "chat", "download": "pull"}
"""What people type, and what it is here."""

EXTRAS = {"uvicorn": "server", "fastapi": "server", "starlette": "server", "httptools": "server"}
"""Packages that are not always installed, and the extra of this package that brings them."""

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What the system says where output cannot be written: full, over a quota, too large, broken."""

logger = logging.getLogger("codellama")


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The subcommands under their headings."""
        for heading, names in GROUPS.items():
            found = {name: self.get_command(ctx, name) for name in names}
            rows = [(n, c.get_short_help_str(70)) for n, c in found.items() if c is not None]
            with formatter.section(heading):
                formatter.write_dl(rows, col_max=12)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand; for one that is none, what it is called here."""
        if args[0] in INSTEAD:
            ctx.fail(f"there is no command {args[0]!r}; it is `{ctx.info_name} {INSTEAD[args[0]]}`")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            raise click.ClickException(
                f"{error.name} is not installed: pip install 'codellama-runtime[{extra}]'"
            ) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None
        except CodeLlamaError as error:
            logger.debug("%s", error, exc_info=True)
            command = self.get_command(ctx, ctx.invoked_subcommand or "") or self
            raise click.ClickException(error.spelled(option_names(command))) from error
        except OSError as error:
            if error.errno == errno.EPIPE or error.filename is None:
                raise  # a closed pipe is click's to end quietly; for the rest see `main`
            logger.debug("%s", error, exc_info=True)
            raise click.ClickException(f"{error.filename}: {error.strerror}") from error

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command line. Output that cannot be written, such as to a full disk, is one line too."""
        _write_what_can_be_written()
        try:
            try:
                return super().main(*args, **extra)
            finally:
                sys.stdout.flush()  # here, where its failure can be told
        except OSError as error:
            if error.filename is not None or error.errno not in UNWRITABLE:
                raise
            _abandon_output()
            click.echo(f"Error: the output cannot be written: {error.strerror}", err=True)
            sys.exit(1)


def _write_what_can_be_written() -> None:
    """A character that standard output has not, as in a code page of Windows, becomes a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _abandon_output() -> None:
    """What is left in the buffer of standard output goes nowhere: writing it would fail again at the end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def option_names(command: click.Command) -> dict[str, str]:
    """How `command` spells each setting: the first long flag of the option that sets it."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    flags = {option.name: [o for o in option.opts if o.startswith("--")] for option in options}
    return {name: long[0] for name, long in flags.items() if name and long}


def spelled(error: CodeLlamaError, more: Mapping[str, str] | None = None) -> str:
    """The error's text as the running command says it; `more` are names that its options lack."""
    ctx = click.get_current_context(silent=True)
    return error.spelled((option_names(ctx.command) if ctx else {}) | dict(more or {}))


class StderrHandler(logging.Handler):
    """Log records as lines on what stderr is at that moment: above a bar if there is one, and not in the
    middle of an answer's `line`."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        before = "\n" if self._line.is_open else ""
        self._line.is_open = False
        sys.stderr.write(f"{before}{self.format(record)}\n")


def set_level(ctx: click.Context, log: logging.Logger, level: int) -> None:
    """Let `log` say what is of this level or above, until the command ends."""
    ctx.call_on_close(partial(log.setLevel, log.level))
    log.setLevel(level)


def log_to_stderr(ctx: click.Context, level: int) -> None:
    """Show this package's log (llama.cpp's is part of it) on stderr until the command ends."""
    handler = StderrHandler(Line.of_command())
    logger.addHandler(handler)
    ctx.call_on_close(partial(logger.removeHandler, handler))
    set_level(ctx, logger, level)


@click.group(
    cls=LazyGroup,
    name="codellama",
    context_settings={
        "auto_envvar_prefix": "CODELLAMA",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(package_name="codellama-runtime", prog_name="codellama")
@click.option(
    "-v",
    "--verbose",
    count=True,
    show_envvar=True,
    help="Show the log and tracebacks; twice (-vv): what llama.cpp says of every step, too.",
)
@click.pass_context
def main(ctx: click.Context, verbose: int) -> None:
    """Run Meta's Code Llama models on this machine, CodeLlama-70b-Instruct first.

    MODEL is a .gguf file, the name of a published model or of a file in a models folder (see
    `codellama models`), or `demo`. NAME:TYPE, such as 70b-instruct:Q8_0, chooses between several
    files of a model. Every option can be set by the environment variable shown with it.
    """
    log_to_stderr(ctx, logging.DEBUG if verbose else logging.WARNING)
    if verbose == 1:  # hundreds of lines of debugging for each request would hide all others
        set_level(ctx, logging.getLogger("codellama.llama_cpp"), logging.INFO)
