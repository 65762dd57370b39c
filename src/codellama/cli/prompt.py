"""Reading what the user types: several lines, history, paste.

Enter sends. Alt-Enter, a backslash at the end of the line, or a block in triple quotes goes on in
the next line; a paste may hold any number of lines. Ctrl-C drops the line, a second one or Ctrl-D
leaves (EOFError).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.shortcuts import CompleteStyle, print_formatted_text

QUOTES = '"""'
LEAVE_HINT = "(Ctrl-C again or Ctrl-D leaves)"


class PromptReader:
    """Reads one message per call. `commands` are completed by Tab."""

    def __init__(
        self,
        history: History,
        commands: Sequence[str] = (),
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._output = output
        self._session: PromptSession[str] = PromptSession(
            [("bold fg:ansigreen", "> ")],
            multiline=True,
            prompt_continuation="  ",
            history=history,
            key_bindings=key_bindings(),
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            reserve_space_for_menu=0,
            input=input,
            output=output,
        )

    def __call__(self) -> str:
        """The next message; EOFError when the user leaves."""
        try:
            return message_of(self._session.prompt())
        except KeyboardInterrupt:
            print_formatted_text(LEAVE_HINT, output=self._output)
        try:
            return message_of(self._session.prompt())
        except KeyboardInterrupt:
            raise EOFError from None


def key_bindings() -> KeyBindings:
    """Enter and Alt-Enter as described above."""
    bindings = KeyBindings()

    @bindings.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif in_open_block(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def in_open_block(text: str) -> bool:
    """Whether the text begins a triple-quoted block that has not ended."""
    text = text.strip()
    return text.startswith(QUOTES) and not (text.endswith(QUOTES) and len(text) >= 2 * len(QUOTES))


def message_of(text: str) -> str:
    """The message without surrounding space and without the quotes of a block."""
    text = text.strip()
    if text.startswith(QUOTES) and not in_open_block(text):
        return text[len(QUOTES) : -len(QUOTES)].strip("\n")
    return text


def open_history() -> History:
    """The chat history in the user's state folder; in memory only where that cannot be written."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "codellama" / "chat_history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.open("a").close()
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
