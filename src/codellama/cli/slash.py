"""The commands that begin with a slash, each a function of the conversation and the rest of its line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import click
from rich.table import Table
from rich.text import Text

from codellama.cli import clipboard
from codellama.cli.attachments import read_file
from codellama.cli.options import (
    COMMAND_LINE,
    flags_of,
    long_flag,
    sampling_options,
    sampling_params,
)
from codellama.cli.streams import printable
from codellama.cli.talk import Talk
from codellama.errors import InvalidRequestError
from codellama.params import SamplingOptions
from codellama.session import Session

LEAVE = ("/exit", "/quit", "/bye", "exit", "quit")
"""What leaves."""


@dataclass(frozen=True)
class Command:
    """A command: what follows its name, what it does in words, and what its line's rest names."""

    usage: str
    meaning: str
    run: Callable[[Talk, str], None]
    completes: Literal["", "files", "settings"] = ""


def run(talk: Talk, line: str) -> None:
    """Carry out one line that begins with a slash. What is wrong with it is one line."""
    name, _, rest = line.partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        talk.error(f"unknown command {name}; the commands are {', '.join(names())}")
        return
    try:
        command.run(talk, rest.strip())
    except InvalidRequestError as error:
        talk.error(str(error))
    except OSError as error:
        talk.error(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def names() -> list[str]:
    """All commands, also the one that leaves."""
    return [*COMMANDS, "/exit"]


def show_help(talk: Talk, rest: str = "") -> None:
    """The list of commands."""
    lines = {
        f"{name} {command.usage}".strip(): command.meaning for name, command in COMMANDS.items()
    }
    lines["/exit"] = "leave (so does Ctrl-D)"
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for line, meaning in lines.items():
        table.add_row(Text(f"  {line}"), Text(meaning))
    talk.console.print(table)


def _system(talk: Talk, text: str) -> None:
    if not text:
        talk.note(talk.session.system or "There is no system text.")
        return
    _leave_behind(talk)
    talk.session.system = text
    talk.forget_figures()
    talk.note("The system text is set, the conversation starts afresh.")


def _reset(talk: Talk, rest: str) -> None:
    _leave_behind(talk)
    talk.session.reset()
    talk.forget_figures()
    talk.note("The conversation is forgotten.")


def _leave_behind(talk: Talk) -> None:
    """What was said stays on disk, under the name that is told."""
    name = talk.keeper.begin_anew() if talk.keeper is not None else None
    if name is not None:
        talk.note(f"kept: codellama chat --session {name}")


def _undo(talk: Talk, rest: str) -> None:
    question = talk.session.undo()
    talk.keep()
    talk.note(f"Taken back: {_short(question)}")


def _edit(talk: Talk, rest: str) -> None:
    if talk.session.question is None:
        raise InvalidRequestError("there is no question to change")
    talk.begun = talk.session.question


def _regen(talk: Talk, rest: str) -> None:
    talk.regen()


def _stats(talk: Talk, rest: str) -> None:
    talk.stats()


def _save(talk: Talk, rest: str) -> None:
    path = _one_path(rest, "/save FILE")
    talk.session.save(path, kv=True)
    talk.note(f"Saved to {path}; /load {path} goes on with it.")


def _load(talk: Talk, rest: str) -> None:
    path = _one_path(rest, "/load FILE")
    loaded = Session.load(path, talk.session.llm)
    loaded.context_policy = talk.session.context_policy
    _leave_behind(talk)
    talk.session = loaded
    talk.forget_figures()
    talk.keep()
    if loaded.notice is not None:
        talk.note(loaded.notice)
    talk.note(f"{len(loaded.messages)} messages are loaded.")


def _file(talk: Talk, rest: str) -> None:
    for name in _words(rest):
        attachment = read_file(Path(name).expanduser())
        n_tokens = len(talk.session.llm.tokenizer.encode(attachment.text))
        talk.attached.append(attachment)
        talk.note(f"{name}: {attachment.n_lines} lines, {n_tokens} tokens, for the next question")
    if not rest:
        attached = ", ".join(a.name for a in talk.attached)
        talk.note(f"attached: {attached}" if attached else "Nothing is attached: /file PATH...")


def _copy(talk: Talk, rest: str) -> None:
    blocks = talk.blocks()
    text = _block(talk, rest) if rest or blocks else talk.last_answer()
    if not text:
        raise InvalidRequestError("there is no answer to copy")
    by = clipboard.copy(text, talk.console.file)
    talk.note(f"{len(text.splitlines())} lines copied by {by}.")


def _write(talk: Talk, rest: str) -> None:
    words = _words(rest)
    force = "--force" in words
    words = [word for word in words if word != "--force"]
    if len(words) == 1:
        words.insert(0, "")
    if len(words) != 2:
        raise InvalidRequestError("it is /write N FILE: N is the number of a code block")
    text, path = _block(talk, words[0]), Path(words[1]).expanduser()
    if path.exists() and not force:
        raise InvalidRequestError("{path} exists: --force replaces it", path=path)
    path.write_text(text, "utf-8")
    talk.note(f"{len(text.splitlines())} lines written to {path}.")


def _block(talk: Talk, number: str) -> str:
    """The text of code block `number` of the last answer, from 1 on; the last one without a number."""
    blocks = talk.blocks()
    if not blocks:
        raise InvalidRequestError("the last answer has no code block")
    index = int(number) if number.isdecimal() else (0 if number else len(blocks))
    if not 1 <= index <= len(blocks):
        raise InvalidRequestError(
            "the last answer has code blocks 1 to {n}; got {number}", n=len(blocks), number=number
        )
    return blocks[index - 1].text


def _set(talk: Talk, rest: str) -> None:
    name, _, value = rest.partition(" ")
    if not name:
        settings = [f"{k} {v}" for k, v in cast(Mapping[str, Any], talk.sampling).items()]
        talk.note("\n".join(settings) or "Nothing is set: /set temperature 0.7")
        return
    setting = COMMAND_LINE.get(name.replace("-", "_"))
    found = setting or next((s for s in COMMAND_LINE.values() if f"--{name}" in flags_of(s)), None)
    if found is None or found.name not in SamplingOptions.__annotations__:
        raise InvalidRequestError("there is no setting {name!r}; Tab lists them", name=name)
    if not value:
        now = cast(Mapping[str, Any], talk.sampling).get(found.name, found.default_text() or "none")
        talk.note(f"{found.name} {now}: {found.sentence()}")
        return
    rest_of: dict[str, Any] = dict(talk.sampling)
    rest_of.pop(found.name, None)
    if value != "default":
        rest_of[found.name] = _parsed(found.name, long_flag(found), found.kind, value.strip())
    talk.sampling = cast(SamplingOptions, rest_of)
    talk.note(f"{found.name} {value}")


def _parsed(name: str, flag: str, kind: object, value: str) -> object:
    """What the command line makes of `--flag value`. Raises InvalidRequestError."""
    command = click.Command("set", params=[])
    command = cast(click.Command, sampling_options(command))
    words = [flag, value]
    if kind is bool:
        words = [flag if value.lower() in ("on", "true", "yes", "1") else f"--no-{flag[2:]}"]
    try:
        with command.make_context("set", words) as ctx:
            return cast(Mapping[str, Any], sampling_params(ctx.params))[name]
    except click.UsageError as error:
        raise InvalidRequestError("{name}: {why}", name=name, why=error.message) from error


def _context(talk: Talk, rest: str) -> None:
    llm = talk.session.llm
    messages = talk.session.messages
    for message in messages:
        n = len(llm.tokenizer.encode(message["content"]))
        text = _short(message["content"], min(60, talk.console.width - 20))
        talk.note(f"{n:>7} {message['role']:<10} {text}")
    asked = [m for m in messages if m["role"] != "assistant"]
    used = len(llm.chat_prompt([*messages, {"role": "user", "content": ""}]).tokens) if asked else 0
    talk.note(f"context: {used} of {llm.n_ctx} tokens used, {llm.n_ctx - used} left")


def _tokens(talk: Talk, text: str) -> None:
    llm = talk.session.llm
    if text:
        ids: Sequence[int] = llm.tokenizer.encode(text)
    else:
        messages = talk.session.messages or [{"role": "user", "content": "hello"}]
        ids = llm.chat_prompt(messages).tokens
    pieces = (f"{i}:{printable(repr(llm.tokenizer.decode([i])))}" for i in ids)
    talk.note(" ".join(pieces))
    talk.note(f"{len(ids)} tokens")


def _words(rest: str) -> list[str]:
    """The words of a line, in which quotes hold blanks together."""
    try:
        return [word.strip("\"'") for word in shlex.split(rest, posix=os.name == "posix")]
    except ValueError as error:
        raise InvalidRequestError("{reason}", reason=error) from error


def _one_path(rest: str, usage: str) -> Path:
    words = _words(rest)
    if len(words) != 1:
        raise InvalidRequestError("it is {usage}", usage=usage)
    return Path(words[0]).expanduser()


def _short(text: str, most: int = 60) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= most else line[: most - 3] + "..."


COMMANDS: Mapping[str, Command] = {
    "/help": Command("", "this list", show_help),
    "/file": Command("PATH...", "attach files to the next question", _file, "files"),
    "/edit": Command("", "change the last question and ask it again", _edit),
    "/regen": Command("", "answer the last question again", _regen),
    "/undo": Command("", "take back the last question and its answer", _undo),
    "/copy": Command("[N]", "a code block of the last answer, or all of it, to the clipboard", _copy),
    "/write": Command("[N] FILE", "a code block of the last answer to a file", _write, "files"),
    "/save": Command("FILE", "save the conversation to a file", _save, "files"),
    "/load": Command("FILE", "go on with a saved conversation", _load, "files"),
    "/system": Command("TEXT", "set the system text and start afresh; without TEXT: show it", _system),
    "/reset": Command("", "forget the conversation, keep the system text", _reset),
    "/set": Command("NAME VALUE", "change a setting, such as temperature 0.7, or default", _set, "settings"),
    "/context": Command("", "what fills the context", _context),
    "/tokens": Command("[TEXT]", "the tokens of a text, or of the conversation", _tokens),
    "/stats": Command("", "tokens and speeds of this conversation", _stats),
}  # fmt: skip
"""By name."""
